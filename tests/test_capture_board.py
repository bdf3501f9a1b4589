"""tools/capture_board: it records what the probes open, and nothing that tells who the owner is."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.cli.main import main
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.readings import Activity

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "capture_board"
HARDWARE = ROOT / "hardware" / "boards"
BOARDS = sorted(path.parent.name for path in HARDWARE.glob("*/profile.toml"))


@pytest.fixture
def record(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Run the tool in this process, on a machine called `raspberrypi` whose user is `nvidia`."""
    monkeypatch.setattr(socket, "gethostname", lambda: "raspberrypi")
    monkeypatch.setenv("USER", "nvidia")
    monkeypatch.setenv("LOGNAME", "alice")
    tool = runpy.run_path(str(TOOL))

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["capture_board", *map(str, words)])
        code = tool["main"]()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def readings(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main(["boards", "detect", "--root", str(root), "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    found["readings"].pop("free_disk_mib")  # of the real disk
    return found


@pytest.mark.parametrize("board", BOARDS)
def test_a_recorded_tree_reads_as_the_tree_itself(board: str, record, capsys, tmp_path) -> None:
    source, out = HARDWARE / board / "capture", tmp_path / "out"
    code, printed, _ = record(out, "--root", source)
    assert code == 0
    assert f"in {out}\n" in printed
    assert readings(out, capsys) == readings(source, capsys)
    assert (out / "CAPTURE.md").read_text().startswith("# Recorded\n")


@pytest.mark.parametrize("board", BOARDS)
def test_the_list_has_every_file_that_the_probes_open(board: str, monkeypatch, tmp_path) -> None:
    opened: set[str] = set()
    asked: set[str] = set()
    raw, exists = Tree.raw, Tree.exists
    monkeypatch.setattr(Tree, "raw", lambda tree, path: opened.add(path) or raw(tree, path))
    monkeypatch.setattr(Tree, "exists", lambda tree, path: asked.add(path) or exists(tree, path))
    root = tmp_path / "seated"
    shutil.copytree(HARDWARE / board / "capture", root)
    (root / "run/systemd/sessions/2").write_text("TYPE=x11\nCLASS=user\nACTIVE=1\nSEAT=seat0\n")
    Probe(tmp_path, root=root, profile=boards.here(root)).read(Activity(), 0.0)

    tool = runpy.run_path(str(TOOL))
    listed = (*tool["FILES"], *(f"commands/{name}" for name in tool["COMMANDS"]))
    # What the first of these is a link to, and folders without which there is no machine.
    instead = {"sys/firmware/devicetree/base/model", "sys/firmware/devicetree/base/compatible"}
    folders = {"sys/class", "run"}

    def unlisted(paths: set[str], patterns: tuple[str, ...]) -> set[str]:
        relative = {path.lstrip("/") for path in paths}
        return {path for path in relative if not any(fnmatch.fnmatch(path, one) for one in patterns)}

    assert len(opened) > 15
    assert unlisted(opened, listed) <= instead
    assert unlisted(asked, (*listed, *tool["PRESENT"])) <= folders


SECRETS = [
    *("b8:27:eb:12:34:56", "B827EB123456", "b827eb123456", "alice", "laptop.example", "fd12"),
    *("192.168.17.5", "0511A8C0", "c0ffee00c0ffee00c0ffee00c0ffee00", "cafe0000000000000000000000001234"),
    *("123e4567-e89b-12d3-a456-426614174000", "SN-0815", "HomeNet"),
]


def private(root: Path) -> None:
    """Put the owner's secrets wherever such files have them."""
    files = {
        "run/systemd/sessions/7": (
            "# private\nUID=1000\nUSER=alice\nTYPE=tty\nCLASS=user\nACTIVE=1\nSTATE=active\nREMOTE=1\n"
            "REMOTE_HOST=laptop.example\nREMOTE_USER=alice\n"
        ),
        "sys/class/power_supply/hid-b8:27:eb:12:34:56-battery/type": "Battery\n",
        "sys/class/power_supply/hid-b8:27:eb:12:34:56-battery/scope": "Device\n",
        "sys/class/power_supply/hid-b8:27:eb:12:34:56-battery/serial_number": "SN-0815\n",
        "sys/class/net/enxb827eb123456/uevent": "INTERFACE=enxb827eb123456\nIFINDEX=4\n",
        "sys/class/net/enxb827eb123456/address": "b8:27:eb:12:34:56\n",
        "sys/class/net/enxb827eb123456/device/uevent": (
            "DRIVER=rndis_host\nPRODUCT=SN-0815\nUSB_SSID=HomeNet\nSERIAL=SN-0815\n"
        ),
        "proc/net/route": (
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
            "enxb827eb123456\t00000000\t0511A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n"
            "enxb827eb123456\t0011A8C0\t00000000\t0001\t0\t0\t50\t00FFFFFF\t0\t0\t0\n"
        ),
        "proc/net/ipv6_route": (
            "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
            "cafe0000000000000000000000001234 00000400 00000001 00000000 00000003 enxb827eb123456\n"
            "fd120000000000000000000000000000 40 00000000000000000000000000000000 00 "
            "00000000000000000000000000000000 00000100 00000001 00000000 00000001 enxb827eb123456\n"
        ),
        "etc/nvpmodel.conf": (
            "# by alice on raspberrypi, 192.168.17.5, c0ffee00c0ffee00c0ffee00c0ffee00,\n"
            "# 123e4567-e89b-12d3-a456-426614174000, B8-27-EB-12-34-56\n< POWER_MODEL ID=1 NAME=15W >\n"
        ),
        "var/lib/nvpmodel/status": "pmode:0001",
        "etc/machine-id": "c0ffee00c0ffee00c0ffee00c0ffee00\n",
        "etc/hostname": "raspberrypi\n",
        "proc/device-tree/serial-number": "SN-0815\0",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize("board", ["raspberry-pi-4b", "jetson-orin-nano"])
def test_what_tells_who_the_owner_is_is_replaced_and_the_readings_stay(
    board, record, capsys, tmp_path
) -> None:
    root, out = tmp_path / "board", tmp_path / "out"
    shutil.copytree(HARDWARE / board / "capture", root)
    private(root)
    code, printed, _ = record(out, "--root", root)
    assert code == 0
    everything = "\n".join(
        [printed, *(f"{path}\n{path.read_text()}" for path in out.rglob("*") if path.is_file())]
    )
    everything = everything.replace(str(tmp_path), "")
    assert [secret for secret in SECRETS if secret.lower() in everything.lower()] == []
    assert not (out / "etc/machine-id").exists()
    # A host called raspberrypi and a user called nvidia must not hide the board.
    before, after = readings(root, capsys), readings(out, capsys)
    assert "enx020000000001" in json.dumps(after)
    assert json.dumps(after) == json.dumps(before).replace("enxb827eb123456", "enx020000000001")
    assert after["readings"]["network"]["value"] == "tether"
    assert after["readings"]["power_mode"]["value"] == "15W"
    assert "# by user on board, 192.0.2.1, 0000" in (out / "etc/nvpmodel.conf").read_text()
    for what in ("hardware address", "network address", "host name", "user name", "id", "line left out"):
        assert re.search(rf"^replaced .*\d x {what}", printed, re.MULTILINE), what


def test_what_only_has_to_be_there_is_marked(record, tmp_path) -> None:
    """Probes ask whether an interface has such an entry, and whether a supply is there at all."""
    root, out = tmp_path / "board", tmp_path / "out"
    shutil.copytree(HARDWARE / "generic-aarch64" / "capture", root)
    there = [
        "br0/bridge",
        "br0/lower_eth0",
        "wlan1/wireless",
        "wlan2/phy80211",
        "bond0/bonding",
        "eth1/device",
    ]
    for entry in there:
        (root / "sys/class/net" / entry).mkdir(parents=True)
    (root / "sys/class/net/tun0").mkdir()
    (root / "sys/class/net/tun0/tun_flags").write_text("0x1001\n")
    (root / "sys/class/power_supply/hid-b8:27:eb:12:34:57-battery").mkdir(parents=True)
    assert record(out, "--root", root)[0] == 0
    assert [entry for entry in there if not (out / "sys/class/net" / entry / ".present").is_file()] == []
    assert (out / "sys/class/net/tun0/tun_flags").read_text() == ""
    (supply,) = (out / "sys/class/power_supply").iterdir()
    assert supply.name == "hid-02:00:00:00:00:01-battery"


def test_what_is_denied_is_marked_and_the_rest_is_recorded(record, monkeypatch, tmp_path) -> None:
    root, out = tmp_path / "board", tmp_path / "out"
    shutil.copytree(HARDWARE / "jetson-orin-nano" / "capture", root)
    (root / "sys/class/thermal/thermal_zone2/temp").write_text("1\n")
    os.mkfifo(root / "run/systemd/sessions/7.ref")  # logind's: who reads it waits for ever
    opened = os.open

    def refusing(path: object, *words: object, **more: object) -> int:
        if str(path).endswith("thermal_zone2/temp"):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        if str(path).endswith("in1_input"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    code, printed, _ = record(out, "--root", root)
    monkeypatch.undo()
    note = (out / "CAPTURE.md").read_text()
    assert code == 0
    for line in (
        "sys/class/thermal/thermal_zone2/temp",
        "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input",
    ):
        assert f"absent    {line}: E" in printed
        assert f"- `{line}`: E" in note
        assert not (out / line).exists()
    assert "EAGAIN" in note
    assert "EACCES" in note
    assert (out / "sys/class/thermal/thermal_zone2/type").exists()
    assert not (out / "run/systemd/sessions/7.ref").exists()


def test_bad_words_are_one_line(record, tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full, none = tmp_path / "full", tmp_path / "none"
    assert record(full) == (2, "", f"capture_board: {full} exists: give the name of a new folder\n")
    assert record(none, "--root", none) == (2, "", f"capture_board: {none} is no folder\n")
    below = full / "file" / "out"
    assert record(below, "--root", tmp_path) == (1, "", f"capture_board: {below}: Not a directory\n")


def test_it_records_this_machine_without_fedclient_and_without_a_site(tmp_path, capsys) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", TOOL, "here"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = readings(tmp_path / "here", capsys)
    assert found["profile"] == boards.here().name
    assert found["readings"]["free_memory_mib"]["value"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


def test_it_runs_on_python_3_8_with_the_standard_library() -> None:
    tree = ast.parse(TOOL.read_text(), feature_version=(3, 8))
    nodes = list(ast.walk(tree))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    newer = {
        "removeprefix",
        "removesuffix",
        "is_relative_to",
        "with_stem",
        "tomllib",
        "zoneinfo",
        "bit_count",
    }
    assert not newer & {node.attr for node in nodes if isinstance(node, ast.Attribute)}
