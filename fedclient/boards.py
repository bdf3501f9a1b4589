"""The known boards: find their profiles, read them strictly, tell which one this is.

A board is data: `hardware/boards/<name>/profile.toml`, in a checkout or in the wheel.  Which profile a
board has, in this order:

1. an entry of its device tree's `compatible` list: the first entry that any profile names wins;
2. the beginning of its model's name, in whole words: the longest that any profile names wins;
3. the kind of machine, of the generic profiles: so a board that nobody described, and a PC;
4. `UNKNOWN_BOARD`.

Two profiles with one rule are an error when they are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from fedclient import tomlfile
from fedclient.errors import ConfigError
from fedclient.scheduler.probe_board import Identity, identify
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.profile import EVIDENCE, UNKNOWN_BOARD, Match, Profile
from fedclient.scheduler.readings import SENSORS
from fedclient.scheduler.schedule import Policy
from fedclient.tomlfile import Key, TomlFile

PROFILE: Final = "profile.toml"


def _text(name: str, *expected: str) -> Key:
    return Key(name=name, kind="str", expected=expected)


def _texts(name: str) -> Key:
    return Key(name=name, kind="tuple[str, ...]")


def _number(name: str, kind: str, *expected: float) -> Key:
    return Key(name=name, kind=kind, expected=expected)


def _table(*keys: Key) -> dict[str, Key]:
    return {key.name: key for key in keys}


_TOP: Final = _table(_text("title"), _text("evidence", *EVIDENCE))
_SECTIONS: Final = {
    "match": _table(_texts("compatible"), _texts("model"), _text("machine")),
    "sensors": _table(*map(_text, SENSORS)),
    "missing": _table(*map(_text, SENSORS)),
    "thermal": _table(_texts("zones"), _texts("skip_zones")),
    "rails": _table(_texts("total")),
    "trainer": _table(
        _number("threads", "int", 1, 64),
        _number("memory_mib", "int", 32, 1 << 20),
        _number("feature_batch", "int", 1, 4096),
    ),
    "schedule": tomlfile.keys(Policy()),
    "energy": _table(_number("training_w", "float", 0.01, 1000)),
}


def detect(identity: Identity, profiles: Iterable[Profile]) -> Profile:
    """Return the profile of the board that says this of itself."""
    profiles = tuple(profiles)
    by_compatible = {entry: one for one in profiles for entry in one.match.compatible}
    for entry in identity.compatible:
        if entry in by_compatible:
            return by_compatible[entry]
    by_model = {model: one for one in profiles for model in one.match.model}
    named = [model for model in by_model if f"{identity.model} ".startswith(f"{model} ")]
    if named:
        return by_model[max(named, key=len)]
    generic = (one for one in profiles if one.match.machine and one.match.machine == identity.machine)
    return next(generic, UNKNOWN_BOARD)


def here(root: Path = Path("/")) -> Profile:
    """Return the profile of this machine, or of the tree below `root`; raises ConfigError."""
    return detect(identify(Tree(root)), load_all())


def installed() -> Path:
    """Return the folder of the profiles: in the package, else beside it in a checkout."""
    package = Path(__file__).parent
    places = [package / "hardware" / "boards", package.parent / "hardware" / "boards"]
    return next((place for place in places if place.is_dir()), places[0])


def load_all(folder: Path | None = None) -> tuple[Profile, ...]:
    """Read every profile, in the order of their names; raises ConfigError, also for two with one rule."""
    folder = folder or installed()
    try:
        files = [
            one / PROFILE for one in sorted(folder.iterdir()) if one.is_dir() and one.name[0] not in "._"
        ]
    except OSError as error:
        raise ConfigError(f"{folder}: the boards' profiles cannot be read: {error.strerror}") from error
    return _without_ties([tomlfile.read(file) for file in files])


def load(file: Path) -> Profile:
    """Read one profile; raises ConfigError with file, line and key."""
    return _profile(tomlfile.read(file))


def _without_ties(files: Iterable[TomlFile]) -> tuple[Profile, ...]:
    profiles: list[Profile] = []
    taken: dict[tuple[str, str], TomlFile] = {}
    for file in files:
        profile = _profile(file)
        for key, rule in _rules(profile.match):
            if (key, rule) in taken:
                where = taken[key, rule].where("match", key)
                raise file.wrong(f"[match] {key} {rule!r} is taken: {where}", "match", key)
            taken[key, rule] = file
        profiles.append(profile)
    return tuple(profiles)


def _rules(match: Match) -> Iterator[tuple[str, str]]:
    yield from (("compatible", one) for one in match.compatible)
    yield from (("model", one) for one in match.model)
    if match.machine:
        yield "machine", match.machine


def _profile(file: TomlFile) -> Profile:
    """Make the profile of one file, and refuse what contradicts itself."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for section, key, value in file.settings(_SECTIONS, _TOP):
        found[section][key] = value
    for name in _TOP:
        if name not in found[""]:
            raise file.wrong(f"{name} is missing: it must be {_TOP[name].allowed}")
    for problem, names in _contradictions(found):
        raise file.wrong(problem, *names)
    return Profile(
        name=file.path.parent.name,
        match=Match(**found["match"]),
        sensors=found["sensors"],
        missing=found["missing"],
        rails=found["rails"].get("total", ()),
        schedule=found["schedule"],
        **found[""],
        **found["thermal"],
        **found["trainer"],
        **found["energy"],
    )


def _contradictions(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is wrong with the whole, and where it stands."""
    match, zones = found["match"], found["thermal"]
    if not any(match.values()):
        yield "[match] names no board: set compatible, model or machine", ("match",)
    if "machine" in match and len(match) > 1:
        yield "[match] machine is for generic profiles: leave out compatible and model", ("match", "machine")
    for reading in found["missing"]:
        if reading in found["sensors"]:
            yield f"[missing] {reading} is in [sensors], too: a board has it or not", ("missing", reading)
    for zone in zones.get("skip_zones", ()):
        if zone in zones.get("zones", ()):
            yield f"[thermal] skip_zones: {zone!r} is in zones, too", ("thermal", "skip_zones")
    problem = Policy(**found["schedule"]).contradiction()
    if problem:
        about = [
            key for key in tomlfile.mentioned(problem, _SECTIONS["schedule"]) if key in found["schedule"]
        ]
        yield f"[schedule] {problem}", ("schedule", *about[:1])
