"""Start of the trainer process: priorities first, then the job, then one exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fedclient.device.jobs import JobArguments, TrainerExit
from fedclient.device.judgement import JudgeArguments
from fedclient.errors import AstrayHead, DataError, FedClientError, ModelError, StorageDamaged, TransientError
from fedclient.training import process

# one core: the head is small, and BLAS would start a thread for each core of the board
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(argv: list[str]) -> int:
    """Run one job, dry run or judge, or write the heads of nodes; the exit code."""
    stop = {"asked": False}

    def on_sigterm(*_: object) -> None:
        stop["asked"] = True

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the agent, which asks politely
    verb, arguments = argv[0], json.loads(argv[1])
    level = logging.INFO if arguments.get("verbose") else logging.WARNING
    logging.basicConfig(format=_log_format(), stream=sys.stderr, level=level)
    process.die_with(arguments["parent"])
    try:
        return _run(verb, arguments, lambda: stop["asked"])
    except FedClientError as error:
        logging.getLogger("fedclient.trainer").error("%s", error)
        return _exit_code(error)


def _log_format() -> str:
    """Return the format of a line; for the journal each begins with its priority (sd-daemon(3))."""
    error = os.fstat(2)
    if os.environ.get("JOURNAL_STREAM") != f"{error.st_dev}:{error.st_ino}":
        return "trainer: %(message)s"
    for level, priority in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        logging.addLevelName(level, f"<{priority}>")
    return "%(levelname)strainer: %(message)s"


def _run(verb: str, arguments: dict[str, Any], should_stop: Callable[[], bool]) -> int:
    # NumPy and the runtime load here, after the priorities are set
    process.be_nice(arguments["nice"], idle=arguments["idle"])
    if arguments["memory_mib"]:
        process.limit_memory(arguments["memory_mib"])
    if verb == "dry-run":
        from fedclient.trainer import dry_run  # noqa: PLC0415

        return dry_run.run(dry_run.DryRunArguments(**arguments))
    if verb == "node-heads":
        from fedclient.nodes.headfile import NodeHeadArguments  # noqa: PLC0415
        from fedclient.trainer import node_heads  # noqa: PLC0415

        return node_heads.run(NodeHeadArguments(**arguments), should_stop)
    if verb == "judge":
        from fedclient.trainer import judge  # noqa: PLC0415

        return judge.run(JudgeArguments(**arguments), should_stop)
    from fedclient.trainer import job  # noqa: PLC0415

    return job.JobRun(JobArguments(**arguments), should_stop).run()


def _exit_code(error: FedClientError) -> int:
    if isinstance(error, AstrayHead):
        return TrainerExit.ASTRAY
    if isinstance(error, StorageDamaged):
        return TrainerExit.LOST
    if isinstance(error, TransientError):
        return TrainerExit.DISK
    if isinstance(error, ModelError):
        return TrainerExit.MODEL
    return TrainerExit.DATA if isinstance(error, DataError) else TrainerExit.CRASHED


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    # The agent waits for this process to be gone: to take NumPy and the runtime down in good order
    # takes longer than to pack and commit the update, and nothing is left to do.
    os._exit(code)
