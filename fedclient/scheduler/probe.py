"""Measure what the policy asks about: each reading is a value with its source, or None with a reason.

A family of sensors is one file `probe_*.py`: a function, or a small class where something is kept
between two reads.  To add one: write it there, and call it in `Probe.read`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedclient.scheduler import (
    probe_board,
    probe_clock,
    probe_jetson,
    probe_load,
    probe_network,
    probe_session,
    probe_space,
)
from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.probe_gate import OwnGate
from fedclient.scheduler.probe_jetson import Rails
from fedclient.scheduler.probe_load import Load
from fedclient.scheduler.probe_power import Power
from fedclient.scheduler.probe_settings import PowerSettings
from fedclient.scheduler.probe_thermal import Thermal
from fedclient.scheduler.probe_throttle import Frequency, Supply
from fedclient.scheduler.probe_usage import private_mib
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Readings


class Probe:
    """Reads this machine, or the tree below `root`; keep one, since some readings need an earlier one."""

    def __init__(
        self,
        state_folder: Path,
        *,
        root: Path = Path("/"),
        profile: Profile,
        power: PowerSettings = PowerSettings(),  # noqa: B008 - frozen
        own_gate: str | None = None,
    ) -> None:
        self._state_folder = state_folder
        self._tree = tree = Tree(root)
        self._commands = commands = Commands(tree)
        self.identity: Identity = probe_board.identify(tree)
        self._power = Power(tree, commands, power)
        self._supply = Supply(tree, commands, self.identity)
        self._frequency = Frequency(tree)
        self._thermal = Thermal(tree, profile)
        self._load = Load(tree)
        self._rails = Rails(tree, profile)
        self._own_gate = OwnGate(own_gate)

    def read(self, activity: Activity, now_s: float, trainer_pid: int | None = None) -> Readings:
        """Measure at `now_s`, any clock that only runs forward; `trainer_pid` is the child that trains."""
        tree, commands, training = self._tree, self._commands, trainer_pid is not None
        commands.at(now_s, training=training)
        power, charging, battery_percent = self._power.read(now_s, loaded=training)
        temp_c, trip_temp_c = self._thermal.read()
        cpu_percent, trainer_percent = self._load.read(trainer_pid)
        network, metered = probe_network.read(tree, commands)
        graphical_session, input_idle_s = probe_session.read(tree, commands)
        found = Readings(
            power=power,
            charging=charging,
            battery_percent=battery_percent,
            under_voltage=self._supply.under_voltage(),
            throttled=self._supply.throttled(),
            cpu_cap_percent=self._frequency.read(),
            temp_c=temp_c,
            trip_temp_c=trip_temp_c,
            cpu_percent=cpu_percent,
            psi_cpu_percent=probe_load.pressure(tree),
            free_memory_mib=probe_space.memory(tree),
            free_disk_mib=probe_space.disk(self._state_folder),
            network=network,
            metered=metered,
            clock_synchronised=probe_clock.read(tree, commands),
            graphical_session=graphical_session,
            input_idle_s=input_idle_s,
            power_mode=probe_jetson.power_mode(tree),
            power_w=self._rails.read(),
            activity=_activity(activity, trainer_pid, trainer_percent),
        )
        return replace(found, own_gate=self._own_gate.read(found.as_dict(), now_s))


def _activity(activity: Activity, trainer_pid: int | None, trainer_percent: float) -> Activity:
    """Fill in what is measured of the trainer."""
    memory_mib = 0.0 if trainer_pid is None else private_mib(trainer_pid)
    return replace(
        activity,
        training=trainer_pid is not None,
        trainer_cpu_percent=trainer_percent,
        trainer_memory_mib=memory_mib or 0.0,
    )
