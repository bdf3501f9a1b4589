"""The two slots of `current/`: whole before and after, and a way back."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fedclient.device.slots import Slots
from fedclient.errors import NoModelYet, StorageDamaged
from fedclient.values import BlobRef, HeadVersion
from fedclient.wire.blobs import split
from tests.wire.golden import MANIFEST

MODEL = b"a model"


def head(version: int) -> bytes:
    return b"head %d" % version


def manifest(version: int, model: bytes = MODEL):
    return replace(
        MANIFEST,
        head_version=HeadVersion(1, version),
        model=split(model).ref,
        head=BlobRef(hash=split(head(version)).ref.hash, size=6),
    )


def adopt(slots: Slots, *versions: int) -> None:
    for version in versions:
        slots.adopt(manifest(version), MODEL, head(version))


@pytest.fixture
def slots(tmp_path) -> Slots:
    return Slots(tmp_path)


def test_before_the_first_head_there_is_none(slots) -> None:
    assert slots.active() is None
    assert slots.fall_back(HeadVersion(1, 1)) is None
    with pytest.raises(NoModelYet):
        slots.read()


def test_the_adopted_head_is_read(slots, tmp_path) -> None:
    adopt(slots, 1, 2)
    slot, model, found = slots.read()
    assert (slot.version, slot.labels, model, found) == (HeadVersion(1, 2), MANIFEST.labels, MODEL, head(2))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o660}


def test_adopting_twice_changes_nothing(slots) -> None:
    adopt(slots, 1, 2, 2)
    assert slots.is_active(manifest(2))
    back = slots.fall_back(HeadVersion(1, 2))
    assert back is not None
    assert back.version == HeadVersion(1, 1)


def test_a_head_of_the_same_version_with_other_content_is_another(slots) -> None:
    adopt(slots, 1)
    assert not slots.is_active(replace(manifest(1), head=split(b"other").ref))


def test_only_the_files_of_two_slots_stay(slots, tmp_path) -> None:
    adopt(slots, 1, 2, 3, 4)
    assert len(list(tmp_path.glob("*.head"))) == 2
    assert len(list(tmp_path.glob("*.tflite"))) == 1


def test_the_way_back_is_taken_once(slots) -> None:
    adopt(slots, 1, 2)
    for _ in range(2):
        back = slots.fall_back(HeadVersion(1, 2))
        assert back is not None
        assert back.version == HeadVersion(1, 1)
    assert slots.read()[2] == head(1)
    assert slots.fall_back(HeadVersion(1, 9)) == back  # not the active one: nothing to do


def test_where_the_active_slot_is_damaged_the_previous_one_serves(slots, tmp_path) -> None:
    adopt(slots, 1, 2)
    (tmp_path / "current.json").write_text("{}")
    assert slots.read()[0].version == HeadVersion(1, 1)
    adopt(slots, 1, 2)
    active = slots.active()
    assert active is not None
    (tmp_path / active.head_file).write_bytes(b"damage")
    assert slots.read()[0].version == HeadVersion(1, 1)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '{"version": [1]}', '{"version": 1, "labels": []}', "{"]
)
def test_a_damaged_slot_is_as_good_as_none(slots, tmp_path, text) -> None:
    (tmp_path / "current.json").write_text(text)
    assert slots.active() is None


def test_damaged_slots_are_no_absent_ones(slots, tmp_path) -> None:
    adopt(slots, 1, 2)
    for path in tmp_path.glob("*.json"):
        path.write_bytes(b"damage!")
    with pytest.raises(StorageDamaged, match=r"current\.json is not what was written"):
        slots.read()


def test_damaged_files_are_reported_and_mended_by_the_next_head(slots, tmp_path) -> None:
    adopt(slots, 1, 2)
    for path in tmp_path.glob("*.tflite"):
        path.write_bytes(b"damage!")
    with pytest.raises(StorageDamaged):
        slots.read()
    adopt(slots, 3)
    assert slots.read()[1:] == (MODEL, head(3))


def test_what_a_power_cut_left_half_written_goes_with_the_next_head(slots, tmp_path) -> None:
    (tmp_path / f".{'0' * 32}.tflite.0123456789ab.tmp").write_bytes(MODEL)
    adopt(slots, 1)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("pattern", ["*.json", "*.head", "*.tflite"])
def test_nobody_waits_for_a_pipe_in_the_shared_folder(slots, tmp_path, pattern) -> None:
    adopt(slots, 1)
    for path in tmp_path.glob(pattern):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(StorageDamaged):
        slots.read()
    for path in tmp_path.glob(pattern):  # with somebody at its other end
        writer = os.open(path, os.O_RDWR)
        with pytest.raises(StorageDamaged):
            slots.read()
        os.close(writer)
    adopt(slots, 1)
    assert slots.read()[0].version == HeadVersion(1, 1)


def test_what_others_put_into_the_shared_folder_is_in_nobodys_way(slots, tmp_path) -> None:
    (tmp_path / "mine.head").mkdir()
    adopt(slots, 1, 2)
    assert slots.read()[0].version == HeadVersion(1, 2)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"version": [1, 2], "labels": [], "model_file": 5}', "../../keys/device.key"]
)
def test_a_strange_slot_is_as_good_as_none(slots, tmp_path, text) -> None:
    adopt(slots, 1, 2)
    sound = (tmp_path / "current.json").read_text()
    if text.startswith(".."):
        text = sound.replace(slots.active().head_file, text)
    (tmp_path / "current.json").write_text(text)
    assert not slots.is_active(manifest(2))
    assert slots.read()[0].version == HeadVersion(1, 1)
    adopt(slots, 2)
    assert slots.read()[0].version == HeadVersion(1, 2)


def test_a_slot_whose_names_are_numbers_is_damaged(slots, tmp_path) -> None:
    adopt(slots, 1)
    path = tmp_path / "current.json"
    path.write_text(path.read_text().replace(f'"{slots.active().head_file}"', "5"))
    assert not slots.is_active(manifest(1))
