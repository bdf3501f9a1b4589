"""TOML that people write: declared keys, checked values, and mistakes named by file, line and key.

A section is a frozen dataclass.  Each field with `help` in its metadata is a key; `expected` there is
a range (two numbers) or the choices (texts; of a list: those of its elements), and `none` is what
`false` means where the field may be None.  TOML's parser gives no positions, so `line_of` finds them.
"""

from __future__ import annotations

import importlib
import re
import reprlib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fedclient.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")

MAX_BYTES: Final = 1 << 20  # a hundred times a config with all its help
UNITS: Final = {
    "s": "seconds",
    "c": "degrees Celsius",
    "percent": "percent",
    "mib": "MiB",
    "j": "joules",
    "w": "watts",
}
_KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "Path": "a path",
    "tuple[str, ...]": "a list of texts",
}
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # strings: of many lines, then of one
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[A-Za-z0-9_-]+|[\[\]{}=,.\n]",
    re.DOTALL,
)


def key(default: T, text: str, *expected: object, none: str = "none") -> T:
    """Declare one key: its default, its help, its range or choices, and what `false` means."""
    return field(default=default, metadata={"help": text, "expected": expected, "none": none})


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What a key may be."""

    name: str
    kind: str  # the annotation without None
    optional: bool = False  # `false` is None
    default: Any = None
    help: str = ""
    expected: tuple[Any, ...] = ()
    none: str = "none"

    @property
    def allowed(self) -> str:
        """Say what the value may be, for errors and for the template."""
        text, expected = _KINDS[self.kind], [written(one) for one in self.expected]
        if self.kind == "str" and expected:
            text = "one of " + ", ".join(expected)
        elif self.kind == "tuple[str, ...]" and expected:
            text = "a list of " + ", ".join(expected)
        elif expected:
            text += f" from {expected[0]} to {expected[1]}"
        return text + (f", or false for {self.none}" if self.optional else "")

    def check(self, found: object, folder: Path) -> Any:
        """Return the value in the field's type; raises ValueError: what was found, what is expected."""
        if self.optional and found is False:
            return None
        if not _fits(self, found):
            unit = f" (in {unit_of(self.name)})" if unit_of(self.name) else ""
            raise ValueError(f"is {reprlib.repr(found)}, but must be {self.allowed}{unit}")
        if self.kind == "Path":
            return folder / str(found)  # a relative path starts at the file that names it
        return {"float": float, "tuple[str, ...]": tuple}.get(self.kind, type(found))(found)


def keys(section: Any) -> dict[str, Key]:
    """Return the keys that a dataclass declares."""
    found = {}
    for item in fields(section):
        if "help" in item.metadata:
            annotation = str(item.type)
            found[item.name] = Key(
                name=item.name,
                kind=annotation.removesuffix(" | None"),
                optional=annotation.endswith(" | None"),
                default=item.default,
                help=item.metadata["help"],
                expected=tuple(item.metadata.get("expected", ())),
                none=item.metadata.get("none", "none"),
            )
    return found


@dataclass(frozen=True, slots=True)
class TomlFile:
    """One file that was read."""

    path: Path
    text: str = field(repr=False)
    values: dict[str, Any] = field(repr=False)

    def where(self, *names: str) -> str:
        """Return the file, with the line of a section or key where it can be told."""
        line = line_of(self.text, names) if names else None
        return f"{self.path}:{line}" if line else str(self.path)

    def wrong(self, sentence: str, *names: str) -> ConfigError:
        """Return the error for what is written at this section or key."""
        return ConfigError(f"{self.where(*names)}: {sentence}")

    def settings(
        self, sections: Mapping[str, Mapping[str, Key]], top: Mapping[str, Key]
    ) -> Iterator[tuple[str, str, Any]]:
        """Yield (section, key, value), checked; a key in no section has an empty one.  Raises ConfigError."""
        for name, found in self.values.items():
            if name in top:
                yield "", name, self._value(top[name], found, name)
            elif name not in sections:
                what = "section" if isinstance(found, dict) else "key"
                raise self.wrong(f"unknown {what} {_hint(name, (*sections, *top), sections)}", name)
            elif not isinstance(found, dict):
                raise self.wrong(f"{name} is a section: write [{name}] and its keys below", name)
            else:
                known = sections[name]
                for key_, value in found.items():
                    if key_ not in known:
                        hint = _hint(key_, known, sections)
                        raise self.wrong(f"unknown key in [{name}]: {hint}", name, key_)
                    yield name, key_, self._value(known[key_], value, name, key_)

    def _value(self, declared: Key, found: object, *names: str) -> Any:
        try:
            return declared.check(found, self.path.parent)
        except ValueError as error:
            named = names[0] if len(names) == 1 else f"[{names[0]}] {names[1]}"
            raise self.wrong(f"{named} {error}", *names) from None


def read(path: Path) -> TomlFile:
    """Read a file that a person wrote; raises ConfigError, with line and column where it is not TOML."""
    # On 3.10 the same parser comes as tomli.  Loaded here, since a machine without files needs neither.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: it is larger than {MAX_BYTES >> 20} MiB, so it is none of ours")
    try:
        text = data.decode()
        return TomlFile(path, text, toml.loads(text))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: it is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        found = re.search(r"\(at line (\d+),", str(error))
        where = f"{path}:{found[1]}" if found else str(path)
        raise ConfigError(f"{where}: not valid TOML: {error}") from error


def unit_of(name: str) -> str:
    """Return the unit that the end of a key's name stands for."""
    return UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def mentioned(sentence: str, known: Iterable[str]) -> list[str]:
    """Return the keys that a sentence is about, in its order; what it quotes does not count."""
    words = re.findall(r"\w+", re.sub(r"'[^']*'|\"[^\"]*\"", "", sentence))
    return [word for word in dict.fromkeys(words) if word in set(known)]


def written(value: object) -> str:
    """Write a value as TOML; a JSON string or list of them is one."""
    import json  # noqa: PLC0415 - an app that records samples writes no template

    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) else str(value)
    return json.dumps(
        False if value is None else str(value) if isinstance(value, Path) else value, ensure_ascii=False
    )


def line_of(text: str, names: tuple[str, ...]) -> int | None:
    """Return the line on which valid TOML says this section or key, or None where that cannot be told."""
    prefix: tuple[str, ...] = ()
    for statement in _statements(text):
        offset: int | None = statement[0].start()
        if statement[0].group() == "[":
            prefix = _names(statement)
            if prefix[: len(names)] != names:
                continue
        else:
            offset = _assigned(statement, prefix, names)
        if offset is not None:
            return text.count("\n", 0, offset) + 1
    return None


def _fits(declared: Key, found: object) -> bool:
    """Tell whether type and range fit; TOML's booleans are no numbers."""
    expected = declared.expected
    if declared.kind == "tuple[str, ...]":
        texts = isinstance(found, list) and all(isinstance(one, str) and one for one in found)
        return texts and (not expected or set(found) <= set(expected))  # type: ignore[call-overload]
    types = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "Path": (str,)}
    if type(found) not in types[declared.kind] or found == "":
        return False
    if isinstance(found, str):
        return "\0" not in found and (not expected or found in expected)
    return not expected or bool(expected[0] <= found <= expected[1])


def _hint(name: str, near: Iterable[str], sections: Mapping[str, Mapping[str, Key]]) -> str:
    """Return the unknown name with the known one, and its unit, that was probably meant."""
    import difflib  # noqa: PLC0415 - only a mistake needs it

    shown = name if name.isprintable() and len(name) <= 60 else reprlib.repr(name)
    owners = [section for section, known in sections.items() if name in known]
    if owners:
        return f"{shown} (it belongs in [{owners[0]}])"
    stems = {name, name.rpartition("_")[0]}
    near = list(near)
    meant = [known for known in near if unit_of(known) and known.rpartition("_")[0] in stems]
    meant = meant or difflib.get_close_matches(name, near, n=1, cutoff=0.5)
    if not meant:
        return shown
    unit = f" (in {unit_of(meant[0])})" if unit_of(meant[0]) else ""
    return f"{shown}, did you mean {meant[0]}{unit}?"


# --- where a key is written -----------------------------------------------------------------------


def _statements(text: str) -> Iterator[list[re.Match[str]]]:
    """Yield the tokens of each header or assignment; a list in brackets may span lines."""
    statement: list[re.Match[str]] = []
    depth = 0
    for token in _TOKEN.finditer(text):
        sign = token.group()
        if sign == "\n":
            if statement and not depth:
                yield statement
                statement = []
        elif not sign.startswith("#"):
            depth += _deeper(sign)
            statement.append(token)
    if statement:
        yield statement


def _assigned(tokens: list[re.Match[str]], prefix: tuple[str, ...], names: tuple[str, ...]) -> int | None:
    """Return where `names` stands in one assignment, inline tables included."""
    signs = [token.group() for token in tokens]
    if "=" not in signs:
        return None
    value = signs.index("=") + 1
    path = prefix + _names(tokens[: value - 1])
    if path[: len(names)] == names:
        return tokens[0].start()
    if path != names[: len(path)] or signs[value : value + 1] != ["{"]:
        return None
    begin, depth = value + 1, 0
    for at in range(begin, len(signs)):
        if depth == 0 and signs[at] in (",", "}"):
            found = _assigned(tokens[begin:at], path, names)
            if found is not None:
                return found
            begin = at + 1
        depth += _deeper(signs[at])
    return None


def _deeper(sign: str) -> int:
    return (sign in ("[", "{")) - (sign in ("]", "}"))


def _names(tokens: Iterable[re.Match[str]]) -> tuple[str, ...]:
    """Return the parts of a dotted key, or of a header."""
    return tuple(_name(token.group()) for token in tokens if token.group() not in (".", "[", "]"))


def _name(sign: str) -> str:
    if sign.startswith("'"):
        return sign[1:-1]
    if not sign.startswith('"'):
        return sign
    import json  # noqa: PLC0415 - for an error only

    try:
        return str(json.loads(sign))  # TOML's escapes, but for \U
    except ValueError:
        return sign
