"""Run one function of ours on some bytes in a child process, so that a crash becomes a sentence.

A damaged .tflite file can end the process that opens it: tflite-runtime 2.14 does not verify what it
maps.  The child has a bound on time and memory, and its standard error is not shown.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import Any, Final

from fedclient.errors import ModelError

MAX_MEMORY_BYTES: Final = 2 * 1024**3  # address space: a runtime and NumPy take 0.4 GiB of it
BLAME: Final = ": the file is damaged or not supported"  # unless it is known to be sound
_START: Final = """
import sys
sys.path[:] = {path!r}
from fedclient.runtime.child import bound_memory
from {module} import {function}
bound_memory()
sys.stdout.buffer.write({function}(sys.stdin.buffer.read()))
"""


def run(module: str, function: str, data: bytes, *, timeout_s: float) -> bytes:
    """Return `function(data)` of `module`, bytes to bytes, as a child process computes it.

    Raises ModelError when the child crashes, fails, or takes longer than `timeout_s`.
    """
    program = _START.format(path=sys.path, module=module, function=function)
    # One thread: each further one reserves address space, which is bounded.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", program]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"the TFLite runtime did not finish with it within {timeout_s:g} s") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"the TFLite runtime crashed on it ({name}){BLAME}")
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"the TFLite runtime failed on it: {last[:200]}")
    return done.stdout


def ask(module: str, function: str, data: bytes, *, timeout_s: float) -> Any:
    """Return what the JSON says that `run` brings back.  Raises ModelError as `run` does."""
    try:
        return json.loads(run(module, function, data, timeout_s=timeout_s))
    except ValueError:  # something that it loaded has written over its memory, or its output
        raise ModelError("the TFLite runtime damaged the process it ran in") from None


def bound_memory() -> None:
    """Bound this process's address space, so that a file asking for terabytes fails alone."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
