"""Whether somebody sits at the screen, and since when without touching anything.

logind's IdleHint is true on a machine without sessions, so on a headless board it says nothing: it
is asked only where a graphical session is active and a screen is on.  The session files are
logind's own; only their TYPE, CLASS, ACTIVE, STATE and SEAT are read, which libsystemd reads there too.
"""

from __future__ import annotations

import re

from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading, unknown

SESSIONS = "/run/systemd/sessions"
SCREENS = "/sys/class/drm"
X_SOCKETS = "/tmp/.X11-unix"  # noqa: S108 - X's own, and only looked at
UPTIME = "/proc/uptime"
SAID = "busctl-idle"
_COMMAND = (
    "busctl",
    "get-property",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
    "IdleHint",
    "IdleSinceHintMonotonic",
)
_ANSWER = re.compile(r"b (true|false)\s+t ([0-9]{1,18})")
_GRAPHICAL = ("x11", "wayland", "mir")


def read(tree: Tree, commands: Commands) -> tuple[Reading[bool], Reading[float]]:
    """Return whether somebody sits at it, and for how long without input."""
    seated = known(lambda: _seated(tree))
    if seated.value is None:
        return seated, unknown(seated.reason)
    if not seated.value:
        return seated, unknown("nobody sits at a screen: idleness would say nothing")
    return seated, known(lambda: _idle(tree, commands))


def _seated(tree: Tree) -> Reading[bool]:
    try:
        names = tree.names(SESSIONS, r"[A-Za-z0-9_-]+")  # the others, `N.ref`, are pipes
    except Unreadable as error:
        if not error.absent:
            raise
        return _without_logind(tree)
    for name in names:
        path = f"{SESSIONS}/{name}"
        try:
            session = dict(line.split("=", 1) for line in tree.text(path).splitlines() if "=" in line)
        except Unreadable as error:
            if error.absent:  # just logged out
                continue
            raise
        if not _is_desktop(session):
            continue
        if session.get("SEAT") and not _screen_is_on(tree):
            return Reading(value=False, source=f"{path} is graphical, but {SCREENS} has no screen that is on")
        return Reading(value=True, source=path)
    return Reading(value=False, source=f"{SESSIONS} has no active graphical session")


def _is_desktop(session: dict[str, str]) -> bool:
    """Tell whether a person's desktop is in front; a login screen is nobody's."""
    return (
        session.get("TYPE") in _GRAPHICAL
        and session.get("ACTIVE") == "1"
        and session.get("STATE") != "closing"
        and session.get("CLASS", "user").startswith("user")
    )


def _screen_is_on(tree: Tree) -> bool:
    """Tell whether anybody could see the desktop: many boards run one without a screen."""
    connectors = tree.names_or_none(SCREENS, r"card\d+-.+")
    words = [
        (tree.word_or(f"{SCREENS}/{one}/status", ""), tree.word_or(f"{SCREENS}/{one}/dpms", "On"))
        for one in connectors
    ]
    told = [one for one in words if one[0]]
    return not told or any(status == "connected" and power != "Off" for status, power in told)


def _without_logind(tree: Tree) -> Reading[bool]:
    if not tree.exists("/run"):
        raise Unreadable(f"there is no {SESSIONS}, and no /run")
    sockets = tree.names_or_none(X_SOCKETS, r"X\d+")
    if sockets:
        return Reading(value=True, source=f"{X_SOCKETS}/{sockets[0]} (there is no {SESSIONS})")
    return Reading(value=False, source=f"there is no {SESSIONS}, and no X server in {X_SOCKETS}")


def _idle(tree: Tree, commands: Commands) -> Reading[float]:
    """Ask logind, which knows it from the desktop."""
    found = _ANSWER.fullmatch(commands.ask(SAID, _COMMAND))
    if not found:
        raise Unreadable("busctl gave no `b` and `t` for logind's IdleHint")
    if found[1] == "false":
        return Reading(0.0, "logind: IdleHint is false")
    uptime = re.match(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s", tree.text(UPTIME) + " ")
    if not uptime:
        raise Unreadable(f"{UPTIME} does not hold a number")
    since_s = int(found[2]) / 1e6
    return Reading(max(0.0, float(uptime[1]) - since_s), "logind: IdleSinceHintMonotonic")
