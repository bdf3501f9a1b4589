"""The trainer as a process: gone with its parent, bound in memory, and out of everybody's way."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from fedclient.training.process import pss_mib

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], pass_fds=(int(sys.argv[2]),))
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""
CHILD = """
import sys
from fedclient.training import process
process.die_with(int(sys.argv[1]))
print("ready", flush=True)
import time
time.sleep(60)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_rule_5_6_a_trainer_ends_when_its_agent_is_killed() -> None:
    gone, kept = os.pipe()
    agent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(kept)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(kept,),
    )  # fmt: skip
    os.close(kept)
    assert agent.stdout is not None
    assert agent.stdin is not None
    try:
        assert agent.stdout.readline() == b"ready\n"
        assert not select.select([gone], [], [], 0)[0]  # both are there
        agent.stdin.write(b"x")
        agent.stdin.flush()
        assert select.select([gone], [], [], 20)[0], "the trainer outlived its agent"
        assert agent.wait(20) == -9
    finally:
        agent.kill()
        agent.wait()
        agent.stdin.close()
        agent.stdout.close()
        os.close(gone)


def test_rule_5_6_a_trainer_whose_agent_is_gone_already_ends_at_once() -> None:
    done = run("from fedclient.training import process; process.die_with(1 << 22); print('still here')")
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, "")


def test_it_gives_way_to_everything_else() -> None:
    done = run(
        "import os; from fedclient.training import process; process.be_nice(5, idle=True);"
        "print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE);"
        "print(open('/proc/self/oom_score_adj').read())"
    )
    nice, idle, oom = done.stdout.split()
    assert int(nice) >= 5
    assert idle == "True"
    assert oom == "1000"


@pytest.mark.parametrize("hard_mib", [None, 128])
def test_more_memory_than_allowed_is_not_had(hard_mib) -> None:
    lower = f"resource.setrlimit(resource.RLIMIT_DATA, ({hard_mib} << 20,) * 2);" if hard_mib else ""
    done = run(
        f"import resource; {lower} from fedclient.training import process; process.limit_memory(200);"
        "bytearray(50 << 20); print('fits', flush=True); bytearray(300 << 20)"
    )
    assert done.stdout == "fits\n"
    assert "MemoryError" in done.stderr


GROWS = """
from fedclient.training import process
if {limit}:
    process.limit_memory({limit})
try:
    with process.memory_grows_by(60):
        bytearray(40 << 20)
        print("fits", flush=True)
        bytearray(80 << 20)
except MemoryError:
    bytearray(80 << 20)
    print("only inside it does not", flush=True)
bytearray(400 << 20)
"""


@pytest.mark.parametrize("limit_mib", [None, 300])
def test_a_step_gets_no_more_memory_than_it_is_said_to_take(limit_mib) -> None:
    done = run(GROWS.format(limit=limit_mib))
    assert done.stdout == "fits\nonly inside it does not\n"
    assert ("MemoryError" in done.stderr) == bool(limit_mib), "the limit that was there before is there again"


def test_pss_is_measured_or_zero() -> None:
    assert 1 < pss_mib() < 4000
    assert pss_mib(1 << 22) == 0.0
