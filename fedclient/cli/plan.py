"""A plan as a file: TOML whose keys are the fields of values.Plan, for `fedclient gateway publish --plan`."""

from __future__ import annotations

import difflib
from dataclasses import fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from fedclient import tomlfile
from fedclient.errors import ConfigError, WireError
from fedclient.limits import DAY_BYTES, UPDATE_BYTES
from fedclient.values import PLAN_CODECS, Codec, CodecMode, Plan, Schedule
from fedclient.wire import messages

Choice = TypeVar("Choice", bound=IntEnum)

_MAX_WHOLE: Final = 2**63 - 1  # TOML's own bound; its reader has none, and a float neither
_KINDS: Final[dict[type, tuple[str, tuple[type, ...]]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
}


def read_plan(path: Path) -> Plan:
    """Read a plan; a key left out has its default.  Raises ConfigError, naming the key that is wrong."""
    found = tomlfile.read(path).values
    _check_known(path, found, {item.name for item in fields(Plan)})
    codec = found.pop("codec", _usual_codec(found))
    if not isinstance(codec, dict):
        raise ConfigError(f"{path}: codec is a section: write [codec] and its keys mode, density and bits")
    _check_known(path, codec, {item.name for item in fields(Codec)})
    mode = _choice(path, "codec mode", codec.pop("mode", Codec().mode.name), PLAN_CODECS)
    if mode is CodecMode.FITTED:
        codec.setdefault("density", 1.0)  # the bytes alone decide
    schedule = _choice(path, "schedule", found.pop("schedule", Plan().schedule.name), tuple(Schedule))
    for section, usual in ((found, Plan()), (codec, Codec())):
        for key, value in section.items():
            _check_kind(path, key, value, getattr(usual, key))
    _check_bytes(path, found)
    plan = Plan(**found, schedule=schedule, codec=Codec(mode=mode, **codec))
    try:
        return messages.decode_plan(messages.encode_plan(plan))  # as strict as a device will be
    except WireError as error:
        raise ConfigError(f"{path}: {error}") from None


def _usual_codec(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan without [codec] means: who names bytes leaves the rest to them."""
    return {"mode": CodecMode.FITTED.name} if found.get("max_update_bytes") else {}


def _check_known(path: Path, found: dict[str, Any], names: set[str]) -> None:
    for key in found:
        if key not in names:
            if key in {item.name for item in fields(Codec)}:
                raise ConfigError(f"{path}: unknown key {key} (it belongs in [codec])")
            if key in {item.name for item in fields(Plan)}:
                raise ConfigError(f"{path}: unknown key {key} in [codec]: write it above that line")
            near = difflib.get_close_matches(key, names, n=1)
            raise ConfigError(f"{path}: unknown key {key}{f', did you mean {near[0]}?' if near else ''}")


def _check_bytes(path: Path, found: dict[str, Any]) -> None:
    """Refuse a byte budget that no update can keep; on the wire there is no 0, so only here it is named."""
    for key, (low, high) in (("max_update_bytes", UPDATE_BYTES), ("max_bytes_per_day", DAY_BYTES)):
        if (bound := found.get(key, 0)) and not low <= bound <= high:
            raise ConfigError(f"{path}: {key} is {bound}: choose {low} to {high}, or 0 for none")


def _choice(path: Path, key: str, name: object, choices: tuple[Choice, ...]) -> Choice:
    """Return what is named in small letters; hyphens will do where options have them."""
    named = {choice.name.lower(): choice for choice in choices}
    found = named.get(str(name).lower().replace("-", "_"))
    if found is None:
        raise ConfigError(f"{path}: {key} is {name!r}, expected one of {', '.join(named)}")
    return found


def _check_kind(path: Path, key: str, value: object, usual: object) -> None:
    """Refuse another kind of value than the default is: to Python true is 1, and any text is true."""
    words, kinds = _KINDS[type(usual)]
    if type(value) not in kinds or (isinstance(value, int) and abs(value) > _MAX_WHOLE):
        raise ConfigError(f"{path}: {key} is {str(value)[:40]}, expected {words}")
