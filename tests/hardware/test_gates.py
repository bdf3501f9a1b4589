"""All boards x all gates of the machine: what the capture closes as it is, and when one thing changes.

Every scenario runs on every board: what it closes, and the boards on which it closes something else,
since they cannot tell it, or can.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.scheduler.gates import GATES
from fedclient.scheduler.policy import Decision

HARDWARE = Path(__file__).parent.parent.parent / "hardware" / "boards"
BOARDS = sorted(path.parent.name for path in HARDWARE.glob("*/profile.toml"))
PIS = {board for board in BOARDS if board.startswith("raspberry-pi")}
ZERO = "raspberry-pi-zero-2-w"
JETSONS = {board for board in BOARDS if board.startswith("jetson")}
GENERICS = {board for board in BOARDS if board.startswith("generic")}
THERMAL = "sys/class/thermal"


def put(root: Path, path: str, text: str) -> None:
    """Write a file, and what is above it."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def zone_of(root: Path, *kinds: str) -> str:
    """Return the folder of the first zone of such a type; of a machine without zones, a new one's."""
    for kind in kinds:
        for zone in sorted((root / THERMAL).glob("thermal_zone*")):
            if (zone / "type").read_text().strip() == kind:
                return str(zone.relative_to(root))
    assert not list((root / THERMAL).glob("*")), "none of these zones"
    put(root, f"{THERMAL}/thermal_zone0/type", "cpu-thermal\n")
    return f"{THERMAL}/thermal_zone0"


def hot(root: Path) -> None:
    """At 86 degrees every board is past its limit, at 74 none, by the zone of its processor."""
    put(root, f"{zone_of(root, 'cpu-thermal', 'CPU-therm', 'x86_pkg_temp')}/temp", "86000\n")


def warm(root: Path) -> None:
    put(root, f"{zone_of(root, 'cpu-thermal', 'CPU-therm', 'x86_pkg_temp')}/temp", "74000\n")


def between(root: Path) -> None:
    """Too hot for a Raspberry Pi or a PC, not for a Jetson, whose limits are higher; the NX has 80.5."""
    put(root, f"{zone_of(root, 'cpu-thermal', 'CPU-therm', 'x86_pkg_temp')}/temp", "78000\n")


def trip(root: Path) -> None:
    """82 degrees: below the 85 of Jetson profiles, less than 10 below the NX's trip point of 90.5."""
    put(root, f"{zone_of(root, 'cpu-thermal', 'CPU-therm', 'x86_pkg_temp')}/temp", "82000\n")


def other_zone(root: Path) -> None:
    """A zone that does not count, at 99 degrees."""
    put(root, f"{THERMAL}/thermal_zone20/type", "PMIC-Die\n" if "nano" in root.name else "iwlwifi_1\n")
    put(root, f"{THERMAL}/thermal_zone20/temp", "99000\n")


def no_heat(root: Path) -> None:
    for folder in (THERMAL, "sys/class/hwmon"):
        if (root / folder).exists():
            shutil.rmtree(root / folder)


def one_dead_zone(root: Path) -> None:
    """What EAGAIN leaves in a plain tree: a zone without a temperature."""
    put(root, f"{THERMAL}/thermal_zone21/type", "gpu-thermal\n")


def under_voltage(root: Path) -> None:
    for alarm in root.glob("sys/class/hwmon/hwmon*/in0_lcrit_alarm"):
        alarm.write_text("1\n")


def firmware(bits: str) -> Callable[[Path], None]:
    return lambda root: put(root, "commands/vcgencmd-get_throttled", f"throttled={bits}\n")


def no_vcgencmd(root: Path) -> None:
    (root / "commands/vcgencmd-get_throttled").unlink(missing_ok=True)


def battery(status: str, capacity: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        folder = "sys/class/power_supply/BAT0"
        for name, text in (("type", "Battery"), ("status", status), ("capacity", capacity)):
            put(root, f"{folder}/{name}", f"{text}\n")

    return change


def mouse(root: Path) -> None:
    battery("Discharging", "3")(root)
    put(root, "sys/class/power_supply/BAT0/scope", "Device\n")


def loads(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: put(root, path, text)


def no_file(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def default_route(interface: str, metric: int = 50, **files: str) -> Callable[[Path], None]:
    """Add a default route; those of the captures have a metric of 100 or more."""

    def change(root: Path) -> None:
        head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        line = f"{interface}\t00000000\t010200C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n"
        before = (root / "proc/net/route").read_text().splitlines(keepends=True)[1:]
        put(root, "proc/net/route", head + line + "".join(before))
        for path, text in files.items():
            put(root, f"sys/class/net/{interface}/{path.replace('__', '/')}", text)

    return change


def an_equal_route(root: Path) -> None:
    """Two default routes that are equally good: packets may take the dear one."""
    (metric,) = {line.split("\t")[6] for line in (root / "proc/net/route").read_text().splitlines()[1:2]}
    default_route("wwan0", int(metric), uevent="DEVTYPE=wwan\n")(root)


def seated_elsewhere(root: Path) -> None:
    """Somebody is logged in, but another one sits in front: a text console."""
    put(root, "run/systemd/sessions/2", "TYPE=wayland\nCLASS=user\nACTIVE=0\nSTATE=online\nSEAT=seat0\n")
    put(root, "run/systemd/sessions/3", "TYPE=tty\nCLASS=user\nACTIVE=1\nSTATE=active\nSEAT=seat0\n")


def seated(root: Path) -> None:
    put(root, "run/systemd/sessions/2", "TYPE=wayland\nCLASS=user\nACTIVE=1\nSTATE=active\nSEAT=seat0\n")


def seated_and_idle(root: Path) -> None:
    seated(root)
    put(root, "proc/uptime", "8000.00 1.00\n")
    put(root, "commands/busctl-idle", "b true\nt 1000000000\n")


def seated_and_busy(root: Path) -> None:
    seated_and_idle(root)
    put(root, "commands/busctl-idle", "b false\nt 1000000000\n")


NOTHING: frozenset[str] = frozenset()
Closed = frozenset[str]


def on(boards_: set[str], *gates: str) -> dict[str, Closed]:
    """Say what closes on these boards."""
    return {board: frozenset(gates) for board in boards_}


# name: (what changes, what it closes, where it closes something else)
SCENARIOS: dict[str, tuple[Callable[[Path], None], set[str] | Closed, dict[str, Closed]]] = {
    "as it is": (lambda _: None, NOTHING, {}),
    "hot": (hot, {"temperature"}, {}),
    "warm": (warm, NOTHING, {}),
    "between": (between, {"temperature"}, on(JETSONS)),
    "near a trip point": (
        trip,
        {"temperature"},
        on(JETSONS - {"jetson-xavier-nx"}),
    ),
    "another zone is hot": (other_zone, NOTHING, {}),
    "no temperature": (no_heat, {"temperature"}, on(GENERICS)),
    "a dead zone": (one_dead_zone, NOTHING, {}),
    # The Zero's alarm is there and means nothing; other boards have none.
    "under-voltage": (under_voltage, NOTHING, on(PIS - {ZERO}, "supply")),
    "throttled": (firmware("0x4"), NOTHING, on(PIS, "throttling")),
    "frequency capped": (firmware("0x2"), NOTHING, on(PIS, "throttling")),
    "soft limit": (firmware("0x8"), NOTHING, on(PIS, "throttling")),
    "throttled some time ago": (firmware("0x50000"), NOTHING, {}),
    "no vcgencmd": (no_vcgencmd, NOTHING, on(PIS, "throttling")),
    "unplugged, battery low": (battery("Discharging", "30"), {"power"}, {}),
    "unplugged, battery full": (battery("Discharging", "95"), NOTHING, {}),
    "charging": (battery("Charging", "30"), NOTHING, {}),
    "a gauge that does not know": (battery("Unknown", "95"), {"power"}, {}),
    "a mouse's battery": (mouse, NOTHING, {}),
    "busy": (loads("proc/loadavg", "9.00 8.00 7.00 9/300 4127\n"), {"load"}, {}),
    "no counters": (no_file("proc/stat"), {"load"}, {}),
    "pressure": (
        loads("proc/pressure/cpu", "some avg10=81.00 avg60=1.00 avg300=1.00 total=1\n"),
        {"pressure"},
        {},
    ),
    "pressure not told": (
        lambda root: (root / "proc/pressure/cpu").unlink(missing_ok=True),
        NOTHING,
        {},
    ),
    "little memory": (
        loads("proc/meminfo", "MemAvailable:   51200 kB\n"),
        {"memory"},
        {},
    ),
    "memory not told": (no_file("proc/meminfo"), {"memory"}, {}),
    "metered": (loads("commands/busctl-metered", "u 1\n"), {"metered"}, {}),
    "guessed metered": (loads("commands/busctl-metered", "u 3\n"), {"metered"}, {}),
    "a modem": (default_route("wwan0", uevent="DEVTYPE=wwan\n"), {"network", "metered"}, {}),
    "a modem, as good as the others": (an_equal_route, {"network", "metered"}, {}),
    "a modem in reserve": (default_route("wwan0", 900, uevent="DEVTYPE=wwan\n"), NOTHING, {}),
    "a phone by USB": (
        default_route("usb0", uevent="", device__uevent="DRIVER=rndis_host\n"),
        {"network", "metered"},
        {},
    ),
    "Wi-Fi": (default_route("wlan7", uevent="DEVTYPE=wlan\n"), NOTHING, {}),
    "no default route": (loads("proc/net/route", "Iface\tDestination\n"), {"network"}, {}),
    "routes not told": (no_file("proc/net/route"), {"network"}, {}),  # NetworkManager still guesses
    "somebody types": (seated_and_busy, {"session"}, {}),
    "somebody left": (seated_and_idle, NOTHING, {}),
    "a text console in front": (seated_elsewhere, NOTHING, {}),
    "idleness not told": (seated, {"session"}, {}),
    "clock not set": (
        lambda root: shutil.rmtree(root / "run/systemd/timesync", ignore_errors=True),
        NOTHING,
        {},
    ),
}
MACHINE = {
    "power",
    "supply",
    "throttling",
    "temperature",
    "load",
    "pressure",
    "memory",
    "network",
    "metered",
    "session",
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("board", BOARDS)
def test_what_closes(
    board: str, scenario: str, tree: Callable[[str], Path], decision: Callable[..., Decision]
) -> None:
    change, closed, elsewhere = SCENARIOS[scenario]
    root = tree(board)
    change(root)
    found = decision(root)
    assert set(found.closed) == elsewhere.get(board, closed)
    for gate in found.gates:
        assert gate.sentence
        assert gate.ok or gate.remedy, gate.name


def test_the_table_closes_each_gate_of_the_machine_somewhere() -> None:
    closed = set().union(
        *(one for _, names, elsewhere in SCENARIOS.values() for one in (names, *elsewhere.values()))
    )
    assert closed == MACHINE
    # `frequency` and `disk` are below; the others are of samples, time and the owner.
    assert {gate.__name__ for gate in GATES} - MACHINE == {
        *("frequency", "disk", "new_samples", "distinct_samples", "own_gate"),
        *("paused", "window", "spacing", "pace", "training_time", "traffic", "energy", "flash", "dwell"),
        "update_bytes",
    }


# In their default power modes; a virtual machine has no frequency, and then the gate is closed.
SLOWED = {"jetson-xavier-nx", "jetson-agx-orin", "generic-aarch64"}


@pytest.mark.parametrize("board", BOARDS)
def test_a_cap_on_the_frequency_closes_where_the_owner_asks(
    board: str, decision: Callable[..., Decision]
) -> None:
    found = decision(HARDWARE / board / "capture", min_cpu_cap_percent=90.0)
    assert set(found.closed) == ({"frequency"} if board in SLOWED else NOTHING)


@pytest.mark.parametrize("board", BOARDS)
def test_a_full_disk_closes(board: str, decision: Callable[..., Decision]) -> None:
    assert decision(HARDWARE / board / "capture", min_free_disk_mib=float(1 << 30)).closed == ("disk",)


@pytest.mark.parametrize("board", BOARDS)
def test_what_a_profile_excuses_is_what_the_board_lacks(
    board: str, decision: Callable[..., Decision]
) -> None:
    """Without the profile's leave, the same capture is not eligible: the excuses are needed, and used."""
    excused = {
        gate.name
        for gate in decision(HARDWARE / board / "capture").gates
        if "is not asked for on this board" in gate.sentence
    }
    expected = {"pressure"} if board in PIS | JETSONS else set()
    if board in JETSONS | GENERICS | {ZERO}:
        expected |= {"supply"}
    if board in JETSONS | GENERICS:
        expected |= {"throttling"}
    if board == "generic-aarch64":
        expected |= {"temperature"}
    assert excused == expected
    assert boards.here(HARDWARE / board / "capture").name == board
