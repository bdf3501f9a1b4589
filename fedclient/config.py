"""The owner's settings: TOML files -> Config, or a ConfigError that says what to change, and where.

Which file: --config, else $FEDCLIENT_CONFIG, else /etc/fedclient/config.toml if it is there.  Then
the files of the folder of the same name with `.d` (config.d/*.toml), in name order; a later file's
keys win.  Each field below is one key; `false` in place of a number or text means "none" where
the field may be None.  The commented file that `fedclient init` writes is made from these fields.

What the owner leaves out of [schedule] and [trainer], the board's profile says: `policy_on`, `trainer_on`.
"""

# `key` returns a dataclasses.field, and its default, a path or None, is immutable:
# ruff: noqa: RUF009

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from fedclient import limits, storage, tomlfile
from fedclient.brokers import BrokerSettings, NodeSettings
from fedclient.errors import ConfigError
from fedclient.scheduler.probe_settings import PowerSettings
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.schedule import Policy
from fedclient.tomlfile import Key, TomlFile, key

DEFAULT: Final = Path("/etc/fedclient/config.toml")
MAX_MODEL_MIB: Final = limits.MAX_MODEL_BYTES >> 20
DAY_S: Final = 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacySettings:
    """The floor that no gateway can lower.  Lower values let an update tell more about single samples."""

    min_samples: int = key(32, "distinct samples a job needs; updates of few give them away", 1, 10**6)
    min_per_class: int = key(8, "samples a class needs, or its row of the head is not sent", 1, 10**6)
    allowed_models: tuple[str, ...] = key((), "hashes (64 hex digits) of the only models to run; empty: any")
    share_accuracy: bool = key(default=True, text="send local accuracy (two digits, from 100 samples on)")

    def contradiction(self) -> str:
        """Say which hash is none."""
        bad = [text for text in self.allowed_models if len(text) != 64 or set(text) - set("0123456789abcdef")]
        return f"allowed_models: {reprlib.repr(bad[0])} is not 64 lower-case hex digits" if bad else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitSettings:
    """How much of this device fedclient may take."""

    max_model_mib: int = key(MAX_MODEL_MIB, "largest model, with its head, to fetch", 1, MAX_MODEL_MIB)
    samples_max_rows: int = key(50_000, "samples kept; beyond it the oldest go", 1, 10**8)
    samples_max_mib: int = key(512, "room for samples; beyond it the oldest go", 1, 1 << 20)
    max_update_bytes: int | None = key(
        None, "bytes of one update as an MQTT message, all included", *limits.UPDATE_BYTES, none="the plan's"
    )
    max_update_bytes_per_day: int | None = key(
        None, "bytes of updates in any 24 hours; a plan may say less", *limits.DAY_BYTES, none="the plan's"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerSettings:
    """The child process that trains."""

    threads: int | None = key(None, "processor threads; one processor stays free", 1, 64, none="the board's")
    nice: int = key(19, "priority; 19 yields to everything else", 0, 19)
    idle: bool = key(default=True, text="run only when nothing else wants the processor or the disk")
    memory_mib: int | None = key(None, "memory it may take", 32, 1 << 20, none="the board's")
    timeout_s: float = key(3600.0, "a job that takes longer is ended and counted as failed", 10, 7 * DAY_S)
    grace_s: float = key(10.0, "from asking it to stop to ending it; at the agent's own end 3 s", 0.1, 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoptionSettings:
    """Which heads the owner's app gets."""

    holdout: float = key(0.1, "share of the samples kept from training, to judge heads on", 0, 0.5)
    margin: float = key(0.05, "accuracy that a new head may lose and still be adopted", 0, 1)
    min_samples: int = key(20, "samples to judge with; with fewer, a head is adopted unjudged", 1, 10**6)
    personal: str = key("off", "tune a copy for the app after each job", "off", "finetune")
    finetune_epochs: int = key(5, "passes over the samples for that copy", 1, limits.MAX_EPOCHS)

    @property
    def tuned_epochs(self) -> int:
        """Return how many passes a copy for the app gets: 0 where none is made."""
        return self.finetune_epochs if self.personal == "finetune" else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsSettings:
    """Figures for Prometheus, as a text file that node_exporter picks up."""

    file: Path | None = key(None, "where to write it, such as fedclient.prom")
    every_s: float = key(60.0, "how often", 1, DAY_S)

    def contradiction(self) -> str:
        """Say when nobody would read the file."""
        if self.file is not None and self.file.suffix != ".prom":
            return f"file {self.file} does not end in .prom: node_exporter reads no other"
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """A record of this device's readings, for `fedclient replay`."""

    file: Path | None = key(None, "where to write it")
    every_s: float = key(60.0, "how often to write what changed", 1, DAY_S)
    max_mib: float = key(16.0, "its size; then a new file begins, and one old one stays", 0.01, 1 << 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewaySettings:
    """Only for `fedclient gateway`: when a head is published, and what devices may ask."""

    cohort: int = key(10, "updates that make a new head at once", 2, 10**6)
    min_devices: int = key(3, "fewest updates in a head, whatever the deadline", 2, 10**6)
    deadline_s: float = key(3600.0, "after this, min_devices updates are enough", 1, 30 * DAY_S)
    server_learning_rate: float = key(1.0, "how far a head moves along the mean update", 0.001, 10)
    max_weight_bucket: int = key(10, "most samples that weigh in, as a power of two", 0, 30)
    max_delta_bytes: int | None = key(
        None,
        "bytes from a head to the next; what does not fit comes later",
        *limits.DELTA_BYTES,
        none="3 updates, at least 700",
    )
    holdout: Path | None = key(None, "samples to measure each head on (.npz with x and y)")
    max_pending_updates: int = key(100_000, "updates stored and not yet published", 2, 10**8)
    answers_per_device_per_minute: int = key(60, "receipts for one device", 1, 10**6)
    answers_per_second: int = key(2000, "receipts for all devices", 1, 10**6)
    pace_min_s: int = key(0, "shortest rest of a device between two jobs", 0, limits.MAX_RETRY_WINDOW_S)
    pace_max_s: int = key(0, "longest; each draws its own rest; 0: none", 0, limits.MAX_RETRY_WINDOW_S)

    def contradiction(self) -> str:
        """Say which bound excludes another."""
        if self.pace_min_s > self.pace_max_s:
            return "pace_min_s is above pace_max_s"
        if self.min_devices > self.cohort:
            return f"min_devices ({self.min_devices}) is above cohort ({self.cohort}): set both"
        return ""


Said = Mapping[tuple[str, str], TomlFile]  # (section, key) that a file sets -> the last file that does


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything an owner may set; `Config()` is what an absent file means."""

    state: Path = storage.DEFAULT_STATE
    broker: BrokerSettings = BrokerSettings()
    schedule: Policy = field(default_factory=Policy)
    power: PowerSettings = PowerSettings()
    privacy: PrivacySettings = PrivacySettings()
    limits: LimitSettings = LimitSettings()
    trainer: TrainerSettings = TrainerSettings()
    adoption: AdoptionSettings = AdoptionSettings()
    metrics: MetricsSettings = MetricsSettings()
    trace: TraceSettings = TraceSettings()
    gateway: GatewaySettings = GatewaySettings()
    nodes: NodeSettings = NodeSettings()
    files: tuple[Path, ...] = field(default=(), compare=False)  # those that were read
    said: Said = field(default_factory=dict, compare=False, repr=False)

    def policy_on(self, profile: Profile) -> Policy:
        """Return when to train on this board: its defaults, the owner's settings, the privacy floor.

        Raises ConfigError where what the owner set and what the board brings contradict each other.
        """
        usual = Policy()
        owners = {
            name: getattr(self.schedule, name)
            for name in tomlfile.keys(usual)
            if ("schedule", name) in self.said or getattr(self.schedule, name) != getattr(usual, name)
        }
        values: dict[str, Any] = {**profile.schedule, **owners}
        policy = replace(
            usual,
            **values,
            min_distinct_samples=self.privacy.min_samples,
            max_update_bytes_per_day=self.limits.max_update_bytes_per_day,
        )
        problem = policy.contradiction()
        if problem:
            raise _disagreement(problem, policy, owners, self.said, profile)
        return policy

    def trainer_on(self, profile: Profile) -> TrainerSettings:
        """Return the trainer's settings on this board, with its threads and memory where none are set."""
        free = max(1, len(os.sched_getaffinity(0)) - 1)
        return replace(
            self.trainer,
            threads=min(self.trainer.threads or profile.threads, free),
            memory_mib=self.trainer.memory_mib or profile.memory_mib,
        )


Section = (
    BrokerSettings
    | Policy
    | PowerSettings
    | PrivacySettings
    | LimitSettings
    | TrainerSettings
    | AdoptionSettings
    | MetricsSettings
    | TraceSettings
    | GatewaySettings
    | NodeSettings
)
SECTIONS: Final[dict[str, Section]] = {
    item.name: getattr(Config(), item.name)
    for item in fields(Config)
    if item.name not in ("state", "files", "said")
}
_KEYS: Final = {name: tomlfile.keys(section) for name, section in SECTIONS.items()}
_TOP: Final = {"state": Key(name="state", kind="Path", default=storage.DEFAULT_STATE)}


def find(path: Path | None, env: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the main file, and whether somebody named it (then it must exist)."""
    named = path or (Path(env["FEDCLIENT_CONFIG"]) if env.get("FEDCLIENT_CONFIG") else None)
    return (named, True) if named else (DEFAULT, False)


def load(path: Path | None, env: Mapping[str, str], state: Path | None = None) -> Config:
    """Read the settings; `state` is --state.  Raises ConfigError."""
    files = _files(*find(path, env))
    configured: Path | None = None
    chosen: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    said: dict[tuple[str, str], TomlFile] = {}
    for file in map(tomlfile.read, files):
        for section, name, value in file.settings(_KEYS, _TOP):
            if section:
                chosen[section][name] = value
                said[section, name] = file
            else:
                configured = value
    sections: dict[str, Any] = {name: replace(SECTIONS[name], **values) for name, values in chosen.items()}
    for name, section in sections.items():
        _refuse_contradiction(name, section, said)
    return Config(state=storage.state_folder(state or configured), files=tuple(files), said=said, **sections)


def template(state: Path | None = None) -> str:
    """Return a config file with every key commented out at its default; `state`, if given, is set."""
    lines = [
        "# Settings of fedclient.  Every key is optional.  A line such as `#key = value`, without a space",
        "# after the #, shows a key and its default: take the # away and change the value.",
        "",
        "# the folder that holds all that fedclient knows; a path",
        f"{'' if state else '#'}state = {tomlfile.written(state or storage.DEFAULT_STATE)}",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"# {(type(section).__doc__ or name).splitlines()[0]}", f"[{name}]"]
        for item in _KEYS[name].values():
            lines += [f"# {item.help} ({item.allowed})", f"#{item.name} = {tomlfile.written(item.default)}"]
    return "\n".join(lines) + "\n"


def _files(main: Path, named: bool) -> list[Path]:
    """Return the files to read, in order; a named one is read even if it is not there, to say so."""
    folder = main.parent / f"{main.stem}.d"
    try:
        files = [main] if named or main.exists() else []
        return files + (sorted(folder.glob("*.toml")) if folder.is_dir() else [])
    except OSError as error:
        raise ConfigError(f"{main}: the config file cannot be read: {_reason(error)}") from error


def _refuse_contradiction(name: str, section: Any, said: Said) -> None:
    """Raise ConfigError for keys that do not go together, at one of those that the files set.

    Where one side is a default of [schedule], the board's profile may bring another: `policy_on` judges that.
    """
    problem = section.contradiction() if hasattr(section, "contradiction") else ""
    while problem:
        about = tomlfile.mentioned(problem, _KEYS[name])
        set_ = [one for one in about if (name, one) in said]
        if name != "schedule" or len(set_) == len(about):
            raise said[name, set_[0]].wrong(f"[{name}] {problem}", name, set_[0])
        section = replace(section, **{one: getattr(SECTIONS[name], one) for one in about})
        problem = section.contradiction()


def _disagreement(
    problem: str, policy: Policy, owners: Mapping[str, object], said: Said, profile: Profile
) -> ConfigError:
    """Return the error for a contradiction between what owner, board and defaults say, with each origin."""
    origins, board = {}, f"the profile of board {profile.name}"
    for name in tomlfile.mentioned(problem, tomlfile.keys(policy)):
        if name in owners:
            file = said.get(("schedule", name))
            origins[name] = file.where("schedule", name) if file else "the settings"
        else:
            origins[name] = board if name in profile.schedule else "the defaults"
    first = next((at for name, at in origins.items() if name in owners), board)
    told = ", ".join(f"{name} is from {at}" for name, at in origins.items())
    return ConfigError(f"{first}: [schedule] {problem}: {told}; set both")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
