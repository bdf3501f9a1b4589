from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from fedclient import limits
from fedclient.cli.model_file import check_new, read_labels, read_model, read_samples, write_new
from fedclient.errors import DataError, ModelError, UsageError


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ModelError, match="is not a file, so it is no model"):
            read_model(tmp_path / path)
    with pytest.raises(UsageError, match=r"cannot read .*none: No such file"):
        read_model(tmp_path / "none")


def test_a_file_is_bounded(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"123")
    assert read_model(tmp_path / "file") == b"123"
    monkeypatch.setattr(limits, "MAX_MODEL_BYTES", 2)
    with pytest.raises(ModelError, match="more than 2 bytes"):
        read_model(tmp_path / "file")


def test_a_file_that_cannot_be_written_is_said_to_be_so_early(tmp_path):
    check_new(tmp_path / "new", overwrite=False)
    (tmp_path / "old").write_bytes(b"precious")
    check_new(tmp_path / "old", overwrite=True)
    with pytest.raises(UsageError, match="--force"):
        check_new(tmp_path / "old", overwrite=False)
    with pytest.raises(UsageError, match="it is not in a folder"):
        check_new(tmp_path / "no" / "new", overwrite=False)
    with pytest.raises(UsageError, match="it is a folder"):
        check_new(tmp_path, overwrite=True)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_new(path, b"one", overwrite=False)
    with pytest.raises(UsageError, match="exists"):
        write_new(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    write_new(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (check_new, lambda path, overwrite: write_new(path, b"", overwrite=overwrite)):
        with pytest.raises(UsageError, match="it is no file"):
            write(tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("before", [[], [b"old"]])
def test_a_power_cut_while_writing_leaves_no_part_of_a_file(tmp_path, monkeypatch, before):
    path = tmp_path / "file"
    for data in before:
        path.write_bytes(data)

    def full(_):
        assert [one.read_bytes() for one in tmp_path.glob("file")] == before
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_new(path, b"new", overwrite=bool(before))
    assert [one.read_bytes() for one in tmp_path.iterdir()] == before


def test_without_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def link(*_):
        path.write_bytes(b"of somebody else, meanwhile")
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UsageError, match="file exists"):
        write_new(path, b"new", overwrite=False)
    assert path.read_bytes().startswith(b"of somebody else")


def test_labels_are_words_or_lines_of_a_file(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert read_labels(None, 2) == ()
    assert read_labels("cat, dog", 2) == ("cat", "dog")
    assert read_labels(str(tmp_path / "labels.txt"), 2) == ("cat", "dog")
    for text, classes, message in (
        ("cat,dog", 3, "has 2 names, the head has 3 classes"),
        ("cat,cat", 2, "^--labels: two classes are called 'cat'"),
        ("cat,", 2, "a label is 1 to 64 bytes"),
        (str(tmp_path / "labels.txt"), 5, "has 2 names"),
        ("none.txt", 5, "there is no file none.txt: --labels takes 5 names"),
    ):
        with pytest.raises(UsageError, match=message):
            read_labels(text, classes)


def test_samples_are_those_of_the_data(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), np.float32), y=[0, 1, 2])
    assert read_samples(None) is None
    assert read_samples(str(tmp_path / "data.npz")).shape == (3, 4)
    with pytest.raises(DataError, match="No such file"):
        read_samples(str(tmp_path / "none.npz"))
