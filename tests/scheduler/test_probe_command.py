"""Programs are run rarely and not for long; of a recorded tree never."""

import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from fedclient.scheduler import probe_command
from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable

COUNTS = "import sys; f = open(sys.argv[1], 'a'); f.write('x'); f.close(); print('u 4')"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(probe_command, "TIMEOUT_S", 20.0)  # this machine is busy
    return Commands(Tree())


def test_once_a_minute_while_idle_and_every_ten_seconds_while_training(live, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = [sys.executable, "-S", "-c", COUNTS, str(ran)]
    expected = ""
    for now_s, training, runs in (
        (100.0, False, True),
        (159.9, False, False),
        (160.0, False, True),
        (169.9, True, False),
        (170.0, True, True),
        (171.0, False, False),
        (50.0, False, True),  # a clock that began again
    ):
        live.at(now_s, training=training)
        assert live.ask("metered", command) == "u 4"
        expected += "x" * runs
        assert ran.read_text() == expected, now_s


def test_failures_are_remembered_too(live) -> None:
    live.at(0.0, training=False)
    with pytest.raises(Unreadable, match=r"failed \(exit 3\): no permission"):
        live.ask("a", [sys.executable, "-S", "-c", "import sys; print('no permission'); sys.exit(3)"])
    with pytest.raises(Unreadable, match="no permission"):
        live.ask("a", [sys.executable, "-S", "-c", "print('u 4')"])
    with pytest.raises(Unreadable, match="it said nothing"):
        live.ask("b", [sys.executable, "-S", "-c", ""])
    with pytest.raises(Unreadable, match="there is no program no-such-program") as caught:
        live.ask("c", ["no-such-program"])
    assert caught.value.absent
    with pytest.raises(Unreadable, match="cannot be run: Permission denied"):
        live.ask("d", ["/dev/null"])


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_command, "TIMEOUT_S", 0.1)
    with pytest.raises(Unreadable, match=r"`sleep 60` took longer than 0.1 s"):
        Commands(Tree()).ask("a", ["sleep", "60"])


def test_what_a_hanging_program_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else one more waits each minute, until the unit has no place left for a trainer (TasksMax)."""
    monkeypatch.setattr(probe_command, "TIMEOUT_S", 0.5)
    noted = tmp_path / "pid"
    with pytest.raises(Unreadable, match="took longer"):
        Commands(Tree()).ask("a", ["sh", "-c", f"sleep 60 & echo $! > {noted}; wait"])
    stat = Path(f"/proc/{noted.read_text().strip()}/stat")
    until_s = time.monotonic() + 10
    while stat.exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < until_s, "it still runs"
        time.sleep(0.01)


def test_a_program_that_never_stops_talking_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_command, "TIMEOUT_S", 0.5)
    tracemalloc.start()
    try:
        for words in (["yes"], ["sh", "-c", "yes >&2"]):
            with pytest.raises(Unreadable, match="took longer"):
                Commands(Tree()).ask(words[-1], words)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_recorded_tree_has_recorded_words(root, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = [sys.executable, "-S", "-c", COUNTS, str(ran)]
    with pytest.raises(Unreadable, match="there is no /commands/metered") as caught:
        root.commands.ask("metered", command)
    assert caught.value.absent
    root.plant({"commands/metered": "u 1"})
    assert root.commands.ask("metered", command) == "u 1"
    root.plant({"commands/metered": "u 2"})  # not remembered: a test changes them
    assert root.commands.ask("metered", command) == "u 2"
    assert not ran.exists()
