"""Somebody at the screen: a graphical session that is active, and a screen that is on."""

import os

import pytest

from fedclient.scheduler import probe_session

SESSIONS = "/run/systemd/sessions"
DESKTOP = {
    "TYPE": "wayland",
    "CLASS": "user",
    "ACTIVE": "1",
    "STATE": "active",
    "SEAT": "seat0",
    "UID": "1000",
}
IDLE = "b true\nt 90000000"


def session(root, number: int = 1, **changed: str) -> None:
    words = {**DESKTOP, **changed}
    text = "# This is private data. Do not parse.\n" + "\n".join(
        f"{key}={value}" for key, value in words.items()
    )
    root.plant({f"{SESSIONS}/{number}": text})


def read(root):
    return probe_session.read(root.tree, root.commands)


def test_on_a_headless_board_idlehint_is_no_signal(root) -> None:
    root.empty(SESSIONS)
    root.plant({"commands/busctl-idle": IDLE, "/proc/uptime": "4000.0 1.0"})
    seated, idle = read(root)
    assert (seated.value, idle.value) == (False, None)
    assert idle.reason == "nobody sits at a screen: idleness would say nothing"
    session(root, TYPE="tty")  # somebody's ssh or console
    os.mkfifo(root.path / SESSIONS[1:] / "1.ref")  # logind keeps a pipe beside each
    assert read(root)[0].value is False


def test_a_desktop_and_how_long_nobody_touched_it(root) -> None:
    session(root)
    root.plant({"commands/busctl-idle": IDLE, "/proc/uptime": "4000.25 1.0"})
    seated, idle = read(root)
    assert (seated.value, seated.source) == (True, f"{SESSIONS}/1")
    assert (idle.value, idle.source) == (3910.25, "logind: IdleSinceHintMonotonic")
    root.plant({"commands/busctl-idle": "b false\nt 0"})
    assert read(root)[1].value == 0.0


@pytest.mark.parametrize(
    "changed",
    [
        {"CLASS": "greeter"},
        {"ACTIVE": "0"},
        {"STATE": "closing"},
        {"TYPE": "unspecified"},
        {"CLASS": "manager"},
    ],
)
def test_sessions_where_nobody_looks(root, changed: dict[str, str]) -> None:
    session(root, **changed)
    assert read(root)[0].value is False


def test_a_desktop_without_a_screen_has_nobody_before_it(root) -> None:
    session(root)
    root.plant({"status": "disconnected", "dpms": "Off"}, "/sys/class/drm/card1-HDMI-A-1")
    root.plant({"status": "disconnected", "dpms": "Off"}, "/sys/class/drm/card1-HDMI-A-2")
    assert read(root)[0].value is False
    root.plant({"status": "connected", "dpms": "On"}, "/sys/class/drm/card1-HDMI-A-2")
    assert read(root)[0].value is True
    root.plant({"dpms": "Off"}, "/sys/class/drm/card1-HDMI-A-2")  # blanked
    assert read(root)[0].value is False
    session(root, SEAT="", TYPE="x11")  # a remote desktop needs none
    assert read(root)[0].value is True


@pytest.mark.parametrize("said", ["", "b true", "b maybe\nt 1", "b true\nt -1", b"\xff\xff"])
def test_an_answer_that_is_none_is_unknown(root, said) -> None:
    session(root)
    root.plant({"commands/busctl-idle": said, "/proc/uptime": "4000.25 1.0"})
    assert read(root)[1].value is None


def test_without_uptime_or_without_an_answer_it_is_unknown(root) -> None:
    session(root)
    assert read(root)[1].reason == "there is no /commands/busctl-idle"
    root.plant({"commands/busctl-idle": IDLE, "/proc/uptime": "soon"})
    assert read(root)[1].reason == "/proc/uptime does not hold a number"


def test_a_session_file_that_cannot_be_read_is_unknown(root) -> None:
    root.empty(f"{SESSIONS}/1")
    assert read(root)[0].reason == f"{SESSIONS}/1: Is a directory"


def test_without_logind_an_x_server_tells(root) -> None:
    assert read(root)[0].reason == f"there is no {SESSIONS}, and no /run"
    root.empty("/run")
    assert read(root)[0].value is False
    root.plant({"X0": ""}, probe_session.X_SOCKETS)
    assert read(root)[0].value is True
