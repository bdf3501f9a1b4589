from __future__ import annotations

import random
import zipfile

import pytest

from fedclient import limits
from fedclient.errors import ModelError
from fedclient.model.document import Document
from fedclient.model.packaged import METADATA_NAME, Packaged, Preprocessing, read_packaged
from tests.model.packages import archive, described, with_metadata

LABELS = b"cat\ndog\n\xc3\xa9l\xc3\xa9phant\n"
NAMES = ("cat", "dog", "éléphant")


def read(data: bytes, files: dict[str, bytes] | None = None, **options) -> Packaged:
    return read_packaged(with_metadata(data, files, **options), {METADATA_NAME: data})


def test_a_model_that_says_nothing_is_empty():
    assert read_packaged(b"whatever", {}) == Packaged()
    assert read(described()) == Packaged()


@pytest.mark.parametrize(
    ("mean", "std", "scale", "offset"),
    [
        ((127.5,), (127.5,), (1 / 127.5,), (-1.0,)),
        ((0.0,), (1.0,), (1.0,), (0.0,)),
        ((1.0, 2.0, 3.0), (2.0,), (0.5, 0.5, 0.5), (-0.5, -1.0, -1.5)),
        ((1.0,), (2.0, 4.0), (0.5, 0.25), (-0.5, -0.25)),
    ],
)
def test_normalisation_becomes_scale_and_offset(mean, std, scale, offset):
    assert read(described(mean, std)).preprocessing == Preprocessing(scale=scale, offset=offset)


def test_the_range_of_the_input_is_a_remark():
    assert read(described(stats=(-1, 1))).input_range == (-1, 1)
    for senseless in ((1, -1), (0, float("inf")), (float("nan"), 1)):
        assert read(described(stats=senseless)).input_range is None


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_labels_are_in_the_archive_behind_the_model(compression):
    files = {"other.txt": b"no", "labels.txt": LABELS}
    assert read(described(labels="labels.txt"), files, compression=compression).labels == NAMES


def test_the_model_is_the_same_with_an_archive_behind_it():
    model = with_metadata(described(labels="labels.txt"), {"labels.txt": LABELS})
    metadata = Document.read(model).metadata
    assert read_packaged(model, metadata).labels == NAMES


def test_real_metadata_is_read(shared):
    model = (shared / "models" / "mobilenet_v2_035_96_embedder_with_metadata.tflite").read_bytes()
    found = read_packaged(model, Document.read(model).metadata)
    assert found == Packaged(
        preprocessing=Preprocessing(scale=(1 / 127.5,), offset=(-1.0,)), input_range=(-1.0, 1.0)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (described((1.0,), (0.0,)), "std of its normalisation is 0"),
        (described((float("nan"),), (1.0,)), "finite"),
        (described((1.0, 2.0), (1.0, 2.0, 3.0)), "same number"),
        (described((1.0,), ()), "same number"),
        (b"\0" * 8, "version M001"),
        (described()[:4] + b"M001" + b"\xff" * 64, "damaged"),
        (described() + bytes(limits.MAX_PACKAGED_BYTES), "too large"),
    ],
)
def test_senseless_metadata_is_refused(data, message):
    with pytest.raises(ModelError, match=message):
        read_packaged(b"", {METADATA_NAME: data})


def bomb() -> bytes:
    return archive({"labels.txt": bytes(limits.MAX_PACKAGED_BYTES + 1)}, zipfile.ZIP_DEFLATED)


def encrypted() -> bytes:
    data = bytearray(archive({"labels.txt": LABELS}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def huge_directory() -> bytes:
    data = bytearray(archive({"labels.txt": LABELS}))
    data[-10:-6] = (limits.MAX_PACKAGED_BYTES + 1).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"", "archive of its files is not there"),
        (b"PK\x05\x06", "archive of its files is not there"),
        (archive({}), "'labels.txt' is not there"),
        (archive({"labels.txt": LABELS}, zipfile.ZIP_BZIP2), "unusual"),
        (bomb(), "too large"),
        (encrypted(), "encrypted"),
        (huge_directory(), "too large"),
        (archive({"labels.txt": LABELS}).replace(b"dog", b"dig"), "does not open"),
        (archive({"labels.txt": LABELS})[:30] + archive({"labels.txt": LABELS})[60:], "damaged"),
    ],
)
def test_a_damaged_archive_is_refused(tail, message):
    data = described(labels="labels.txt")
    with pytest.raises(ModelError, match=message):
        read_packaged(with_metadata(data) + tail, {METADATA_NAME: data})


def test_labels_that_no_manifest_can_carry_are_left_out():
    for text in (b"crane\ncrane\n", b"a" * 65, b"\xff\xfe", b"one\n\ntwo", b"bell\x07"):
        assert read(described(labels="l"), {"l": text}).labels == ()


def test_no_damage_gets_out_as_another_error():
    data = described((127.5,), (127.5,), (-1, 1), "labels.txt")
    model = with_metadata(data, {"labels.txt": LABELS}, compression=zipfile.ZIP_DEFLATED)
    draw, refused = random.Random(1), 0
    for _ in range(2000):
        tail = bytearray(model[-200:])
        broken = bytearray(data)
        for victim in (tail, broken):
            for _ in range(draw.randrange(3)):
                victim[draw.randrange(len(victim))] = draw.randrange(256)
        try:
            read_packaged(model[:-200] + tail, {METADATA_NAME: bytes(broken)})
        except ModelError:
            refused += 1
    assert refused > 200
