"""The owner's settings: which files, what is refused and in which words, and the template."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import config, tomlfile
from fedclient.config import SECTIONS, Config, TrainerSettings, load, template
from fedclient.errors import ConfigError
from fedclient.scheduler.probe_settings import PowerSettings
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.schedule import Policy
from fedclient.values import Broker


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no configuration of its own."""
    monkeypatch.setattr(config, "DEFAULT", tmp_path / "etc" / "config.toml")
    for name in ("STATE_DIRECTORY", "FEDCLIENT_STATE"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def error(tmp_path: Path, text: str) -> str:
    file = write(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    said = str(caught.value)
    assert "\n" not in said
    found = re.fullmatch(r"(:\d+)?: (.+)", said.removeprefix(str(file)))
    assert found, said
    return found[2]


def place(main: Path, folder: Path) -> str:
    """Return the file and line that an error names."""
    with pytest.raises(ConfigError) as caught:
        load(main, {})
    return str(caught.value).removeprefix(f"{folder}/").partition(": ")[0]


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


# --- which files -------------------------------------------------------------------------------------


def test_without_files_everything_has_its_default() -> None:
    found = load(None, {})
    assert found == Config()
    assert found.files == ()
    assert found.state == Path("/var/lib/fedclient")


def test_the_search_order(tmp_path: Path) -> None:
    write(config.DEFAULT, "[trainer]\nthreads = 2")
    from_env = write(tmp_path / "env.toml", "[trainer]\nthreads = 3")
    given_ = write(tmp_path / "given.toml", "[trainer]\nthreads = 4")
    env = {"FEDCLIENT_CONFIG": str(from_env)}
    assert load(None, {}).trainer.threads == 2
    assert load(None, {"FEDCLIENT_CONFIG": ""}).trainer.threads == 2
    assert load(None, env).trainer.threads == 3
    assert load(given_, env).trainer.threads == 4
    assert load(given_, env).files == (given_,)


def test_drop_ins_come_after_in_name_order_key_by_key(tmp_path: Path) -> None:
    main = write(tmp_path / "config.toml", "state = 'a'\n[trainer]\nthreads = 2\nnice = 1\ngrace_s = 1")
    write(tmp_path / "config.d" / "10.toml", "state = 'b'\n[trainer]\nthreads = 3\nnice = 2")
    write(tmp_path / "config.d" / "20.toml", "[trainer]\nthreads = 4")
    write(tmp_path / "config.d" / "30.conf", "not even TOML")
    found = load(main, {})
    assert (found.trainer.threads, found.trainer.nice, found.trainer.grace_s) == (4, 2, 1.0)
    assert found.state == tmp_path / "config.d" / "b"
    assert [file.name for file in found.files] == ["config.toml", "10.toml", "20.toml"]


def test_drop_ins_count_without_a_main_file(tmp_path: Path) -> None:
    write(tmp_path / "etc" / "config.d" / "fleet.toml", "[trainer]\nthreads = 2")
    assert load(None, {}).trainer.threads == 2


@pytest.mark.parametrize("path", ["absent.toml", ".", "/"])
def test_a_named_file_must_be_one(tmp_path: Path, path: str) -> None:
    for arguments in ((tmp_path / path, {}), (None, {"FEDCLIENT_CONFIG": str(tmp_path / path)})):
        with pytest.raises(ConfigError, match=r"cannot be read: (No such file|Is a directory)"):
            load(*arguments)


def test_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", "state = '/srv/fl'")
    assert load(file, {}).state == Path("/srv/fl")
    assert load(file, {}, Path("/given")).state == Path("/given")
    monkeypatch.setenv("STATE_DIRECTORY", "/run/one:/run/two")
    assert load(file, {}).state == Path("/srv/fl")
    assert load(None, {}).state == Path("/run/one")


# --- what is refused ----------------------------------------------------------------------------------


def test_broken_toml_is_named_with_line_and_column(tmp_path: Path) -> None:
    assert re.search(r"^not valid TOML: .*line 2, column \d+", error(tmp_path, "[trainer]\nthreads = = 2\n"))
    assert error(tmp_path, "[trainer").startswith("not valid TOML")
    assert "not valid TOML" in error(tmp_path, "a = " + "[" * 5000)
    assert "not valid TOML" in error(tmp_path, "a = " + "9" * 5000)
    (tmp_path / "c.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"c.toml:1: not valid TOML: it is not UTF-8 text"):
        load(tmp_path / "c.toml", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trainer]\nthread = 2", "unknown key in [trainer]: thread, did you mean threads?"),
        ("[trainer]\nxyzzy = 2", "unknown key in [trainer]: xyzzy"),
        ("[schedule]\nmin_samples = 2", "unknown key in [schedule]: min_samples (it belongs in [privacy])"),
        (
            "[schedule]\nmin_distinct_samples = 2",
            "unknown key in [schedule]: min_distinct_samples, did you mean",
        ),
        ("[shedule]\npoll_s = 2", "unknown section shedule, did you mean schedule?"),
        ("threads = 2", "unknown key threads (it belongs in [trainer])"),
        ("stat = '/x'", "unknown key stat, did you mean state?"),
        ("trainer = 2", "trainer is a section: write [trainer] and its keys below"),
        ("[broker]\npassword = 'hunter2'", "unknown key in [broker]: password, did you mean password_file?"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(tmp_path: Path, text: str, said: str) -> None:
    found = error(tmp_path, text)
    assert found.startswith(said)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trainer]\nthreads = 0", "[trainer] threads is 0, but must be a whole number from 1 to 64"),
        ("[trainer]\nthreads = 65", "[trainer] threads is 65, but must be a whole number from 1 to 64"),
        ("[trainer]\nthreads = 2.0", "[trainer] threads is 2.0, but must be a whole number from 1 to 64"),
        ("[trainer]\nthreads = true", "[trainer] threads is True, but must be a whole number from 1 to 64"),
        ("[trainer]\nnice = false", "[trainer] nice is False, but must be a whole number from 0 to 19"),
        ("[trainer]\nthreads = '2'", "[trainer] threads is '2', but must be a whole number from 1 to 64"),
        ("[trainer]\ngrace_s = nan", "[trainer] grace_s is nan, but must be a number from 0.1 to 300"),
        ("[trainer]\ngrace_s = inf", "[trainer] grace_s is inf, but must be a number from 0.1 to 300"),
        ("[trainer]\ngrace_s = 1979-05-27", "[trainer] grace_s is datetime.date(1979, 5, 27), but must be"),
        (
            "[schedule]\nmax_cpu_percent = true",
            "[schedule] max_cpu_percent is True, but must be a number from",
        ),
        ("[schedule]\nrequire_charging = 1", "[schedule] require_charging is 1, but must be true or false"),
        ("[broker]\nhost = ''", "[broker] host is '', but must be a text, or false for none"),
        ("[broker]\nport = 70000", "[broker] port is 70000, but must be a whole number from 1 to 65535, or"),
        ("[broker]\nmqtt_version = '4'", '[broker] mqtt_version is \'4\', but must be one of "3.1.1", "5"'),
        ("[broker]\nmqtt_version = 5", "[broker] mqtt_version is 5, but must be one of"),
        ("[privacy]\nmin_samples = 0", "[privacy] min_samples is 0, but must be a whole number from 1"),
        ("[privacy]\nallowed_models = 'ab'", "[privacy] allowed_models is 'ab', but must be a list of texts"),
        ("[privacy]\nallowed_models = ['ab']", "[privacy] allowed_models: 'ab' is not 64 lower-case hex"),
        ("[gateway]\nmin_devices = 1", "[gateway] min_devices is 1, but must be a whole number from 2"),
        ("[gateway]\ncohort = 2", "[gateway] min_devices (3) is above cohort (2): set both"),
        ("[gateway]\npace_min_s = 60", "[gateway] pace_min_s is above pace_max_s"),
        (
            "[gateway]\npace_max_s = 604801",
            "[gateway] pace_max_s is 604801, but must be a whole number from 0",
        ),
        ("[broker]\ncert_file = 'c.pem'", "[broker] cert_file and key_file go together"),
        ("[broker]\npassword_file = 'p'", "[broker] password_file needs a username"),
        ("[broker]\ntls = 'off'\nca_file = 'c.pem'", "[broker] ca_file and cert_file mean nothing with"),
        ("[nodes]\ncert_file = 'c.pem'", "[nodes] cert_file and key_file go together"),
        ("[nodes]\npassword_file = 'p'", "[nodes] password_file needs a username"),
        ("[nodes]\nca_file = 'c.pem'", "[nodes] ca_file and cert_file mean nothing without tls"),
        ("[nodes]\nfederation = 'My Farm'", "[nodes] federation name 'My Farm' is not allowed"),
        ("[broker]\nretry_min_s = 400", "[broker] retry_min_s is above retry_max_s"),
        ("state = false", "state is False, but must be a path"),
    ],
)
def test_a_wrong_value_says_what_was_found_and_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    assert error(tmp_path, text).startswith(said)


def test_the_floor_of_devices_is_two_whatever_the_owner_writes() -> None:
    item = next(item for item in fields(config.GatewaySettings) if item.name == "min_devices")
    assert item.metadata["expected"][0] == 2  # PROTOCOL 4.5


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_load_or_raise_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(data)
    with suppress(ConfigError):
        load(file, {})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# [trainer]\n\n[trainer]\nnice = 1\nthreads = 0", 4 + 1),
        ("[trainer]\nnice = 1\nthread = 2", 3),
        ("[trainer]\n[shedule]\npoll_s = 2", 2),
        ("\ntrainer = 2", 2),
        ("\nstate = 2", 2),
        ("[broker]\nusername = 'u'\ncert_file = 'c.pem'", 3),
        ("[gateway]\ndeadline_s = 5\ncohort = 2", 3),
        ("[schedule]\nresume_temp_c = 80\npause_temp_c = 70", 2),
        ("[schedule]\nwindows = [\n'Mon',\n]\npoll_s = 0", 5),
        ("[trainer]\nnice = 1\nthreads = = 2", 3),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, text: str, line: int) -> None:
    assert place(write(tmp_path / "c.toml", text), tmp_path) == f"c.toml:{line}"


def test_an_error_names_the_drop_in_that_is_wrong(tmp_path: Path) -> None:
    main = write(tmp_path / "c.toml", "[broker]\nretry_min_s = 10\n[schedule]\nresume_temp_c = 80")
    write(tmp_path / "c.d" / "10.toml", "\n[broker]\nretry_max_s = 20")
    drop_in = write(tmp_path / "c.d" / "20.toml", "\n[broker]\n\nretry_max_s = 5")
    assert place(main, tmp_path) == "c.toml:2"  # of the two keys, the one that the sentence begins with
    drop_in.write_text("\n[broker]\n\nretry_min_s = 25")
    assert place(main, tmp_path) == "c.d/20.toml:4"
    drop_in.write_text("\n[broker]\n\nretry_min_s = 'x'")
    assert place(main, tmp_path) == "c.d/20.toml:4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pause_temp_f = 167", "pause_temp_f, did you mean pause_temp_c (in degrees Celsius)?"),
        ("poll_min = 1", "poll_min, did you mean poll_s (in seconds)?"),
        ("min_free_memory_mb = 1", "min_free_memory_mb, did you mean min_free_memory_mib (in MiB)?"),
        ("max_cpu = 1", "max_cpu, did you mean max_cpu_percent (in percent)?"),
        ("daily_energy_wh = 1", "daily_energy_wh, did you mean daily_energy_j (in joules)?"),
    ],
)
def test_a_wrong_unit_gets_the_right_one(tmp_path: Path, text: str, said: str) -> None:
    assert error(tmp_path, f"[schedule]\n{text}") == f"unknown key in [schedule]: {said}"


def test_a_value_in_another_unit_is_told_the_unit(tmp_path: Path) -> None:
    said = error(tmp_path, "[schedule]\npause_temp_c = 167")
    assert said.endswith("must be a number from 20 to 110, or false for none (in degrees Celsius)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("networks = ['wifi', 'lan']", "networks is ['wifi', 'lan'], but must be a list of \"ethernet\", "),
        ("networks = 'wifi'", "networks is 'wifi', but must be a list of"),
        ("windows = ['25:00-26:00']", "windows: "),
        ("gate = 'mine'", "gate: 'mine' is not package.module:function"),
        ("resume_temp_c = 75\npause_temp_c = 75", "resume_temp_c (75) is not below pause_temp_c (75)"),
        # half of a contradiction with a default, which a board may lift, hides no other mistake
        ("resume_temp_c = 80\ngate = 'mine'", "gate: 'mine' is not package.module:function"),
    ],
)
def test_the_schedule_is_checked_as_a_whole(tmp_path: Path, text: str, said: str) -> None:
    assert error(tmp_path, f"[schedule]\n{text}").startswith(f"[schedule] {said}")


# --- what is accepted ---------------------------------------------------------------------------------


def test_false_means_none_and_an_integer_is_a_number(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "[schedule]\nmax_cpu_percent = false\nmin_new_samples = 7\npoll_s = 5")
    schedule = load(file, {}).schedule
    assert schedule == Policy(max_cpu_percent=None, min_new_samples=7, poll_s=5.0)
    assert isinstance(schedule.poll_s, float)


def test_a_relative_path_starts_at_its_file(tmp_path: Path) -> None:
    text = (
        "[broker]\nca_file = 'ca.pem'\n[gateway]\nholdout = '/data/h.npz'\n[privacy]\nallowed_models = ['{}']"
    )
    found = load(write(tmp_path / "c.toml", text.format("0f" * 32)), {})
    assert found.broker.ca_file == tmp_path / "ca.pem"
    assert found.gateway.holdout == Path("/data/h.npz")
    assert found.privacy.allowed_models == ("0f" * 32,)


def test_the_policy_holds_the_owners_privacy_floor(tmp_path: Path) -> None:
    board = Profile(name="plain", title="Plain")
    assert Config().policy_on(board) == Policy()
    found = load(write(tmp_path / "c.toml", "[privacy]\nmin_samples = 5\n[schedule]\npoll_s = 9"), {})
    assert found.policy_on(board) == Policy(min_distinct_samples=5, poll_s=9.0)


@pytest.mark.parametrize(
    ("settings", "invited", "expected"),
    [
        ({}, ("b", 8884, True), ("b", 8884, True)),
        ({"port": 1}, ("b", 8884, True), ("b", 1, True)),
        ({"host": "c"}, ("b", 8884, True), ("c", 8883, True)),
        ({"host": "c"}, ("b", 1884, False), ("c", 1883, False)),
        ({"tls": "on"}, ("b", 8884, False), ("b", 8884, True)),
        ({"tls": "off"}, ("b", 8884, True), ("b", 8884, False)),
        ({"host": "c"}, None, ("c", 8883, True)),
        ({"host": "c", "tls": "off", "port": 7}, None, ("c", 7, False)),
    ],
)
def test_the_broker_is_the_invitations_unless_set(
    settings: dict[str, object], invited: tuple[str, int, bool] | None, expected: tuple[str, int, bool]
) -> None:
    def broker(host: str, port: int, tls: bool) -> Broker:
        return Broker(host=host, port=port, tls=tls)

    broker_settings = replace(config.BrokerSettings(), **settings)
    assert broker_settings.resolve(broker(*invited) if invited else None) == broker(*expected)


def test_the_nodes_broker_is_this_machine_unless_set() -> None:
    usual = Config().nodes
    assert (usual.enabled, usual.broker) == (False, Broker(host="127.0.0.1", port=1883, tls=False))
    assert replace(usual, host="h", tls=True).broker == Broker(host="h", port=8883, tls=True)
    assert replace(usual, port=7).broker.port == 7


def test_a_broker_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"set \[broker\] host"):
        config.BrokerSettings().resolve()
    with pytest.raises(ConfigError, match="without TLS"):
        config.BrokerSettings(ca_file=Path("ca")).resolve(Broker(host="b", port=1883))


def test_a_password_is_read_from_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = write(tmp_path / "password", "pass word\n")
    file.chmod(0o600)
    settings = config.BrokerSettings(username="u", password_file=file)
    assert settings.password() == "pass word"
    assert config.BrokerSettings().password() is None
    for mode in (0o640, 0o604, 0o601):
        file.chmod(mode)
        with pytest.raises(ConfigError, match=f"others may read this password .mode {mode:04o}"):
            settings.password()
    file.unlink()
    with pytest.raises(ConfigError, match="password_file cannot be read: No such file"):
        settings.password()


# --- on a board ---------------------------------------------------------------------------------------

HOT = Profile(
    name="hot", title="Hot", threads=2, memory_mib=256, schedule={"pause_temp_c": 85.0, "resume_temp_c": 77.0}
)


def test_a_board_fills_in_what_the_owner_left_out(tmp_path: Path) -> None:
    assert Config().policy_on(HOT) == Policy(pause_temp_c=85.0, resume_temp_c=77.0)
    text = "[privacy]\nmin_samples = 5\n[schedule]\npoll_s = 9\nresume_temp_c = 70"
    found = load(write(tmp_path / "c.toml", text), {}).policy_on(HOT)
    assert found == Policy(pause_temp_c=85.0, resume_temp_c=70.0, poll_s=9.0, min_distinct_samples=5)


def test_what_the_owner_says_comes_first_even_if_it_is_the_default(tmp_path: Path) -> None:
    text = "[schedule]\npause_temp_c = 75\nresume_temp_c = 67"
    assert load(write(tmp_path / "c.toml", text), {}).policy_on(HOT) == Policy()
    assert load(write(tmp_path / "d.toml", "[schedule]\npause_temp_c = false"), {}).policy_on(HOT) == Policy(
        pause_temp_c=None, resume_temp_c=77.0
    )
    assert Config(schedule=Policy(pause_temp_c=90.0)).policy_on(HOT).pause_temp_c == 90  # not from a file


def test_a_threshold_that_only_this_board_allows_is_allowed(tmp_path: Path) -> None:
    config_ = load(write(tmp_path / "c.toml", "[schedule]\nresume_temp_c = 80"), {})
    assert config_.policy_on(HOT).resume_temp_c == 80
    with pytest.raises(ConfigError, match=r"c.toml:2: .*pause_temp_c is from the defaults; set both"):
        config_.policy_on(Profile(name="plain", title="Plain"))


def test_owner_and_board_that_disagree_are_both_named(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "[schedule]\n\npause_temp_c = 70")
    with pytest.raises(ConfigError) as caught:
        load(file, {}).policy_on(HOT)
    assert str(caught.value) == (
        f"{file}:3: [schedule] resume_temp_c (77) is not below pause_temp_c (70): "
        f"resume_temp_c is from the profile of board hot, pause_temp_c is from {file}:3; set both"
    )
    with pytest.raises(ConfigError, match=r"^the settings: .* is from the settings; set both"):
        Config(schedule=Policy(pause_temp_c=70.0)).policy_on(HOT)


@pytest.mark.parametrize(
    ("cores", "owner", "board", "threads"),
    [(8, None, 2, 2), (8, 5, 2, 5), (4, 5, 2, 3), (4, None, 4, 3), (2, None, 2, 1), (1, 8, 2, 1)],
)
def test_threads_are_the_boards_and_leave_one_processor(
    monkeypatch: pytest.MonkeyPatch, cores: int, owner: int | None, board: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    found = Config(trainer=TrainerSettings(threads=owner, nice=3)).trainer_on(replace(HOT, threads=board))
    assert (found.threads, found.nice) == (threads, 3)


def test_false_is_what_the_board_says(tmp_path: Path) -> None:
    found = load(write(tmp_path / "c.toml", "[trainer]\nthreads = false\nmemory_mib = false"), {})
    assert found == Config()
    assert "(a whole number from 1 to 64, or false for the board's)" in template()


def test_memory_is_the_boards_unless_set() -> None:
    assert Config().trainer_on(HOT).memory_mib == 256
    assert Config(trainer=TrainerSettings(memory_mib=64)).trainer_on(HOT).memory_mib == 64
    assert Config().trainer_on(replace(HOT, memory_mib=None)).memory_mib is None


def test_power_metrics_and_trace_are_sections(tmp_path: Path) -> None:
    text = "[power]\nfile = 'ups.json'\nassume = 'battery'\n[metrics]\nfile = 'f.prom'\n[trace]\nmax_mib = 2"
    found = load(write(tmp_path / "c.toml", text), {})
    assert found.power == PowerSettings(file=tmp_path / "ups.json", assume="battery")
    assert found.metrics == config.MetricsSettings(file=tmp_path / "f.prom")
    assert found.trace == config.TraceSettings(max_mib=2.0)
    assert (Config().metrics.file, Config().trace.file) == (None, None)
    assert error(tmp_path, "[power]\nassume = 'none'").startswith(
        '[power] assume is \'none\', but must be one of "mains", "battery", or false for none'
    )


# --- the template -------------------------------------------------------------------------------------


def test_the_template_is_all_comments_and_uncommented_it_is_the_defaults(tmp_path: Path) -> None:
    text = template()
    assert load(write(tmp_path / "as_is.toml", text), {}) == Config()
    every_line = uncommented(text)
    assert load(write(tmp_path / "every.toml", every_line), {}) == Config()
    keys = {
        f"{name}.{item.name}"
        for name, section in SECTIONS.items()
        for item in fields(section)
        if f"{name}.{item.name}" not in {"schedule.min_distinct_samples", "schedule.max_update_bytes_per_day"}
    }
    section, shown = "", set()
    for line in every_line.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section and re.match(r"\w+ = ", line):
            shown.add(f"{section}.{line.split(' = ')[0]}")
    assert shown == keys


def test_the_template_keeps_a_state_folder(tmp_path: Path) -> None:
    state = Path('/srv/a "b" \\ c\u00e9')
    assert load(write(tmp_path / "c.toml", template(state)), {}).state == state


def test_each_number_has_bounds_and_each_default_is_within() -> None:
    for section in SECTIONS.values():
        for item in tomlfile.keys(section).values():
            assert item.kind not in ("int", "float") or len(item.expected) == 2, item.name
            assert item.default is not None or item.optional
            found = list(item.default) if isinstance(item.default, tuple) else item.default
            if found is not None and item.kind != "Path":
                assert item.check(found, Path()) == item.default, item.name


@pytest.mark.skipif(os.geteuid() == 0, reason="LEFT OUT: root may read everything")
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "")
    file.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(file, {})


def test_without_files_no_parser_is_loaded() -> None:
    """The idle agent pays for what it uses."""

    code = (
        "import sys; from pathlib import Path; from fedclient import config;"
        "config.DEFAULT = Path('/nonexistent/config.toml'); config.load(None, {});"
        "print({'tomllib', 'tomli', 'json', 'difflib', 'numpy', 'psutil'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
