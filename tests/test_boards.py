"""Which profile a board has, and what no profile may say."""

from pathlib import Path

import pytest

from fedclient import boards
from fedclient.boards import detect, load, load_all
from fedclient.errors import ConfigError
from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.profile import UNKNOWN_BOARD, Match, Profile
from fedclient.scheduler.readings import SENSORS
from fedclient.scheduler.schedule import Policy

PI4 = """\
title = "Raspberry Pi 4 Model B"
evidence = "documents"

[match]
compatible = ["raspberrypi,4-model-b"]
model = ["Raspberry Pi 4 Model B"]

[sensors]
temp_c = "thermal zone cpu-thermal"

[missing]
battery_percent = "it has none"

[thermal]
zones = ["cpu-thermal"]
skip_zones = ["gpu"]

[rails]
total = ["VDD_IN"]

[trainer]
threads = 2
memory_mib = 256
feature_batch = 16

[schedule]
pause_temp_c = 75
resume_temp_c = 65.5
min_battery_percent = false

[energy]
training_w = 3
"""


def write(folder: Path, text: str, name: str = "board") -> Path:
    file = folder / name / "profile.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# --- what a profile says --------------------------------------------------------------------------------


def test_a_profile_is_what_its_file_says(tmp_path: Path) -> None:
    assert load(write(tmp_path, PI4, "pi4")) == Profile(
        name="pi4",
        title="Raspberry Pi 4 Model B",
        evidence="documents",
        match=Match(compatible=("raspberrypi,4-model-b",), model=("Raspberry Pi 4 Model B",)),
        sensors={"temp_c": "thermal zone cpu-thermal"},
        missing={"battery_percent": "it has none"},
        zones=("cpu-thermal",),
        skip_zones=("gpu",),
        rails=("VDD_IN",),
        training_w=3.0,
        threads=2,
        memory_mib=256,
        feature_batch=16,
        schedule={"pause_temp_c": 75.0, "resume_temp_c": 65.5, "min_battery_percent": None},
    )


def test_little_is_enough(tmp_path: Path) -> None:
    text = 'title = "T"\nevidence = "board"\n[match]\nmachine = "riscv64"\n'
    expected = Profile(name="r", title="T", evidence="board", match=Match(machine="riscv64"))
    assert load(write(tmp_path, text, "r")) == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Raspberry Pi 4 Model B"\n', "", ": title is missing: it must be a text"),
        ('evidence = "documents"\n', "", ': evidence is missing: it must be one of "board", "emulation", '),
        ('"documents"', '"hearsay"', ':2: evidence is \'hearsay\', but must be one of "board", "emulation",'),
        ("evidence", "evidense", ":2: unknown key evidense, did you mean evidence?"),
        ("[thermal]", "[thermals]", ":14: unknown section thermals, did you mean thermal?"),
        ("skip_zones", "skip_zone", ":16: unknown key in [thermal]: skip_zone, did you mean skip_zones?"),
        (
            'model = ["',
            'model = ["", "',
            ":6: [match] model is ['', 'Raspberry Pi 4 Model B'], but must be a",
        ),
        ("[match]", "[match]\nmachine = 'x'", ":5: [match] machine is for generic profiles: leave out"),
        ("battery_percent = ", "batery_percent = ", ":12: unknown key in [missing]: batery_percent, did you"),
        (
            "battery_percent = ",
            "temp_c = ",
            ":12: [missing] temp_c is in [sensors], too: a board has it or not",
        ),
        ('"it has none"', '""', ":12: [missing] battery_percent is '', but must be a text"),
        (
            "temp_c =",
            "temp_f =",
            ":9: unknown key in [sensors]: temp_f, did you mean temp_c (in degrees Celsius)?",
        ),
        ('["gpu"]', '["cpu-thermal"]', ":16: [thermal] skip_zones: 'cpu-thermal' is in zones, too"),
        (
            "threads = 2",
            "threads = 0",
            ":22: [trainer] threads is 0, but must be a whole number from 1 to 64",
        ),
        (
            "memory_mib",
            "memory_mb",
            ":23: unknown key in [trainer]: memory_mb, did you mean memory_mib (in MiB)?",
        ),
        ("feature_batch = 16", "nice = 1", ":24: unknown key in [trainer]: nice"),
        (
            "pause_temp_c",
            "pause_temp_f",
            ":27: unknown key in [schedule]: pause_temp_f, did you mean pause_temp_c",
        ),
        (
            "pause_temp_c = 75",
            "pause_temp_c = 167",
            ":27: [schedule] pause_temp_c is 167, but must be a number",
        ),
        (
            "resume_temp_c = 65.5",
            "resume_temp_c = 80",
            ":28: [schedule] resume_temp_c (80) is not below pause",
        ),
        ("resume_temp_c = 65.5", "windows = ['x']", ":28: [schedule] windows: "),
        (
            "pause_temp_c = 75",
            "threads = 75",
            ":27: unknown key in [schedule]: threads (it belongs in [trainer])",
        ),
        (
            "min_battery_percent = false",
            "min_distinct_samples = 1",
            ":29: unknown key in [schedule]: min_distinct",
        ),
        (
            "training_w = 3",
            "training_mw = 3",
            ":32: unknown key in [energy]: training_mw, did you mean training_w",
        ),
        ("training_w = 3", "training_w = 0", ":32: [energy] training_w is 0, but must be a number from 0.01"),
        ("training_w = 3", "training_w =", ":32: not valid TOML"),
    ],
)
def test_a_mistake_is_refused_by_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in PI4
    file = write(tmp_path, PI4.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}{said}")
    assert "\n" not in str(caught.value)


def test_a_profile_without_a_rule_is_refused(tmp_path: Path) -> None:
    for match, line in [("", ""), ("[match]\nmodel = []\n", ":3")]:
        file = write(tmp_path, f'title = "T"\nevidence = "board"\n{match}')
        with pytest.raises(
            ConfigError, match=rf"profile.toml{line}: \[match\] names no board: set compatible"
        ):
            load(file)


# --- the folder -----------------------------------------------------------------------------------------


def test_the_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    write(tmp_path, PI4, "b")
    write(tmp_path, PI4.replace("4-model-b", "3-model-b").replace("Pi 4", "Pi 3"), "a")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "__pycache__").mkdir()
    assert [one.name for one in load_all(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("model 'Raspberry Pi 4 Model B'", PI4.replace("raspberrypi,4-model-b", "other")),
        ("compatible 'raspberrypi,4-model-b'", PI4.replace('model = ["', 'model = ["Other ')),
    ],
)
def test_a_tie_is_refused_with_both_places(tmp_path: Path, rule: str, text: str) -> None:
    key = rule.split()[0]
    first, second = write(tmp_path, PI4, "a"), write(tmp_path, text, "b")
    line = 5 if key == "compatible" else 6
    with pytest.raises(ConfigError) as caught:
        load_all(tmp_path)
    assert str(caught.value) == f"{second}:{line}: [match] {rule} is taken: {first}:{line}"


def test_two_generic_profiles_of_one_machine_are_a_tie(tmp_path: Path) -> None:
    text = 'title = "T"\nevidence = "board"\nmatch = { machine = "m" }'
    write(tmp_path, text, "a")
    write(tmp_path, text, "b")
    with pytest.raises(
        ConfigError, match=r"b/profile.toml:3: \[match\] machine 'm' is taken: .*a/profile.toml:3"
    ):
        load_all(tmp_path)


def test_a_folder_without_a_profile_or_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/profile.toml: it cannot be read: No such file"):
        load_all(tmp_path)
    with pytest.raises(ConfigError, match=r"absent: the boards' profiles cannot be read: No such file"):
        load_all(tmp_path / "absent")


def test_the_package_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "fedclient"
    monkeypatch.setattr(boards, "__file__", str(package / "boards.py"))
    inside, beside = package / "hardware" / "boards", tmp_path / "site" / "hardware" / "boards"
    assert boards.installed() == inside  # named in the error
    beside.mkdir(parents=True)
    assert boards.installed() == beside
    inside.mkdir(parents=True)
    assert boards.installed() == inside


# --- which one ------------------------------------------------------------------------------------------


def board(name: str, **match: object) -> Profile:
    return Profile(name=name, title=name, match=Match(**match))


KNOWN = (
    board("pi4", compatible=("raspberrypi,4-model-b",), model=("Raspberry Pi 4 Model B",)),
    board("cm4", compatible=("raspberrypi,4-compute-module",), model=("Raspberry Pi Compute Module 4",)),
    board("3b", model=("Raspberry Pi 3 Model B",)),
    board("3b+", model=("Raspberry Pi 3 Model B Plus",)),
    board("chip", compatible=("brcm,bcm2711",)),
    board("arm", machine="aarch64"),
    board("pc", machine="x86_64"),
)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"compatible": ("raspberrypi,4-model-b", "brcm,bcm2711")}, "pi4"),
        ({"compatible": ("raspberrypi,400", "brcm,bcm2711"), "model": "Raspberry Pi 4 Model B"}, "chip"),
        ({"compatible": ("brcm,bcm2711", "raspberrypi,4-model-b")}, "chip"),  # the first entry, not profile
        ({"model": "Raspberry Pi 4 Model B Rev 1.4"}, "pi4"),
        ({"model": "Raspberry Pi 4 Model B"}, "pi4"),
        ({"model": "Raspberry Pi Compute Module 4 Rev 1.0"}, "cm4"),
        ({"model": "Raspberry Pi Compute Module 4S Rev 1.0"}, "arm"),
        ({"model": "Raspberry Pi 3 Model B Rev 1.2"}, "3b"),
        ({"model": "Raspberry Pi 3 Model B Plus Rev 1.3"}, "3b+"),
        ({"model": "Raspberry Pi 2 Model B Rev 1.1"}, "arm"),
        ({"model": "My Raspberry Pi 4 Model B"}, "arm"),
        ({"compatible": ("raspberrypi,4-model-b",), "machine": "x86_64"}, "pi4"),
        ({}, "arm"),
        ({"machine": "x86_64", "model": "ThinkPad"}, "pc"),
        ({"machine": "riscv64"}, "unknown"),
        ({"machine": ""}, "unknown"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_which_profile_a_board_has(said: dict[str, object], name: str, order: int) -> None:
    identity = Identity(**{"machine": "aarch64", **said})
    assert detect(identity, KNOWN[::order]).name == name


def test_without_profiles_a_board_is_unknown() -> None:
    assert detect(Identity(machine="x86_64"), ()) is UNKNOWN_BOARD


# --- those that come with fedclient ---------------------------------------------------------------------

SHIPPED = load_all()


def test_the_boards_of_the_issue_are_known() -> None:
    assert {one.name for one in SHIPPED} >= {
        *("raspberry-pi-zero-2-w", "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5"),
        *("raspberry-pi-cm4", "jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-agx-orin"),
        *("generic-x86_64", "generic-aarch64"),
    }


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda one: one.name)
def test_a_shipped_profile_knows_of_every_reading(profile: Profile) -> None:
    assert {*profile.sensors, *profile.missing} == set(SENSORS)
    assert Policy(**profile.schedule).contradiction() == ""


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda one: one.name)
def test_a_shipped_capture_is_detected(profile: Profile) -> None:
    assert boards.here(boards.installed() / profile.name / "capture") == profile
