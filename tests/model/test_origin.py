from __future__ import annotations

import json

import pytest

from fedclient import limits
from fedclient.errors import ModelError
from fedclient.model.head import METADATA_NAME, write_head
from fedclient.model.origin import Input, Origin, Parent, read_origin
from fedclient.model.packaged import Preprocessing
from fedclient.model.tap import Tap
from fedclient.model.writer import ModelWriter

ORIGIN = Origin(
    tap=Tap(name="mean", index=3, shape=(-1, 7, 7, 6), dtype="int8", why="it is", averaged=True, features=6),
    tap_scale=(0.5,),
    tap_zero_point=(-3,),
    labels=("cat", "dog"),
    preprocessing=Preprocessing(scale=(0.5,), offset=(-1.0,)),
    input=Input(index=0, range=(-1.0, 1.0), scale=(0.25,), zero_point=(1,)),
    parent=Parent(sha256="ab" * 32, bytes=99),
)
PLAIN = Origin(
    tap=Tap(name="x", index=0, shape=(1, 2), dtype="float32", why="", features=2),
    tap_scale=(), tap_zero_point=(), labels=(), preprocessing=None,
    input=Input(index=0), parent=Parent(sha256="0" * 64, bytes=0),
)  # fmt: skip


def file_with(told: object) -> bytes:
    writer = ModelWriter("a file")
    writer.graph("main")
    writer.metadata(METADATA_NAME, told if isinstance(told, bytes) else json.dumps(told).encode())
    return writer.to_bytes()


@pytest.mark.parametrize("origin", [ORIGIN, PLAIN])
def test_what_is_written_is_read(origin):
    assert read_origin(file_with({"version": 2} | origin.as_json())) == origin


def test_a_head_alone_and_a_stranger_have_no_origin():
    assert read_origin(write_head(4, 3)) is None
    stranger = ModelWriter("a stranger")
    stranger.graph("main")
    assert read_origin(stranger.to_bytes()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tap": {}},
        {"tap": ORIGIN.as_json()["tap"] | {"index": "3"}},
        {"tap": ORIGIN.as_json()["tap"] | {"index": 1.5}},
        {"tap": ORIGIN.as_json()["tap"] | {"name": 3}},
        {"tap": ORIGIN.as_json()["tap"] | {"surplus": 3}},
        {"tap": ORIGIN.as_json()["tap"] | {"why": "\x1b[2J"}},
        {"tap": ORIGIN.as_json()["tap"] | {"dtype": "int8\n"}},
        {"surplus": "x" * limits.MAX_PACKAGED_BYTES},
        {"tap": ORIGIN.as_json()["tap"] | {"averaged": "yes"}},
        {"tap": ORIGIN.as_json()["tap"] | {"features": 0}},
        {"tap": [1]},
        {"tap_scale": ["x"]},
        {"tap_scale": [float("nan")]},
        {"tap_scale": [1.0, 2.0]},
        {"tap_zero_point": []},
        {"tap_zero_point": [0.5]},
        {"labels": ["cat", "cat"]},
        {"labels": ["cat", 3]},
        {"labels": 3},
        {"preprocessing": {"scale": [1.0]}},
        {"preprocessing": "none"},
        {"input": {"index": 0}},
        {"input": ORIGIN.as_json()["input"] | {"range": [1.0]}},
        {"parent": {"sha256": "x", "bytes": 1}},
        {"parent": {"sha256": 7, "bytes": 1}},
        {"parent": None},
    ],
)
def test_what_nobody_wrote_is_damaged(change):
    with pytest.raises(ModelError, match="the metadata 'fedclient' in the file is damaged"):
        read_origin(file_with(ORIGIN.as_json() | change))


@pytest.mark.parametrize("told", [b"", b"[", b"[]", b"3", b"\xff", b'"tap"', b"[" * 100_000])
def test_what_is_no_object_is_damaged(told):
    with pytest.raises(ModelError, match="damaged"):
        read_origin(file_with(told))
