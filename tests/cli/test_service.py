"""`fedclient service`: what it writes below a root, what it refuses, and that systemd takes the units."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedclient import config
from fedclient.cli import service as module
from fedclient.cli.main import main

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "hardware" / "systemd"
PROGRAM = Path("/opt/fedclient/bin/fedclient")
UNITS = ("fedclient.service", "fedclient-gateway.service")
MAX_EXPOSURE = {(): 1.5, ("vcio.conf",): 2.1, ("vcio.conf", "backoff.conf"): 2.1}


pytestmark = pytest.mark.usefixtures("quiet")


class System:
    """A root folder as an image has it, and systemd's commands as scripts that note how they were called."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, tools: bool = True) -> None:
        self.root = path / "image"
        self.calls = path / "calls"
        for folder in ("usr/lib/systemd", "etc", "proc/device-tree"):
            (self.root / folder).mkdir(parents=True)
        self.program(PROGRAM)
        monkeypatch.delenv("FEDCLIENT_CONFIG", raising=False)
        if not tools:
            return
        scripts = path / "tools"
        scripts.mkdir()
        for name in ("systemctl", "systemd-sysusers"):
            (scripts / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n')
            (scripts / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")

    def program(self, path: Path) -> None:
        found = self.root / path.relative_to("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text("#!/bin/sh\n")
        found.chmod(0o755)

    def model(self, text: bytes) -> None:
        (self.root / "proc/device-tree/model").write_bytes(text)

    def systemd(self, version: int) -> None:
        (self.root / f"usr/lib/systemd/libsystemd-shared-{version}.so").touch()

    def call(self, action: str, *words: str, before: tuple[str, ...] = ()) -> int:
        program = ["--program", str(PROGRAM)] if action == "install" and "--program" not in words else []
        return main([*before, "service", action, "--root", str(self.root), *program, *words])

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.root)) for path in (self.root / "etc").rglob("*")}
        return {path for path in found if not (self.root / path).is_dir()}

    def text(self, inside: str) -> str:
        return (self.root / inside).read_text()


@pytest.fixture
def system(tmp_path, monkeypatch) -> System:
    tmp_path.chmod(0o755)
    return System(tmp_path, monkeypatch)


def test_the_agent_is_installed_below_a_root(system, capsys) -> None:
    assert system.call("install") == 0
    unit = "etc/systemd/system/fedclient.service"
    assert system.files() == {unit, "etc/sysusers.d/fedclient.conf", "etc/fedclient/config.toml"}
    assert f"\nExecStart={PROGRAM} run\n" in system.text(unit)
    assert system.text("etc/fedclient/config.toml") == config.template()
    assert "u fedclient " in system.text("etc/sysusers.d/fedclient.conf")
    calls = system.calls.read_text().splitlines()
    assert calls[-1] == f"systemctl --root={system.root} enable fedclient.service"
    assert not any("daemon-reload" in call for call in calls)  # nothing runs there
    out = capsys.readouterr().out
    assert f"write    {system.root}/{unit}\n" in out
    assert f"next     {PROGRAM} init\n         {PROGRAM} enroll INVITATION\n" in out


def test_a_config_is_kept_and_a_unit_is_brought_up_to_date(system, capsys) -> None:
    assert system.call("install") == 0
    (system.root / "etc/fedclient/config.toml").write_text("# mine\n")
    other = Path("/srv/app/bin/fedclient")
    system.program(other)
    capsys.readouterr()
    assert system.call("install", "--program", str(other)) == 0
    assert system.text("etc/fedclient/config.toml") == "# mine\n"
    assert f"ExecStart={other} run\n" in system.text("etc/systemd/system/fedclient.service")
    assert f"keep     {system.root}/etc/fedclient/config.toml\n" in capsys.readouterr().out


def test_the_gateway_and_its_own_config(system) -> None:
    assert system.call("install", "--gateway", before=("--config", "/etc/fedclient/gateway.toml")) == 0
    unit = system.text("etc/systemd/system/fedclient-gateway.service")
    assert f"\nExecStart={PROGRAM} --config /etc/fedclient/gateway.toml gateway run\n" in unit
    assert "\nUser=fedclient-gateway\n" in unit
    assert (system.root / "etc/fedclient/gateway.toml").exists()
    assert not (system.root / "etc/fedclient/config.toml").exists()


@pytest.mark.parametrize(
    ("model", "version", "gateway", "expected"),
    [
        (b"Raspberry Pi 4 Model B Rev 1.4\0", 252, False, {"vcio.conf"}),
        (b"Raspberry Pi 5 Model B Rev 1.0\0", 257, False, {"vcio.conf", "backoff.conf"}),
        (b"Raspberry Pi 5 Model B Rev 1.0\0", 257, True, {"backoff.conf"}),
        (b"NVIDIA Jetson Nano Developer Kit\0", 253, False, set()),
        (b"", 254, False, {"backoff.conf"}),
    ],
)
def test_drop_ins_are_for_what_the_machine_has(system, model, version, gateway, expected) -> None:
    system.model(model)
    system.systemd(version)
    assert system.call("install", *(["--gateway"] if gateway else [])) == 0
    name = "fedclient-gateway" if gateway else "fedclient"
    folder = system.root / f"etc/systemd/system/{name}.service.d"
    assert {path.name for path in folder.glob("*")} == expected


def test_a_card_that_moves_to_another_board_loses_the_drop_in(system) -> None:
    system.model(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert system.call("install") == 0
    system.model(b"NVIDIA Jetson Nano Developer Kit\0")
    assert system.call("install") == 0
    assert not (system.root / "etc/systemd/system/fedclient.service.d").exists()


def test_remove_keeps_state_config_and_what_the_owner_added(system, capsys) -> None:
    system.model(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert system.call("install") == 0
    state = system.root / "var/lib/fedclient/keys"
    state.mkdir(parents=True)
    own = system.root / "etc/systemd/system/fedclient.service.d/own.conf"
    own.write_text("[Service]\n")
    capsys.readouterr()
    assert system.call("remove") == 0
    assert system.files() == {
        "etc/systemd/system/fedclient.service.d/own.conf",
        "etc/fedclient/config.toml",
    }
    assert state.is_dir()
    out = capsys.readouterr().out
    assert f"keep     {system.root}/var/lib/fedclient, {system.root}/etc/fedclient/config.toml" in out
    assert "systemctl --root" in system.calls.read_text().splitlines()[-1]


def test_the_users_stay_while_the_other_service_needs_them(system) -> None:
    assert system.call("install") == 0
    assert system.call("install", "--gateway") == 0
    assert system.call("remove", "--gateway") == 0
    assert "etc/sysusers.d/fedclient.conf" in system.files()
    assert system.call("remove") == 0
    assert "etc/sysusers.d/fedclient.conf" not in system.files()


def test_a_dry_run_says_it_and_changes_nothing(system, capsys) -> None:
    assert system.call("install", "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"would write    {system.root}/etc/systemd/system/fedclient.service\n" in out
    assert system.files() == set()
    assert not system.calls.exists()
    assert system.call("install") == 0
    before = system.files()
    assert system.call("remove", "--dry-run") == 0
    assert system.files() == before


def refused(system, capsys, *words: str, before: tuple[str, ...] = (), action: str = "install") -> str:
    code = system.call(action, *words, before=before)
    said = capsys.readouterr()
    assert code in (1, 2)
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert system.files() == set()
    return said.err


def test_what_the_service_could_not_run_is_refused(system, capsys) -> None:
    home = Path("/home/ada/venv/bin/fedclient")
    system.program(home)
    said = refused(system, capsys, "--program", str(home))
    assert "does not see /home" in said
    assert "/opt/fedclient" in said
    assert "there is no command" in refused(system, capsys, "--program", "/opt/other/bin/fedclient")
    assert "no spaces" in refused(system, capsys, "--program", "/opt/with space/fedclient")
    (system.root / "opt/fedclient").chmod(0o700)
    assert "may not read it" in refused(system, capsys)


def test_a_link_in_an_image_does_not_lead_to_this_machine(system, tmp_path, capsys) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (system.root / "etc/systemd").symlink_to(elsewhere)
    assert system.call("install") == 1
    assert "leads out of" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())
    (elsewhere / "system").mkdir()
    (elsewhere / "system/fedclient.service").touch()
    assert system.call("remove") == 1
    assert (elsewhere / "system/fedclient.service").exists()


def test_what_cannot_be_done_is_one_line(system, capsys) -> None:
    assert "/var/lib/fedclient" in refused(system, capsys, before=("--state", "/srv/state"))
    assert "no spaces" in refused(system, capsys, before=("--config", "/etc/my config.toml"))
    assert "is not installed" in refused(system, capsys, action="remove")
    (system.root / "usr/lib/systemd").rmdir()
    assert "has no systemd" in refused(system, capsys)


def test_a_command_of_systemd_that_fails_is_one_line(system, capsys) -> None:
    tool = Path(shutil.which("systemctl") or "")
    tool.write_text("#!/bin/sh\necho first >&2\necho 'Failed to enable unit' >&2\nexit 1\n")
    assert system.call("install") == 1
    said = capsys.readouterr().err
    assert (
        said == f"fedclient: systemctl --root={system.root} enable fedclient.service: Failed to enable unit\n"
    )


def test_a_machine_without_systemd_or_root_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    assert main(["service", "install"]) == 1
    said = capsys.readouterr().err
    running = Path("/run/systemd/system").is_dir()
    assert ("run it with sudo" if running else "does not run systemd") in said
    assert said.count("\n") == 1


def needs(tool: str) -> str:
    found = shutil.which(tool)
    if not found:
        pytest.skip(f"LEFT OUT: {tool} is not installed (apt-get install systemd)")
    return found


def units(tmp_path: Path, drop_ins: tuple[str, ...] = ()) -> list[Path]:
    """The units as `install` writes them, with a command that is there."""
    made = []
    for name in UNITS:
        unit = tmp_path / name
        unit.write_text((SHIPPED / name).read_text().replace(str(PROGRAM), sys.executable))
        made.append(unit)
        for drop_in in drop_ins:
            folder = tmp_path / f"{name}.d"
            folder.mkdir(exist_ok=True)
            shutil.copy(SHIPPED / drop_in, folder)
    return made


@pytest.mark.parametrize("drop_ins", [(), ("vcio.conf",)], ids=str)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path, drop_ins) -> None:
    verify = [needs("systemd-analyze"), "verify", "--man=no", *map(str, units(tmp_path, drop_ins))]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("drop_ins", "most"), list(MAX_EXPOSURE.items()), ids=str)
def test_the_sandbox_is_tight(tmp_path, drop_ins, most) -> None:
    tool = needs("systemd-analyze")
    for unit in units(tmp_path, drop_ins):
        done = subprocess.run(
            [tool, "security", "--offline=true", "--no-pager", unit],
            capture_output=True,
            text=True,
            check=False,
        )
        if "--offline" in done.stderr:
            pytest.skip("LEFT OUT: this systemd-analyze (before 250) cannot look at a unit file")
        (exposure,) = re.findall(r"Overall exposure level for \S+ (\d+\.\d) ", done.stdout)
        print(f"{unit.name} {drop_ins}: {exposure}")
        assert float(exposure) <= most, done.stdout


def test_the_real_commands_enable_it_in_an_image(tmp_path, monkeypatch) -> None:
    needs("systemctl")
    needs("systemd-sysusers")
    tmp_path.chmod(0o755)
    system = System(tmp_path, monkeypatch, tools=False)
    assert system.call("install") == 0
    link = system.root / "etc/systemd/system/multi-user.target.wants/fedclient.service"
    assert str(link.readlink()) == "/etc/systemd/system/fedclient.service"
    if os.geteuid() == 0:  # others leave the users to the image's first boot
        assert re.search("^fedclient:.*:/var/lib/fedclient:", system.text("etc/passwd"), re.MULTILINE)
    assert system.call("remove") == 0
    assert not link.is_symlink()
