"""Whether the time of day can be believed."""

import errno

import pytest

from fedclient.scheduler import probe_clock
from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree

TIMESYNC = "/run/systemd/timesync"


def read(root):
    return probe_clock.read(root.tree, root.commands)


def test_timesyncds_file(root) -> None:
    root.plant({f"{TIMESYNC}/synchronized": b""})  # touched, never written
    assert (read(root).value, read(root).source) == (True, f"{TIMESYNC}/synchronized")
    root.plant({f"{TIMESYNC}/synchronized": None})
    assert read(root).value is False


def test_timedated_is_asked_where_nothing_else_tells(root) -> None:
    assert read(root).reason == f"there is no {TIMESYNC}, and there is no /commands/busctl-ntp"
    root.plant({"commands/busctl-ntp": "b true"})
    assert (read(root).value, read(root).source) == (True, "timedated: NTPSynchronized")
    root.plant({"commands/busctl-ntp": "b false"})
    assert read(root).value is False
    root.plant({"commands/busctl-ntp": "yes"})
    assert read(root).value is None


class Live(Tree):
    """A tree that counts as the real one: the kernel is asked."""

    def __init__(self, root) -> None:
        super().__init__(root.path)
        self.live = True


@pytest.mark.parametrize(("error_us", "expected"), [(500, True), (15_999_999, True), (16_000_000, False)])
def test_the_kernels_estimate(root, monkeypatch: pytest.MonkeyPatch, error_us: int, expected: bool) -> None:
    monkeypatch.setattr(probe_clock, "_max_error_us", lambda: error_us)
    found = probe_clock.read(Live(root), Commands(Live(root)))
    assert (found.value, found.source) == (expected, "the kernel's clock state (adjtimex)")


def test_a_sandbox_that_forbids_the_call(root, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(probe_clock, "_max_error_us", denied)
    tree = Live(root)
    commands = Commands(tree)
    assert probe_clock.read(tree, commands).reason == "adjtimex: Operation not permitted"
    root.empty("/run/systemd/system")
    monkeypatch.setattr(commands, "ask", lambda *_: "b true")
    assert probe_clock.read(tree, commands).source == "timedated: NTPSynchronized"
    root.empty(TIMESYNC)
    assert probe_clock.read(tree, commands).value is False


def test_this_kernel_answers() -> None:
    found = probe_clock.read(Tree(), Commands(Tree()))
    assert isinstance(found.value, bool) or found.reason
    assert 0 < probe_clock._max_error_us() <= 16_000_000
