"""The tuned head: for one adopted head, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fedclient import storage
from fedclient.device.slots import Slot
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import StorageError
from fedclient.values import HeadVersion

HEAD = bytes(range(60)) + b"\n\n"  # a line's end within it is nothing special
SLOT = Slot(
    version=HeadVersion(1, 4), labels=(), model_file="m.tflite", model_sha256="a" * 64,
    head_file="h.head", head_sha256="b" * 64,
)  # fmt: skip
TUNED = Tuned(
    generation=1, version=4, adopted_sha256="b" * 64, head_sha256=hashlib.sha256(HEAD).hexdigest(),
    samples_epoch=2**44, holdout=31, accuracy=0.9, adopted_accuracy=0.7,
)  # fmt: skip


@pytest.fixture
def head(tmp_path: Path) -> TunedHead:
    return TunedHead(tmp_path)


def test_it_comes_back_whole(head, tmp_path) -> None:
    assert head.stored() is head.beside(SLOT) is head.read(SLOT) is None
    head.save(TUNED, b"earlier")
    head.save(TUNED, HEAD)
    assert head.read(SLOT) == (TUNED, HEAD)
    assert head.stored() == head.beside(SLOT) == TUNED
    assert len(list(tmp_path.iterdir())) == 1


def test_apps_of_the_group_may_read_it(head, tmp_path) -> None:
    before = os.umask(0o077)
    try:
        head.save(TUNED, HEAD)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_it_is_written_again_where_the_agent_swept_the_folder_meanwhile(head, tmp_path, monkeypatch) -> None:
    swept: list[int] = []
    fsync = os.fsync

    def sweep_then_sync(descriptor: int) -> None:
        if len(swept) < times:
            swept.append(storage.sweep(tmp_path))
        fsync(descriptor)

    monkeypatch.setattr("fedclient.storage.os.fsync", sweep_then_sync)
    times = 2
    head.save(TUNED, HEAD)
    assert swept == [1, 1]
    assert head.read(SLOT) == (TUNED, HEAD)
    times = 100  # something else is wrong
    with pytest.raises(StorageError):
        head.save(TUNED, HEAD)
    assert len(swept) == 5


@pytest.mark.parametrize(
    "changed",
    [{"version": HeadVersion(1, 5)}, {"version": HeadVersion(2, 4)}, {"head_sha256": "c" * 64}],
    ids=["the next version", "another generation", "other bytes"],
)
def test_it_stands_for_no_other_head(head, changed) -> None:
    head.save(TUNED, HEAD)
    other = replace(SLOT, **changed)
    assert head.beside(other) is head.read(other) is None
    assert head.stored() == TUNED  # whoever falls back to its head has it again


def test_nobody_waits_for_a_pipe_in_its_place(head, tmp_path) -> None:
    os.mkfifo(tmp_path / "personal")
    assert head.stored() is None
    assert head.read(SLOT) is None


def test_a_removed_one_is_gone(head) -> None:
    head.save(TUNED, HEAD)
    head.remove()
    head.remove()
    assert head.read(SLOT) is None


def test_flipped_or_cut_at_any_byte_it_is_not_read(head, tmp_path) -> None:
    head.save(TUNED, HEAD)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for at in range(start, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert head.read(SLOT) is None
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        assert head.read(SLOT) is None


FIELDS = asdict(TUNED)


@pytest.mark.parametrize(
    "line",
    [
        "", "{", "[]", "7", '"x"', "null", "\xff", "[" * 2000, "x" * 5000,
        json.dumps({**FIELDS, "more": 1}), json.dumps({**FIELDS, "version": "4"}),
        json.dumps({**FIELDS, "version": True}), json.dumps({**FIELDS, "accuracy": None}),
        json.dumps({**FIELDS, "head_sha256": 4}),
        json.dumps({name: FIELDS[name] for name in list(FIELDS)[1:]}),
    ],
)  # fmt: skip
def test_a_damaged_header_is_as_good_as_none(head, tmp_path, line) -> None:
    head.save(TUNED, HEAD)
    (path,) = tmp_path.iterdir()
    path.write_bytes(line.encode("latin-1") + b"\n" + HEAD)
    assert head.stored() is head.read(SLOT) is None


def test_what_cannot_be_read_leaves_the_adopted_head_and_says_so(head, tmp_path, caplog) -> None:
    (tmp_path / "personal").mkdir()
    assert head.stored() is head.read(SLOT) is None
    assert str(tmp_path) in caplog.text
    with pytest.raises(StorageError):
        head.remove()
