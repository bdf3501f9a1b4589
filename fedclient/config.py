"""The owner's settings: TOML files -> Config, or a ConfigError that says what to change, and where.

Which file: --config, else $FEDCLIENT_CONFIG, else /etc/fedclient/config.toml if it is there.  Then
the files of the folder of the same name with `.d` (config.d/*.toml), in name order; a later file's
keys win.  Each field below is one key; `false` in place of a number or text means "none" where
the field may be None.  The commented file that `fedclient init` writes is made from these fields.
"""

# `_key` returns a dataclasses.field, and its default, a path or None, is immutable:
# ruff: noqa: RUF009

from __future__ import annotations

import importlib
import reprlib
import sys
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fedclient import limits, storage
from fedclient.errors import ConfigError
from fedclient.scheduler.schedule import Policy
from fedclient.values import Broker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT: Final = Path("/etc/fedclient/config.toml")
MAX_MODEL_MIB: Final = limits.MAX_MODEL_BYTES >> 20
DAY_S: Final = 24 * 3600
T = TypeVar("T")


def _key(default: T, text: str, *expected: object) -> T:
    """Declare one key: its default, its help, and its range (two numbers) or choices (texts)."""
    return field(default=default, metadata={"help": text, "expected": expected})


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerSettings:
    """The MQTT broker, where it differs from the invitation, and how to prove who we are."""

    host: str | None = _key(None, "its name or address, in place of the invitation's")
    port: int | None = _key(None, "its port; with a host and no port: 8883, or 1883 without TLS", 1, 65535)
    tls: str = _key("invited", "whether to use TLS; without an invitation: on", "invited", "on", "off")
    ca_file: Path | None = _key(None, "certificates to trust, PEM; none: the system's")
    cert_file: Path | None = _key(None, "this client's certificate, PEM")
    key_file: Path | None = _key(None, "the key of that certificate, PEM")
    username: str | None = _key(None, "MQTT user name")
    password_file: Path | None = _key(None, "file of mode 0600 that holds the MQTT password")
    allow_plaintext: bool = _key(default=False, text="go without TLS beyond this machine")
    keepalive_s: int = _key(240, "silence after which to ping; hosted brokers drop idle links", 10, 65535)
    mqtt_version: str = _key("3.1.1", "protocol version", "3.1.1", "5")
    connect_timeout_s: float = _key(4.0, "how long to try each address of the broker", 1, 300)
    retry_min_s: float = _key(5.0, "first pause between attempts; it doubles each time", 0.1, DAY_S)
    retry_max_s: float = _key(300.0, "longest pause between attempts", 0.1, DAY_S)

    def contradiction(self) -> str:
        """Say which keys do not go together, or nothing."""
        if (self.cert_file is None) != (self.key_file is None):
            return "cert_file and key_file go together: set both or neither"
        if self.password_file is not None and self.username is None:
            return "password_file needs a username"
        if self.tls == "off" and (self.ca_file or self.cert_file):
            return 'ca_file and cert_file mean nothing with tls = "off"'
        if self.retry_min_s > self.retry_max_s:
            return "retry_min_s is above retry_max_s"
        return ""

    def resolve(self, invited: Broker | None = None) -> Broker:
        """Return the broker to connect to; raises ConfigError when none is known or TLS files have no use."""
        if self.host is None and invited is None:
            raise ConfigError("no broker is known: set [broker] host")
        tls = self.tls == "on" if self.tls != "invited" else invited is None or invited.tls
        if not tls and (self.ca_file or self.cert_file):
            raise ConfigError('[broker] ca_file or cert_file is set without TLS: set tls = "on" there')
        port = self.port or (8883 if tls else 1883)
        if self.host is None and invited is not None:
            return Broker(host=invited.host, port=self.port or invited.port, tls=tls)
        return Broker(host=self.host or "", port=port, tls=tls)

    def password(self) -> str | None:
        """Read the password; raises ConfigError when others could read it too."""
        path = self.password_file
        if path is None:
            return None
        try:
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                raise ConfigError(f"{path}: others may read this password (mode {mode:04o}): chmod 0600 it")
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: [broker] password_file cannot be read: {_reason(error)}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacySettings:
    """The floor that no gateway can lower.  Lower values let an update tell more about single samples."""

    min_samples: int = _key(32, "distinct samples a job needs; updates of few give them away", 1, 10**6)
    min_per_class: int = _key(8, "samples a class needs, or its row of the head is not sent", 1, 10**6)
    allowed_models: tuple[str, ...] = _key((), "hashes (64 hex digits) of the only models to run; empty: any")
    share_accuracy: bool = _key(default=True, text="send local accuracy (two digits, from 100 samples on)")

    def contradiction(self) -> str:
        """Say which hash is none."""
        bad = [text for text in self.allowed_models if len(text) != 64 or set(text) - set("0123456789abcdef")]
        return f"allowed_models: {reprlib.repr(bad[0])} is not 64 lower-case hex digits" if bad else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitSettings:
    """How much of this device fedclient may take."""

    max_model_mib: int = _key(MAX_MODEL_MIB, "largest model, with its head, to fetch", 1, MAX_MODEL_MIB)
    samples_max_rows: int = _key(50_000, "samples kept; beyond it the oldest go", 1, 10**8)
    samples_max_mib: int = _key(512, "room for samples; beyond it the oldest go", 1, 1 << 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerSettings:
    """The child process that trains."""

    threads: int = _key(1, "processor threads", 1, 64)
    nice: int = _key(19, "priority; 19 yields to everything else", 0, 19)
    idle: bool = _key(default=True, text="run only when nothing else wants the processor or the disk")
    memory_mib: int | None = _key(None, "memory it may take", 32, 1 << 20)
    timeout_s: float = _key(3600.0, "a job that takes longer is ended and counted as failed", 10, 7 * DAY_S)
    grace_s: float = _key(10.0, "from asking it to stop to ending it; at the agent's own end 3 s", 0.1, 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewaySettings:
    """Only for `fedclient gateway`: when a head is published, and what devices may ask."""

    cohort: int = _key(10, "updates that make a new head at once", 2, 10**6)
    min_devices: int = _key(3, "fewest updates in a head, whatever the deadline", 2, 10**6)
    deadline_s: float = _key(3600.0, "after this, min_devices updates are enough", 1, 30 * DAY_S)
    server_learning_rate: float = _key(1.0, "how far a head moves along the mean update", 0.001, 10)
    max_weight_bucket: int = _key(10, "most samples that weigh in, as a power of two", 0, 30)
    holdout: Path | None = _key(None, "samples to measure each head on (.npz with x and y)")
    max_pending_updates: int = _key(100_000, "updates stored and not yet published", 2, 10**8)
    answers_per_device_per_minute: int = _key(60, "receipts for one device", 1, 10**6)
    answers_per_second: int = _key(2000, "receipts for all devices", 1, 10**6)

    def contradiction(self) -> str:
        """Say which bound excludes another."""
        return "min_devices is above cohort" if self.min_devices > self.cohort else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything an owner may set; `Config()` is what an absent file means."""

    state: Path = storage.DEFAULT_STATE
    broker: BrokerSettings = BrokerSettings()
    schedule: Policy = field(default_factory=Policy)
    privacy: PrivacySettings = PrivacySettings()
    limits: LimitSettings = LimitSettings()
    trainer: TrainerSettings = TrainerSettings()
    gateway: GatewaySettings = GatewaySettings()
    files: tuple[Path, ...] = field(default=(), compare=False)  # those that were read

    @property
    def policy(self) -> Policy:
        """When to train: the schedule under the privacy floor."""
        return replace(self.schedule, min_distinct_samples=self.privacy.min_samples)


Section = BrokerSettings | Policy | PrivacySettings | LimitSettings | TrainerSettings | GatewaySettings
SECTIONS: Final[dict[str, Section]] = {
    item.name: getattr(Config(), item.name) for item in fields(Config) if item.name not in ("state", "files")
}
_STATE: Final = next(item for item in fields(Config) if item.name == "state")


def find(path: Path | None, env: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the main file, and whether somebody named it (then it must exist)."""
    named = path or (Path(env["FEDCLIENT_CONFIG"]) if env.get("FEDCLIENT_CONFIG") else None)
    return (named, True) if named else (DEFAULT, False)


def load(path: Path | None, env: Mapping[str, str], state: Path | None = None) -> Config:
    """Read the settings; `state` is --state.  Raises ConfigError."""
    main, named = find(path, env)
    files = _files(main, named)
    configured: Path | None = None
    chosen: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for file in files:
        for section, key, value in _settings(file, read_toml(file)):
            if section:
                chosen[section][key] = value
            else:
                configured = value
    sections: dict[str, Any] = {name: replace(SECTIONS[name], **keys) for name, keys in chosen.items()}
    for name, section in sections.items():
        problem = section.contradiction() if hasattr(section, "contradiction") else ""
        if problem:
            raise ConfigError(f"{main}: [{name}] {problem}")
    return Config(state=storage.state_folder(state or configured), files=tuple(files), **sections)


def template(state: Path | None = None) -> str:
    """Return a config file with every key commented out at its default; `state`, if given, is set."""
    lines = [
        "# Settings of fedclient.  Every key is optional.  A line such as `#key = value`, without a space",
        "# after the #, shows a key and its default: take the # away and change the value.",
        "",
        "# the folder that holds all that fedclient knows; a path",
        f"state = {_toml(state)}" if state else f"#state = {_toml(storage.DEFAULT_STATE)}",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"# {(type(section).__doc__ or name).splitlines()[0]}", f"[{name}]"]
        for key, item in _keys(section).items():
            lines += [f"# {item.metadata['help']} ({_expected(item)})", f"#{key} = {_toml(item.default)}"]
    return "\n".join(lines) + "\n"


def _files(main: Path, named: bool) -> list[Path]:
    """Return the files to read, in order; a named one is read even if it is not there, to say so."""
    folder = main.parent / f"{main.stem}.d"
    try:
        files = [main] if named or main.exists() else []
        return files + (sorted(folder.glob("*.toml")) if folder.is_dir() else [])
    except OSError as error:
        raise ConfigError(f"{main}: the config file cannot be read: {_reason(error)}") from error


def read_toml(file: Path) -> dict[str, Any]:
    """Read a file that a person wrote; raises ConfigError, with line and column where it is not TOML."""
    # On 3.10 the same parser comes as tomli.  Loaded here, since a machine without files needs neither.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with file.open("rb") as stream:
            parsed: dict[str, Any] = toml.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:  # or not UTF-8
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    return parsed


def _settings(file: Path, parsed: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (section, key, value), checked; the section of `state` is empty."""
    for name, found in parsed.items():
        if name == "state":
            yield "", name, _value(_STATE, found, f"{file}: state", file.parent)
        elif name not in SECTIONS:
            raise ConfigError(
                f"{file}: unknown {'section' if isinstance(found, dict) else 'key'} {_hint(name)}"
            )
        elif not isinstance(found, dict):
            raise ConfigError(f"{file}: {name} is a section: write [{name}] and its keys below")
        else:
            keys = _keys(SECTIONS[name])
            for key, value in found.items():
                if key not in keys:
                    raise ConfigError(f"{file}: unknown key in [{name}]: {_hint(key, keys)}")
                yield name, key, _value(keys[key], value, f"{file}: [{name}] {key}", file.parent)


def _keys(section: Section) -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(section) if "help" in item.metadata}


def _hint(name: str, near: Iterable[str] = ()) -> str:
    """Return the unknown name with the known one that was probably meant."""
    import difflib  # noqa: PLC0415 - only a mistake needs it

    owners = [section for section, defaults in SECTIONS.items() if name in _keys(defaults)]
    meant = difflib.get_close_matches(name, near or [*SECTIONS, "state"], n=1, cutoff=0.5)
    if owners:
        return f"{name} (it belongs in [{owners[0]}])"
    return f"{name}, did you mean {meant[0]}?" if meant else name


def _value(item: Field[Any], found: object, where: str, folder: Path) -> object:
    """Return the value in the field's type; raises ConfigError with what was found and what is expected."""
    kind, optional = _kind(item)
    if optional and found is False:
        return None
    expected = item.metadata.get("expected", ())
    fits = _is_a(kind, found)
    if fits and expected:
        fits = found in expected if kind == "str" else expected[0] <= found <= expected[1]
    if not fits:
        raise ConfigError(f"{where} is {reprlib.repr(found)}, but must be {_expected(item)}")
    if kind == "Path":
        return folder / str(found)  # a relative path starts at the file that names it
    return {"float": float, "tuple[str, ...]": tuple}.get(kind, type(found))(found)


def _is_a(kind: str, found: object) -> bool:
    """Tell whether TOML's type fits; its booleans are no numbers."""
    if kind == "tuple[str, ...]":
        return isinstance(found, list) and all(isinstance(one, str) for one in found)
    types = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "Path": (str,)}
    return type(found) in types[kind] and found != ""


def _kind(item: Field[Any]) -> tuple[str, bool]:
    """Return the annotation without None, and whether None may be."""
    annotation = str(item.type)
    return annotation.removesuffix(" | None"), annotation.endswith(" | None")


def _expected(item: Field[Any]) -> str:
    """Say what a key may be, for errors and for the template."""
    kind, optional = _kind(item)
    text = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "str": "a text",
        "Path": "a path",
        "tuple[str, ...]": "a list of texts",
    }[kind]
    expected = [_toml(one) for one in item.metadata.get("expected", ())]
    if kind == "str" and expected:
        text = "one of " + ", ".join(expected)
    elif expected:
        text += f" from {expected[0]} to {expected[1]}"
    return text + (", or false for none" if optional else "")


def _toml(value: object) -> str:
    """Write a default as TOML; a JSON string or list of them is one."""
    import json  # noqa: PLC0415 - an app that records samples writes no template

    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) else str(value)
    return json.dumps(
        False if value is None else str(value) if isinstance(value, Path) else value, ensure_ascii=False
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
