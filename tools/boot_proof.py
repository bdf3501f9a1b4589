"""What tools/boot_check runs inside the booted system, as root: the services as an owner meets them.

Each check is a function that returns what it saw, or raises AssertionError.  Standard library only:
it runs on the system's own Python.
"""

from __future__ import annotations

import argparse
import grp
import json
import os
import pwd
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

PROGRAM = "/opt/fedclient/bin/fedclient"
PYTHON = "/opt/fedclient/bin/python"
STATE, GATEWAY = Path("/var/lib/fedclient"), Path("/var/lib/fedclient-gateway")
CONFIG = Path("/etc/fedclient/config.toml")
UNIT, GATEWAY_UNIT = "fedclient.service", "fedclient-gateway.service"
DROP_INS = Path("/etc/systemd/system/fedclient.service.d")
SECOND = Path("/srv/second")  # the second device that a round needs; no service, and not looked at
MEMORY = Path("/run/memory-v1")
SMALL_BYTES = 24 << 20  # the agent's own pages stay charged to its old group; no trainer fits in here
CONFIG_TEXT = """
[broker]
retry_min_s = 0.5
retry_max_s = 2
[schedule]
min_battery_percent = false
pause_on_under_voltage = false
pause_on_throttling = false
pause_temp_c = false
max_cpu_percent = false
max_pressure_percent = false
min_free_memory_mib = false
min_free_disk_mib = false
min_input_idle_s = false
networks = []
allow_metered = true
min_spacing_s = 0
dwell_s = 0
poll_s = 1
daily_training_s = false
[gateway]
cohort = 2
min_devices = 2
"""
FAST, SLOW = "epochs = 20\nmax_examples = 400\n", "epochs = 100\nbatch_size = 1\n"
SAMPLES = """
import numpy, sys, fedclient
x = numpy.random.default_rng(int(sys.argv[2])).normal(size=(int(sys.argv[3]), 8)).astype("f4")
with fedclient.SampleStore(sys.argv[1] + "/samples/samples.db") as store:
    store.append_many(x, x[:, :3].argmax(axis=1).tolist())
"""
PREDICT = """
import fedclient, numpy
print(fedclient.load_model("/var/lib/fedclient").predict(numpy.ones(8, "f4")).shape)
"""
SEES = """
echo the journal may not know yet whose first line this is
for name in class/thermal class/power_supply class/hwmon class/net devices/system/cpu; do
    if [ ! -e "/sys/$name" ]; then echo "/sys/$name: not on this machine"; continue; fi
    ls "/sys/$name" >/dev/null && echo "/sys/$name"
done
for name in pressure/cpu net/route stat meminfo locks sys/kernel/random/boot_id; do
    cat "/proc/$name" >/dev/null && echo "/proc/$name"
done
busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager IdleHint
"""


def call(*words: object, check: bool = True, **options: object) -> str:
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}"
    )
    return str(done.stdout + ("" if check else done.stderr)).strip()


def fedclient(*words: object, **options: object) -> str:
    return call(PROGRAM, *words, **options)


def show(unit: str, name: str) -> str:
    return call("systemctl", "show", "-p", name, "--value", unit)


def until(condition: Callable[[], object], what: str, patience_s: float = 90.0) -> float:
    """Wait until it holds; returns how long that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience_s:
            lines = call("journalctl", "-u", UNIT, "-u", GATEWAY_UNIT, "-n", "25", "--no-pager", "-o", "cat")
            raise AssertionError(f"not within {patience_s:g} s: {what}\n{lines}")
        time.sleep(0.05)
    return time.monotonic() - began


def timed(*words: object) -> float:
    began = time.monotonic()
    call(*words)
    return time.monotonic() - began


def journal(unit: str, since: str) -> list[dict[str, str]]:
    lines = call("journalctl", "-u", unit, "-o", "json", "--no-pager", f"--after-cursor={since}").splitlines()
    return [json.loads(line) for line in lines]


def cursor() -> str:
    call("journalctl", "--sync")
    return call("journalctl", "-n", "0", "--show-cursor", "--no-pager").rpartition("cursor: ")[2]


def said(unit: str, since: str, text: str) -> dict[str, str] | None:
    found = [line for line in journal(unit, since) if text in str(line.get("MESSAGE"))]
    return found[0] if found else None


def agent() -> int:
    return int(show(UNIT, "MainPID"))


def trainer() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pid = int(Path(f"/proc/{agent()}/task/{agent()}/children").read_text().split()[0])
        if b"fedclient.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def ask(query: str, default: int = 0) -> int:
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(STATE / "device.db", timeout=5)) as database,
    ):
        row = database.execute(query).fetchone()
        return default if row is None else int(row[0])
    return default


def checkpoint() -> int:
    """Epochs that the stored checkpoint of the job in hand has behind it."""
    return ask("SELECT epoch FROM checkpoint")


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads(fedclient("status", "--json"))
    return found


def publish(plan: str) -> str:
    path = Path("/tmp/plan.toml")  # noqa: S108 - this system is ours
    path.write_text(plan)
    return fedclient("gateway", "publish", "/srv/head.tflite", "--labels", "a,b,c", "--plan", path).split()[1]


def train_slowly() -> None:
    """Begin a job that is at work for minutes, and wait for its second checkpoint."""
    version = publish(SLOW)
    until(lambda: status()["head"] == version and trainer() and checkpoint() >= 2, f"trains on {version}")


# --- the checks, in order ---------------------------------------------------------------------------


def install() -> str:
    for words in ((), ("--gateway",)):
        fedclient("service", "install", *words)
    found = []
    for unit in (UNIT, GATEWAY_UNIT):
        verified = call("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit}", check=False)
        assert not verified, verified
        exposure = call("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1].split(": ")[1]
        found.append(f"{unit} {exposure.split()[0]}")
        assert float(exposure.split()[0]) <= 1.5, exposure
    assert call("systemctl", "is-enabled", UNIT, GATEWAY_UNIT).split() == ["enabled", "enabled"]
    return f"verify clean, exposure {', '.join(found)}"


def starts(port: int) -> str:
    """Set up a federation by the commands that `install` printed, and start both services."""
    CONFIG.write_text(CONFIG_TEXT)
    fedclient("gateway", "init", "--federation", "lab", "--broker", f"127.0.0.1:{port}")
    fedclient("model", "new-head", "--features", 8, "--classes", 3, "-o", "/srv/head.tflite")
    publish(FAST)
    gateway_s = timed("systemctl", "start", GATEWAY_UNIT)
    fedclient("init")
    fedclient("enroll", fedclient("gateway", "invite"))
    DROP_INS.mkdir(exist_ok=True)
    sees = Path("/srv/sees.sh")
    sees.write_text(SEES)
    (DROP_INS / "sees.conf").write_text(f"[Service]\nExecStartPre=/bin/sh {sees}\n")
    call("systemctl", "daemon-reload")
    agent_s = timed("systemctl", "start", UNIT)  # comes back with READY=1
    assert show(UNIT, "ActiveState") == "active"
    until(lambda: show(UNIT, "StatusText"), "a status text")
    return f"READY: gateway {gateway_s:.1f} s, agent {agent_s:.1f} s; status: {show(UNIT, 'StatusText')!r}"


def sees(since: str) -> str:
    """What the sandbox leaves readable, by a script that was started in it."""
    lines = [str(line["MESSAGE"]) for line in journal(UNIT, since)]
    lines = [line for line in lines if line.startswith(("/", "b "))]
    assert "b false" in lines or "b true" in lines, lines
    assert any(line.startswith("/sys/class/thermal") for line in lines), lines
    assert "/proc/pressure/cpu" in lines, lines
    assert "/proc/net/route" in lines, lines
    return "; ".join(lines)


def owns() -> str:
    owner = pwd.getpwnam("fedclient")
    found = {(path.stat().st_uid, path.stat().st_gid) for path in [STATE, *STATE.rglob("*")]}
    assert found == {(owner.pw_uid, owner.pw_gid)}, found
    modes = {path.name: f"{path.stat().st_mode & 0o7777:o}" for path in [STATE, *STATE.iterdir()]}
    gateway = pwd.getpwnam("fedclient-gateway").pw_uid
    assert {path.stat().st_uid for path in [GATEWAY, *GATEWAY.rglob("*")]} == {gateway}
    return ", ".join(f"{name} {mode}" for name, mode in sorted(modes.items()))


def as_user(name: str, *groups: str) -> dict[str, object]:
    user = pwd.getpwnam(name)
    return {
        "user": user.pw_uid,
        "group": user.pw_gid,
        "extra_groups": [grp.getgrnam(one).gr_gid for one in groups],
    }


def apps() -> str:
    """An app of the group records; another user gets nowhere."""
    call(PYTHON, "-c", SAMPLES, STATE, 1, 8000, cwd="/", **as_user("nobody", "fedclient"))
    stranger = call(PYTHON, "-c", SAMPLES, STATE, 1, 1, check=False, cwd="/", **as_user("nobody"))
    assert "Error" in stranger or "cannot" in stranger, stranger
    for private in ("keys", "blobs", "device.db"):
        for groups in ((), ("fedclient",)):
            path = STATE / private
            reader = (
                "import os, sys; os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1]) else open(sys.argv[1])"
            )
            denied = call(PYTHON, "-c", reader, path, check=False, cwd="/", **as_user("nobody", *groups))
            assert "PermissionError" in denied, f"{path} {groups}: {denied}"
    return "an app in group fedclient records samples; keys, blobs, device.db are closed to it, all to others"


def trains(second: list[subprocess.Popen[bytes]]) -> str:
    """A round with a second device, which is no service."""
    options = ("--state", SECOND)
    SECOND.mkdir()
    fedclient(*options, "init")
    call(PYTHON, "-c", SAMPLES, SECOND, 2, 400)
    fedclient(*options, "enroll", fedclient("gateway", "invite"))
    second.append(subprocess.Popen([PROGRAM, *map(str, options), "run"], stderr=subprocess.DEVNULL))
    took_s = until(
        lambda: json.loads(fedclient("gateway", "rounds", "--json"))["rounds"], "a round is closed"
    )
    until(lambda: status()["rounds"] and status()["rounds"][0]["status"] == "counted", "the receipt")
    second[0].send_signal(signal.SIGTERM)
    assert second[0].wait(10) == 0
    (first,) = json.loads(fedclient("gateway", "rounds", "--json"))["rounds"][:1]
    until(lambda: status()["app_head"] not in {None, "1.1"}, "the new head is adopted")  # or one after it
    predicted = call(PYTHON, "-c", PREDICT, cwd="/", **as_user("nobody", "fedclient"))
    return (
        f"head 1.2 of {first['counted']} updates after {took_s:.1f} s; an app predicts with it: {predicted}"
    )


def trainer_in_the_sandbox() -> str:
    train_slowly()
    pid = trainer()
    facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    policy = os.sched_getscheduler(pid or 0)
    found = {
        "nice": os.getpriority(os.PRIO_PROCESS, pid or 0),
        "SCHED_IDLE": policy == os.SCHED_IDLE,
        "I/O": call("ionice", "-p", pid),
        "oom_score_adj": int(Path(f"/proc/{pid}/oom_score_adj").read_text()),
    }
    assert found == {"nice": 19, "SCHED_IDLE": True, "I/O": "idle", "oom_score_adj": 1000}, found
    return "no capability, seccomp; " + ", ".join(f"{name} {value}" for name, value in found.items())


def stop_in_training() -> str:
    """Stop while it trains: the job is resumed from where it was."""
    before = checkpoint()
    took_s = timed("systemctl", "stop", UNIT)
    kept = checkpoint()
    assert took_s < 5, took_s
    assert show(UNIT, "Result") == "success"
    assert kept >= before > 0
    timed("systemctl", "start", UNIT)
    until(lambda: trainer() and checkpoint() > kept, "it goes on")
    return f"{took_s:.2f} s; checkpoint at epoch {kept}, resumed from it"


def stop_a_stopped_trainer() -> str:
    """Stop while the trainer takes no notice of anything."""
    pid = trainer()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    took_s = timed("systemctl", "stop", UNIT)
    assert took_s < 5, took_s
    assert show(UNIT, "Result") == "success"
    assert not Path(f"/proc/{pid}").exists()
    timed("systemctl", "start", UNIT)
    until(trainer, "it trains again")
    return f"{took_s:.2f} s, the trainer is gone, the job goes on after the next start"


def stop_in_a_name_lookup() -> str:
    """Stop while the main thread waits for a name server that does not answer."""
    drop_in = DROP_INS / "dns.conf"
    resolv = Path("/srv/resolv.conf")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.77", 53))
        resolv.write_text("nameserver 127.0.0.77\noptions timeout:30 attempts:1\n")
        drop_in.write_text(f"[Service]\nBindReadOnlyPaths={resolv}:/etc/resolv.conf\n")
        elsewhere = '[broker]\nhost = "broker.example"\nallow_plaintext = true\n'
        CONFIG.write_text(CONFIG_TEXT.replace("[broker]\n", elsewhere))
        call("systemctl", "daemon-reload")
        call("systemctl", "stop", UNIT)
        call("systemctl", "start", "--no-block", UNIT)
        silent.settimeout(30)
        silent.recv(512)  # it asks
        took_s = timed("systemctl", "stop", UNIT)
    result = f"{show(UNIT, 'Result')}, {call('systemctl', 'is-failed', UNIT, check=False)}"
    drop_in.unlink()
    CONFIG.write_text(CONFIG_TEXT)
    call("systemctl", "daemon-reload")
    assert took_s < 5, took_s
    assert result == "success, inactive", result
    timed("systemctl", "start", UNIT)
    return f"{took_s:.2f} s, by the process's own timer (SIGALRM, a clean exit by the unit)"


def reload() -> str:
    pid, since = agent(), cursor()
    CONFIG.write_text(CONFIG_TEXT.replace("poll_s = 1", "poll_s = 2"))
    call("systemctl", "reload", UNIT)
    until(lambda: said(UNIT, since, "reloading"), "reloading")
    until(lambda: said(UNIT, since, ": connected"), "connected again")
    CONFIG.write_text(CONFIG_TEXT + "\n[brokre]\n")
    bad = cursor()
    call("systemctl", "reload", UNIT)
    until(lambda: said(UNIT, bad, "not reloaded"), "bad settings")
    line = said(UNIT, bad, "not reloaded") or {}
    CONFIG.write_text(CONFIG_TEXT)
    assert agent() == pid
    assert show(UNIT, "ActiveState") == "active"
    assert line["PRIORITY"] == "3"
    return f"same process; bad settings: {line['MESSAGE'].partition(': ')[2]}"


def priorities(since: str) -> str:
    found = {
        (line["PRIORITY"], line["MESSAGE"].split(" ")[0])
        for line in journal(UNIT, since)
        if line.get("_COMM") == "fedclient"
    }
    counts = {number: sum(1 for one, _ in found if one == number) for number in ("3", "4", "6")}
    assert counts["6"], found
    assert counts["3"], found
    assert not any(text.startswith("<") for _, text in found), found
    return "errors 3, infos 6; no <N> is left in a message"


def watchdog() -> str:
    """Stop the main loop as a bug would: the watchdog ends it, and it starts again."""
    drop_in = DROP_INS / "short.conf"
    drop_in.write_text("[Service]\nWatchdogSec=3s\nRestartSec=1s\n")
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", UNIT)
    pid = agent()
    time.sleep(7)  # more than two intervals: a loop that turns is left alone
    assert agent() == pid, "it was restarted although it turned"
    restarts = int(show(UNIT, "NRestarts"))
    os.kill(pid, signal.SIGSTOP)
    took_s = until(lambda: agent() not in (0, pid) and show(UNIT, "SubState") == "running", "a restart")
    assert int(show(UNIT, "NRestarts")) == restarts + 1
    drop_in.unlink()
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", UNIT)
    return f"WatchdogSec=3: left alone for 7 s; SIGSTOP of the main process: runs again after {took_s:.1f} s"


def vcio() -> str:
    """A Raspberry Pi's drop-in, with a device node that stands for the firmware's."""
    (shipped,) = Path("/opt/fedclient/lib").glob(
        "python3*/site-packages/fedclient/hardware/systemd/vcio.conf"
    )
    device = Path("/dev/vcio")
    os.mknod(device, stat.S_IFCHR | 0o660, os.makedev(1, 3))
    os.chown(device, 0, grp.getgrnam("video").gr_gid)
    device.chmod(0o660)
    since = cursor()
    opens = "ExecStartPre=/bin/sh -c 'cat /dev/vcio && echo it opens /dev/vcio'\n"
    for name, text in (("vcio.conf", shipped.read_text()), ("opens.conf", f"[Service]\n{opens}")):
        (DROP_INS / name).write_text(text)
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", UNIT)
    until(lambda: said(UNIT, since, "it opens /dev/vcio"), "the device opens")
    exposure = (
        call("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1].split(": ")[1].split()[0]
    )
    assert float(exposure) <= 2.1, exposure
    for name in ("vcio.conf", "opens.conf"):
        (DROP_INS / name).unlink()
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", UNIT)
    return f"exposure {exposure}; the service opens /dev/vcio (root:video 0660) in its sandbox"


def out_of_memory() -> str:
    """End the trainer for want of memory; the agent goes on, counts it, and starts another."""
    until(trainer, "it trains")
    pid, main, since = trainer(), agent(), cursor()
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    if "memory" in controllers:
        used = int(show(UNIT, "MemoryCurrent"))
        call("systemctl", "set-property", "--runtime", UNIT, "MemorySwapMax=0", f"MemoryMax={used // 2}")
        how = "kernel's OOM kill in the unit's own cgroup (MemoryMax lowered): OOMPolicy=continue is shown"
    elif memory_group():
        how = (
            "kernel's OOM kill, in a cgroup v1 group (no v2 memory controller here): that the kernel picks "
            "the trainer and the agent goes on is shown; that systemd, told by v2, lets the unit be is not"
        )
    else:
        os.kill(pid or 0, signal.SIGKILL)
        how = "SIGKILL only, no memory controller here: neither the kernel's choice nor OOMPolicy is shown"
    until(lambda: said(UNIT, since, "ended by signal SIGKILL"), "the agent notices")
    line = said(UNIT, since, "ended by signal SIGKILL") or {}
    assert agent() == main
    assert show(UNIT, "ActiveState") == "active"
    assert show(UNIT, "OOMPolicy") == "continue"
    if "memory" in controllers:
        call("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=infinity")
    return f"{how}; the agent (same process) says: {line['MESSAGE'].partition(': ')[2]}"


def memory_group() -> bool:
    """Put the agent into a small group of the v1 controller, and let its next trainer outgrow it."""
    MEMORY.mkdir()
    try:
        call("mount", "-t", "cgroup", "-o", "memory", "cgroup", MEMORY)
    except AssertionError:
        return False
    group = MEMORY / f"fedclient-{os.urandom(4).hex()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(agent()))
        (group / "memory.limit_in_bytes").write_text(str(SMALL_BYTES))
        os.kill(trainer() or 0, signal.SIGTERM)  # it checkpoints; the next one starts in the group
        until(lambda: "oom_kill 0" not in (group / "memory.oom_control").read_text(), "an OOM kill")
    finally:
        (group / "memory.limit_in_bytes").write_text("-1")
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (MEMORY / "cgroup.procs").write_text(pid)
        until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()
    return True


def removal() -> str:
    for words in ((), ("--gateway",)):
        fedclient("service", "remove", *words)
    assert show(UNIT, "LoadState") == "not-found" or not Path(f"/etc/systemd/system/{UNIT}").exists()
    assert (STATE / "keys" / "device.key").exists()
    assert CONFIG.exists()
    return "both stopped and removed; state, config and users are kept"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Path("/srv/mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    call("systemd-run", "--unit=broker", "/usr/sbin/mosquitto", "-c", "/srv/mosquitto.conf")
    since, second = cursor(), list[subprocess.Popen[bytes]]()
    checks: dict[str, Callable[[], str]] = {
        "service install": install,
        "start": lambda: starts(port),
        "the sandbox leaves readable": lambda: sees(since),
        "who owns what": owns,
        "app in the group": apps,
        "a round under the sandbox": lambda: trains(second),
        "the trainer in the sandbox": trainer_in_the_sandbox,
        "systemctl stop while training": stop_in_training,
        "stop, trainer ignores SIGTERM": stop_a_stopped_trainer,
        "stop in a name look-up": stop_in_a_name_lookup,
        "systemctl reload": reload,
        "journal priorities": lambda: priorities(since),
        "watchdog": watchdog,
        "a Raspberry Pi's drop-in": vcio,
        "trainer out of memory": out_of_memory,
        "service remove": removal,
    }
    results = []
    for name, check in checks.items():
        try:
            results.append({"check": name, "ok": True, "shown": check()})
        except (AssertionError, OSError) as error:
            results.append({"check": name, "ok": False, "shown": str(error)})
        if not asked.json:
            print(f"{'ok  ' if results[-1]['ok'] else 'FAIL'} {name}: {results[-1]['shown']}", flush=True)
    if asked.json:
        print(json.dumps({"systemd": call("systemctl", "--version").split()[1], "checks": results}, indent=1))
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
