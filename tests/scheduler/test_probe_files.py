"""Files that are missing, empty, denied, not text, or not ready: each is one sentence, none an exception."""

import os
from pathlib import Path

import pytest

from fedclient.scheduler.probe_files import MAX_BYTES, Tree, Unreadable, known
from fedclient.scheduler.readings import Reading, unknown

NOBODY = 65534


def test_a_word_loses_the_nul_at_its_end(root) -> None:
    root.plant({"model": b"Raspberry Pi 5\0", "with": b"\0\0  spaces \n"})
    assert root.tree.word("/model") == "Raspberry Pi 5"
    assert root.tree.word("/with") == "spaces"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no /x"),
        (b"", "/x is empty"),
        (b"\0\n", "/x is empty"),
        (b"\xff\xfe12", "/x is not text"),
        (b"12 apples", "/x does not hold a number"),
        (b"1_000", "/x does not hold a number"),
        ("\u0661\u0662".encode(), "/x does not hold a number"),
        (b"9" * 5000, "/x does not hold a number"),
    ],
)
def test_what_is_no_number_says_why(root, content, why) -> None:
    if content is not None:
        root.plant({"x": content})
    with pytest.raises(Unreadable, match=why) as caught:
        root.tree.number("/x")
    assert caught.value.absent is (content is None)
    assert root.tree.number_or_none("/x") is None


def test_numbers_have_a_sign_or_none(root) -> None:
    root.plant({"a": -256000, "b": "+7", "c": "0042"})
    assert [root.tree.number(path) for path in ("/a", "/b", "/c")] == [-256000, 7, 42]


def test_a_folder_in_place_of_a_file(root) -> None:
    root.empty("/temp")
    with pytest.raises(Unreadable, match="/temp: Is a directory"):
        root.tree.number("/temp")


def test_a_file_in_place_of_a_folder(root) -> None:
    root.plant({"net": "x"})
    with pytest.raises(Unreadable, match="/net: Not a directory"):
        root.tree.names("/net")
    assert root.tree.names_or_none("/net") == []


def test_a_sensor_that_is_off_answers_eagain_and_nobody_waits(root) -> None:
    pipe = root.path / "temp"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # a writer that writes nothing: the kernel says EAGAIN
    try:
        with pytest.raises(Unreadable, match="/temp: Resource temporarily unavailable"):
            root.tree.number("/temp")
    finally:
        os.close(descriptor)


def test_permission_denied_is_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "denied"
    folder.mkdir()
    (folder / "status").write_text("Charging\n")
    (folder / "status").chmod(0)
    tree = Tree(folder)
    here = Path.cwd()
    os.chdir(folder)  # other users may not walk through the folders of a test
    root_is_us = os.geteuid() == 0
    try:
        tree._root = "."
        if root_is_us:  # modes mean nothing to root
            folder.chmod(0o755)
            os.seteuid(NOBODY)
        with pytest.raises(Unreadable, match="/status: Permission denied"):
            tree.word("/status")
    finally:
        if root_is_us:
            os.seteuid(0)
        os.chdir(here)


def test_names_are_in_the_order_of_their_numbers(root) -> None:
    for name in ("zone10", "zone2", "zone1", "cooling0"):
        root.empty(f"/thermal/{name}")
    assert root.tree.names("/thermal", r"zone\d+") == ["zone1", "zone2", "zone10"]


def test_names_that_cannot_be_printed_are_nobodys(root) -> None:
    root.empty("/net")
    os.mkdir(os.fsencode(root.path) + b"/net/\xff\xfe")  # noqa: PTH102 - no Path is of bytes
    root.empty("/net/eth0")
    assert root.tree.names("/net") == ["eth0"]


def test_long_files_are_cut_and_paths_with_nul_refused(root) -> None:
    root.plant({"long": b"7" * (MAX_BYTES + 10)})
    assert len(root.tree.raw("/long")) == MAX_BYTES
    with pytest.raises(Unreadable):
        root.tree.raw("/a\0b")
    assert not root.tree.exists("/a\0b")


def test_only_the_real_root_is_live(root) -> None:
    assert Tree().live
    assert not root.tree.live


def test_known_makes_a_reading_of_what_cannot_be_read(root) -> None:
    assert known(lambda: Reading(root.tree.number("/x"), "/x")) == unknown("there is no /x")
