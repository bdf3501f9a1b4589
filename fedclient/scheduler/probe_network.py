"""The network that the default route uses, and whether somebody pays for each byte."""

from __future__ import annotations

import re

from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading, unknown

ROUTES = "/proc/net/route"
ROUTES_6 = "/proc/net/ipv6_route"
CLASS = "/sys/class/net"
MANAGER = "/run/NetworkManager"  # there while NetworkManager runs
SAID = "busctl-metered"
_COMMAND = (
    "busctl",
    "get-property",
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
    "Metered",
)
_METERED = {1: "yes", 2: "no", 3: "guess: yes", 4: "guess: no"}  # NMMetered; 0 is unknown

# Dearest first: where two default routes are equal, or IPv4 and IPv6 differ, the dearest counts.
_BY_COST = ("cellular", "tether", "other", "wifi", "ethernet")
_MODEMS = ("qmi_wwan", "cdc_mbim", "huawei_cdc_ncm", "sierra_net", "hso")
_TETHERS = ("rndis_host", "cdc_ether", "cdc_ncm", "cdc_eem", "ipheth")  # phones, and modems that pose as one
_INTERFACE = re.compile(r"[A-Za-z0-9_.@:+-]{1,15}")
_UP, _REJECT = 0x1, 0x200
_MAX_DEPTH = 4  # a VLAN on a bridge on a bond on a card


def read(tree: Tree, commands: Commands) -> tuple[Reading[str], Reading[bool]]:
    """Return the kind of network, and whether it is metered."""
    network = known(lambda: _network(tree))
    return network, known(lambda: _metered(tree, commands, network))


def _network(tree: Tree) -> Reading[str]:
    interfaces = _default_interfaces(tree)
    if not interfaces:
        return Reading("none", f"{ROUTES}: no default route")
    kinds = [(_kind(tree, name, 0), name, source) for name, source in interfaces]
    kind, name, source = min(kinds, key=lambda one: _BY_COST.index(one[0]))
    return Reading(kind, f"{source}: default route by {name}")


def _default_interfaces(tree: Tree) -> list[tuple[str, str]]:
    """Return the interfaces with the best default route of each protocol, with the file that tells."""
    found: list[tuple[str, str]] = []
    unreadable: list[Unreadable] = []
    for path, parse in ((ROUTES, _route), (ROUTES_6, _route_6)):
        try:
            lines = tree.text(path).splitlines()
        except Unreadable as error:
            unreadable.append(error)
            continue
        routes = [route for route in map(parse, lines) if route is not None]
        best = min((metric for metric, _ in routes), default=0)
        found += [(name, path) for metric, name in dict.fromkeys(routes) if metric == best]
    if not found and any(error for error in unreadable if not _means_none(error)):
        raise next(error for error in unreadable if not _means_none(error))
    if len(unreadable) == 2 and all(error.absent for error in unreadable):
        raise unreadable[0]
    return found


def _means_none(error: Unreadable) -> bool:
    """Tell whether it is a protocol that this kernel does not have, or that has no route at all."""
    return error.absent or str(error).endswith("is empty")


def _route(line: str) -> tuple[int, str] | None:
    """Return (metric, interface) of a default route of IPv4; half of the internet is none (a VPN's trick)."""
    words = line.split()
    try:
        if len(words) < 8 or int(words[1], 16) or int(words[7], 16):
            return None
        flags, metric = int(words[3], 16), int(words[6])
    except ValueError:  # the heading
        return None
    return (metric, words[0]) if _usable(flags, words[0]) else None


def _route_6(line: str) -> tuple[int, str] | None:
    """Return (metric, interface) of a default route of IPv6."""
    words = line.split()
    try:
        if len(words) < 10 or int(words[0], 16) or int(words[1], 16) or int(words[3], 16):
            return None
        metric, flags = int(words[5], 16), int(words[8], 16)
    except ValueError:
        return None
    return (metric, words[9]) if _usable(flags, words[9]) else None


def _usable(flags: int, name: str) -> bool:
    up = bool(flags & _UP) and not flags & _REJECT
    return up and name != "lo" and bool(_INTERFACE.fullmatch(name)) and name not in (".", "..")


def _kind(tree: Tree, name: str, depth: int) -> str:
    """Name the kind of one interface; of one that stands on others, the dearest of these."""
    folder = f"{CLASS}/{name}"
    entries = set(tree.names_or_none(folder))
    device = _uevent(tree, f"{folder}/uevent").get("DEVTYPE", "")
    driver = _uevent(tree, f"{folder}/device/uevent").get("DRIVER", "")
    if entries & {"wireless", "phy80211"} or device == "wlan":
        return "wifi"
    if device == "wwan" or driver in _MODEMS or name.startswith(("wwan", "ppp", "rmnet")):
        return "cellular"
    if driver in _TETHERS or device == "bluetooth" or name.startswith(("usb", "bnep", "rndis")):
        return "tether"
    below = [entry.removeprefix("lower_") for entry in entries if entry.startswith("lower_")]
    below = [one for one in below if _INTERFACE.fullmatch(one)]
    if below and depth < _MAX_DEPTH:
        return min((_kind(tree, one, depth + 1) for one in below), key=_BY_COST.index)
    if device or entries & {"tun_flags", "bridge", "bonding"} or not entries:
        return "other"  # a tunnel, or a bridge of nothing: what carries it is not told
    # Only a card has a device; a recorded tree may lack it, and then the name has to do.
    return "ethernet" if "device" in entries or name.startswith(("eth", "en", "lan", "end")) else "other"


def _uevent(tree: Tree, path: str) -> dict[str, str]:
    """Return the KEY=value lines."""
    try:
        lines = tree.text(path).splitlines()
    except Unreadable:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _metered(tree: Tree, commands: Commands, network: Reading[str]) -> Reading[bool]:
    """NetworkManager knows, or guesses; without it the kind of network has to do."""
    kind = network.value
    if kind == "none":
        return unknown("there is no network")
    said = _manager(tree, commands)
    if said in (1, 2, 3) or (said == 4 and kind not in ("cellular", "tether")):
        return Reading(said in (1, 3), f"NetworkManager: Metered {said} ({_METERED[said]})")
    if kind is None:
        return unknown(network.reason)
    return Reading(kind in ("cellular", "tether"), f"guessed from {kind}")


def _manager(tree: Tree, commands: Commands) -> int:
    """Return NetworkManager's word, 0 where there is none."""
    if tree.live and not tree.exists(MANAGER):
        return 0
    try:
        said = commands.ask(SAID, _COMMAND)
    except Unreadable as error:
        if error.absent:  # no busctl, or nothing recorded
            return 0
        raise
    found = re.fullmatch(r"u ([0-4])", said)
    if not found:
        raise Unreadable("busctl gave no `u N` for NetworkManager's Metered")
    return int(found[1])
