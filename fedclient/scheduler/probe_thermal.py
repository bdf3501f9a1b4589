"""How hot it is, and from where on the board slows itself down."""

from __future__ import annotations

from dataclasses import dataclass

from fedclient.scheduler.probe_files import Tree, Unreadable
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading, unknown

ZONES = "/sys/class/thermal"
HWMON = "/sys/class/hwmon"
PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")  # hwmon, where there is no zone
PLAUSIBLE_C = (-40.0, 126.9)  # -256 is a rail that is off, 127 and more an open sensor
TRIPS_C = (50.0, 120.0)
_TRIPS = ("passive", "hot")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sensor:
    path: str
    name: str


class Thermal:
    """The hottest zone that counts; the list of zones is read once, and again when one vanishes."""

    def __init__(self, tree: Tree, profile: Profile) -> None:
        self._tree = tree
        self._profile = profile
        self._sensors: list[_Sensor] = []
        self._trip: Reading[float] = unknown("not read")

    def read(self) -> tuple[Reading[float], Reading[float]]:
        """Return the temperature, and the lowest trip point."""
        if not self._sensors:
            self._scan()
        return self._hottest(), self._trip

    def _scan(self) -> None:
        zones = self._zones()
        self._trip = self._lowest_trip(zones)
        self._sensors = [_Sensor(path=f"{zone.path}/temp", name=zone.name) for zone in zones]
        if not zones and not self._profile.zones:
            self._sensors = self._chips()

    def _zones(self) -> list[_Sensor]:
        """Return the zones that the profile lets count."""
        wanted, skipped = self._profile.zones, self._profile.skip_zones
        found = []
        for name in self._tree.names_or_none(ZONES, r"thermal_zone\d+"):
            kind = self._tree.word_or(f"{ZONES}/{name}/type", name)
            if (kind in wanted) if wanted else (kind not in skipped):
                found.append(_Sensor(path=f"{ZONES}/{name}", name=kind))
        return found

    def _chips(self) -> list[_Sensor]:
        """Return the processor's sensors that have no thermal zone, as on many PCs."""
        found = []
        for name in self._tree.names_or_none(HWMON, r"hwmon\d+"):
            chip = self._tree.word_or(f"{HWMON}/{name}/name", "")
            if chip in PROCESSOR_CHIPS:
                inputs = self._tree.names_or_none(f"{HWMON}/{name}", r"temp\d+_input")
                found += [_Sensor(path=f"{HWMON}/{name}/{one}", name=chip) for one in inputs]
        return found

    def _hottest(self) -> Reading[float]:
        best: tuple[float, _Sensor] | None = None
        reason = ""
        for sensor in self._sensors:
            try:
                value_c = _plausible(sensor.path, self._tree.number(sensor.path))
            except Unreadable as error:
                reason = reason or str(error)
                if error.absent:  # a driver was unloaded: look at what there is next time
                    self._sensors = []
                continue
            if best is None or value_c > best[0]:
                best = value_c, sensor
        if best is not None:
            return Reading(best[0], f"{best[1].path} ({best[1].name})")
        if reason:
            return unknown(f"no zone gives a temperature: {reason}")
        if self._profile.zones:
            return unknown(f"{ZONES} has no zone of type {' or '.join(self._profile.zones)}")
        return unknown(f"there is no sensor in {ZONES} or {HWMON}")

    def _lowest_trip(self, zones: list[_Sensor]) -> Reading[float]:
        lowest: tuple[float, str] | None = None
        for zone in zones:
            for name in self._tree.names_or_none(zone.path, r"trip_point_\d+_type"):
                path = f"{zone.path}/{name.removesuffix('_type')}_temp"
                millidegrees = self._tree.number_or_none(path)
                if millidegrees is None or self._tree.word_or(f"{zone.path}/{name}", "") not in _TRIPS:
                    continue
                if TRIPS_C[0] <= millidegrees / 1000 <= TRIPS_C[1] and (
                    lowest is None or millidegrees / 1000 < lowest[0]
                ):
                    lowest = millidegrees / 1000, f"{path} ({zone.name})"
        if lowest is None:
            return unknown(f"no zone in {ZONES} has a passive or hot trip point")
        return Reading(*lowest)


def _plausible(path: str, millidegrees: int) -> float:
    """Refuse what no board has; exactly 0 is what dead sensors say."""
    value_c = millidegrees / 1000
    if millidegrees == 0 or not PLAUSIBLE_C[0] <= value_c <= PLAUSIBLE_C[1]:
        raise Unreadable(f"{path} says {value_c:g} °C, which no working sensor does")
    return value_c
