from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import ModelError
from fedclient.model.head import METADATA_NAME, metadata, write_head
from fedclient.model.reader import read_metadata

HEAD = write_head(4, 3, 2)


def test_metadata_is_read_back():
    assert read_metadata(HEAD, METADATA_NAME) == metadata(2)
    assert read_metadata(HEAD, "other") is None


def test_files_of_others_have_none_of_ours(shared):
    for name in ("training_model", "hello_world_float", "mobilenet_v2_035_96_embedder_with_metadata"):
        model = (shared / f"models/{name}.tflite").read_bytes()
        assert read_metadata(model, METADATA_NAME) is None
        assert read_metadata(model, "min_runtime_version")


@given(st.binary(max_size=200))
def test_any_bytes_are_metadata_or_a_model_error(data):
    with contextlib.suppress(ModelError):
        read_metadata(data, METADATA_NAME)


def test_every_truncation_and_flip_is_metadata_or_a_model_error():
    for at in range(0, len(HEAD), 3):
        for damaged in (HEAD[:at], HEAD[:at] + bytes([HEAD[at] ^ 0xFF]) + HEAD[at + 1 :]):
            with contextlib.suppress(ModelError):
                read_metadata(damaged, METADATA_NAME)


def test_a_vector_beyond_the_end_is_refused():
    at = HEAD.index(metadata(2)) - 4
    with pytest.raises(ModelError, match="beyond its end"):
        read_metadata(HEAD[:at] + b"\xff\xff\xff\x0f" + HEAD[at + 4 :], METADATA_NAME)
