"""Keys that people write: what fits, what is said of what does not, and on which line it stands."""

# ruff: noqa: RUF009

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import tomlfile
from fedclient.errors import ConfigError
from fedclient.tomlfile import Key, TomlFile, key, keys, line_of, mentioned, read, written

# --- where a key is written ---------------------------------------------------------------------------

TEXT = '''\
# [schedule] poll_s = 1
title = "a = 1 # [schedule]"
"quoted key" = 1
'literal' = 2
"caf\\u00e9" = 3
trainer.threads = 2
power = { file = "x", "assume" = "mains", deep = { er = 1 } }

[schedule] # poll_s = 2
  windows = [
    "poll_s = 3",  # ]
    "[trainer]",
  ]
text = """
poll_s = 4
[metrics]
\\""" still """" # say "[
other = \'\'\'
poll_s = 5 \'\'\'\' # it's [
poll_s=6
pause_temp_c   =   1
[ "metrics" ]
file = ''
nested.every_s = 1
[a.b.'c d']
key = 1
[[array]]
one = 1
'''


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("title",), 2),
        (("quoted key",), 3),
        (("literal",), 4),
        (("café",), 5),
        (("trainer",), 6),
        (("trainer", "threads"), 6),
        (("power",), 7),
        (("power", "file"), 7),
        (("power", "assume"), 7),
        (("power", "deep", "er"), 7),
        (("schedule",), 9),
        (("schedule", "windows"), 10),
        (("schedule", "text"), 14),
        (("schedule", "other"), 18),
        (("schedule", "poll_s"), 20),
        (("schedule", "pause_temp_c"), 21),
        (("metrics",), 22),
        (("metrics", "file"), 23),
        (("metrics", "nested", "every_s"), 24),
        (("a",), 25),
        (("a", "b", "c d", "key"), 26),
        (("array",), 27),
        (("schedule", "file"), None),
        (("poll_s",), None),
        (("power", "mains"), None),
        (("threads",), None),
        (("nothing",), None),
    ],
)
def test_the_line_of_a_key(names: tuple[str, ...], line: int | None) -> None:
    assert line_of(TEXT, names) == line


def test_lines_of_another_system_are_counted_too() -> None:
    assert line_of("[a]\r\nx = [\r\n1]\r\ny = 2\r\n", ("a", "y")) == 4


def test_a_key_whose_name_cannot_be_told_has_no_line(tmp_path: Path) -> None:
    text = '"\\U0001F600" = 1\n'
    assert line_of(text, ("\U0001f600",)) is None
    assert TomlFile(tmp_path, text, {}).where("\U0001f600") == str(tmp_path)


NAMES = st.sampled_from(["a", "b-1", "c_d", "1", "two words", "a.b", "#", "[a]", "é"])
VALUES = st.sampled_from(
    [
        *("1", "-1.5e3", '"a = 1"', "'[a]'", "[\n1, # ]\n[2]\n]", '"""\na = 1\n[b]\n\\""""', "'''\n[a]\n'''"),
        *(
            "1979-05-27T07:32:00.5+01:00",
            "+inf",
            '"\\"# ["',
            '""',
            "''",
            '{ x = "}", "y z" = [1] }',
            "[]",
            "{}",
        ),
    ]
)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4), st.data())
def test_every_key_of_every_text_is_found(tables: dict[str, dict[str, str]], data: st.DataObject) -> None:
    """Written in one of three ways; what stands in strings and comments finds nothing."""
    text, expected = "", {}

    def name(plain: str) -> str:
        bare = plain.replace("-", "").replace("_", "").isalnum() and plain.isascii()
        ways = [json.dumps(plain, ensure_ascii=False), json.dumps(plain), f"'{plain}'", *[plain] * bare]
        return data.draw(st.sampled_from(ways))

    dotted = data.draw(st.booleans())
    for table, entries in tables.items():
        if not dotted:
            text += f"# a = 1\n[{name(table)}]\n"
        for one, value in entries.items():
            expected[table, one] = text.count("\n") + 1
            text += f"{name(table)} . {name(one)} = " if dotted else f"\t{name(one)}= "
            text += f"{value} # b = 1 [a]\n\n"
    tomlfile.importlib.import_module("tomllib" if tomlfile.sys.version_info >= (3, 11) else "tomli").loads(
        text
    )
    for (table, one), line in expected.items():
        assert line_of(text, (table, one)) == line, text
    absent = {(table, one) for table in tables for one in ("x", "absent")}
    assert {line_of(text, names) for names in absent} <= {None}


@given(st.text(max_size=80), st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_any_text_has_a_line_or_none(text: str, names: list[str]) -> None:
    found = line_of(text, tuple(names))
    assert found is None or 1 <= found <= text.count("\n") + 1


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "found", "value"),
    [
        ("bool", (), True, True),
        ("int", (1, 3), 3, 3),
        ("float", (1, 3), 3, 3.0),
        ("str", (), "x", "x"),
        ("str", ("a", "b"), "b", "b"),
        ("Path", (), "x/y", Path("/etc/x/y")),
        ("Path", (), "/x", Path("/x")),
        ("tuple[str, ...]", (), [], ()),
        ("tuple[str, ...]", (), ["x"], ("x",)),
        ("tuple[str, ...]", ("a", "b"), ["b", "a"], ("b", "a")),
    ],
)
def test_what_fits(kind: str, expected: tuple[object, ...], found: object, value: object) -> None:
    got = Key(name="k", kind=kind, expected=expected).check(found, Path("/etc"))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("kind", "expected", "found"),
    [
        ("bool", (), 1),
        ("int", (1, 3), 4),
        ("int", (1, 3), 2.0),
        ("int", (0, 3), True),
        ("float", (1, 3), 0.9),
        ("float", (1, 3), float("nan")),
        ("float", (0, 3), False),
        ("str", (), ""),
        ("str", (), "a\0b"),
        ("str", ("a", "b"), "c"),
        ("str", (), ["x"]),
        ("Path", (), ""),
        ("Path", (), "a\0b"),
        ("tuple[str, ...]", (), "x"),
        ("tuple[str, ...]", (), ["x", 1]),
        ("tuple[str, ...]", (), [["x"]]),
        ("tuple[str, ...]", (), ["x", ""]),
        ("tuple[str, ...]", ("a", "b"), ["a", "c"]),
        ("bool", (), None),
        ("bool", (), {}),
    ],
)
def test_what_does_not(kind: str, expected: tuple[object, ...], found: object) -> None:
    with pytest.raises(ValueError, match=r"^is .*, but must be "):
        Key(name="k", kind=kind, expected=expected).check(found, Path())


def test_false_is_none_only_where_none_may_be() -> None:
    one = Key(name="k_w", kind="float", optional=True, expected=(1, 2), none="the board's")
    assert one.check(False, Path()) is None  # noqa: FBT003
    with pytest.raises(
        ValueError, match=r"0, but must be a number from 1 to 2, or false for the board's .in watts."
    ):
        one.check(0, Path())


def test_a_dataclass_declares_its_keys() -> None:
    @dataclass(kw_only=True)
    class Section:
        plain: int = 1
        port: "int | None" = key(None, "its port", 1, 9, none="any")
        hosts: "tuple[str, ...]" = key((), "its hosts")

    assert (
        keys(Section)
        == keys(Section())
        == {
            "port": Key(name="port", kind="int", optional=True, help="its port", expected=(1, 9), none="any"),
            "hosts": Key(name="hosts", kind="tuple[str, ...]", default=(), help="its hosts"),
        }
    )


# --- a file -------------------------------------------------------------------------------------------

SECTIONS = {
    "one": {"poll_s": Key(name="poll_s", kind="int", expected=(1, 9)), "name": Key(name="name", kind="str")},
    "near": {name: Key(name=name, kind="int") for name in ("poll_s", "poll_minimum")},
    "two": {"size_mib": Key(name="size_mib", kind="int", expected=(1, 9))},
}
TOP = {"title": Key(name="title", kind="str")}


def settings(path: Path, text: str) -> list[tuple[str, str, object]]:
    path.write_text(text)
    return list(read(path).settings(SECTIONS, TOP))


def test_settings_come_in_order_with_their_section(tmp_path: Path) -> None:
    assert settings(tmp_path / "a", "title = 't'\n[two]\nsize_mib = 1\n[one]\npoll_s = 2") == [
        ("", "title", "t"),
        ("two", "size_mib", 1),
        ("one", "poll_s", 2),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ntitle = 1", "2: title is 1, but must be a text"),
        ("\n[one]\npoll_s = 0", "3: [one] poll_s is 0, but must be a whole number from 1 to 9 (in seconds)"),
        ("[one]\n\npoll_min = 1", "3: unknown key in [one]: poll_min, did you mean poll_s (in seconds)?"),
        ("[near]\npoll_min = 1", "2: unknown key in [near]: poll_min, did you mean poll_s (in seconds)?"),
        ("[one]\npoll = 1", "2: unknown key in [one]: poll, did you mean poll_s (in seconds)?"),
        ("[one]\nnam = 1", "2: unknown key in [one]: nam, did you mean name?"),
        ("[one]\nsize_mib = 1", "2: unknown key in [one]: size_mib (it belongs in [two])"),
        ("[one]\nzzz = 1", "2: unknown key in [one]: zzz"),
        ('[one]\n"a\\nb" = 1', "2: unknown key in [one]: 'a\\nb'"),
        ("\n[oen]", "2: unknown section oen, did you mean one?"),
        ("titel = 1", "1: unknown key titel, did you mean title?"),
        ("one = 1", "1: one is a section: write [one] and its keys below"),
        ("one = {poll_s = 0}", "1: [one] poll_s is 0, but must be a whole number from 1 to 9 (in seconds)"),
        ("[[one]]\npoll_s = 1", "1: one is a section: write [one] and its keys below"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path / "a.toml", text)
    assert str(caught.value) == f"{tmp_path / 'a.toml'}:{said}"


def test_what_is_no_toml_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for data, said in [
        (b"a = 1\n\nb = = 2", r":3: not valid TOML: .*column 5"),
        (b"a = 1\nb = '\xff'", r":2: not valid TOML: it is not UTF-8 text$"),
        (b"a = " + b"[" * 5000, r": not valid TOML: "),
        (b"a = " + b"9" * 5000, r": not valid TOML: "),
    ]:
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=said):
            read(file)
    with pytest.raises(ConfigError, match=r": it cannot be read: No such file"):
        read(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r": it cannot be read: Is a directory"):
        read(tmp_path)


def test_a_sentence_mentions_keys_in_its_order_and_quotes_none() -> None:
    assert mentioned("b is above a; b: 'c' and \"d\" are not e_s", "abcde") == ["b", "a"]


def test_values_are_written_as_toml_reads_them(tmp_path: Path) -> None:
    for value, text in [(1.0, "1"), (0.5, "0.5"), (None, "false"), (True, "true"), (Path("/é"), '"/é"')]:
        assert written(value) == text
    assert written(("a", "b")) == '["a", "b"]'


def test_a_file_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(ConfigError, match=r"/dev/zero: .* larger than"):
        tomlfile.read(Path("/dev/zero"))
