"""`fedclient dry-run`: the whole way from data to sealed update on this machine; nothing is sent."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedclient import boards
from fedclient.config import Config, PrivacySettings
from fedclient.device.jobs import TrainerExit
from fedclient.errors import DataError, FedClientError, ModelError, TransientError, UsageError
from fedclient.limits import DENSITIES, LEARNING_RATES, MAX_BATCH, MAX_EPOCHS
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import Decision, decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Readings, SampleCounts
from fedclient.values import PLAN_CODECS

_CODECS = tuple(mode.name.lower() for mode in PLAN_CODECS)  # as in a plan file
_EPOCH_KEYS = ("loss", "accuracy", "holdout_accuracy")
_TRAINER_KEYS = {"threads", "nice", "idle", "memory_mib"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("dry-run", help="train here, on your data, and send nothing")
    parser.add_argument("--model", required=True, type=Path, metavar="M", help="a trainable .tflite")
    parser.add_argument(
        "--data", required=True, metavar="D", help="FILE.npz, FILE.csv or package.module:function"
    )
    parser.add_argument("--epochs", type=int, default=5, metavar="E", help="passes over the data (5)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="B", help="samples in one step (16)")
    parser.add_argument("--learning-rate", type=float, default=0.1, metavar="L", help="of plain SGD (0.1)")
    parser.add_argument("--holdout", type=float, default=0.2, metavar="FRACTION", help="to measure on (0.2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and of the order (0)")
    parser.add_argument(
        "--codec",
        type=lambda text: text.replace("-", "_"),  # options have hyphens elsewhere: both are understood
        choices=_CODECS,
        default=_CODECS[0],
        help="how the update shrinks",
    )
    parser.add_argument(
        "--density", type=float, default=0.01, metavar="F", help="share of elements sent (0.01)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide as the agent would, train in a child as the agent does, and report."""
    _check(args)
    profile = boards.here()
    readings = Probe(Path.cwd(), profile=profile).read(
        Activity(broker_is_local=True), 0.0
    )  # before the trainer has its load
    epochs: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for line in _train(args, profile):
        if "epoch" in line:
            epochs.append({key: line["epoch"][key] for key in _EPOCH_KEYS})
            _progress(len(epochs), args.epochs)
        result = line.get("result", result)
    decision = _decide(readings, SampleCounts(new=result["samples"], distinct=result["distinct"]), profile)
    report = {
        "decision": decision.as_dict(),
        "samples": result["samples"],
        "epochs": epochs,
        "seconds": result["seconds"],
        "trainer_peak_pss_mib": result["trainer_peak_pss_mib"],
        "bytes": result["bytes"],
    }
    _say_withheld(result["suppressed_classes"])
    if args.json:
        print(json.dumps(report))
    else:
        _print(report, decision)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be trained with, before anything is loaded."""
    bounds = {
        "--epochs": (args.epochs, 1, MAX_EPOCHS),
        "--batch-size": (args.batch_size, 1, MAX_BATCH),
        "--learning-rate": (args.learning_rate, *LEARNING_RATES),
        "--density": (args.density, *DENSITIES),
        "--seed": (args.seed, 0, 2**62),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise UsageError(f"{name} is {value}: choose {low} to {high}")
    if not 0.0 <= args.holdout < 1.0:
        raise UsageError(f"--holdout is {args.holdout}: choose a share from 0 to below 1")
    if not args.model.is_file():
        raise ModelError(f"{args.model}: this is not a file")


def _decide(readings: Readings, samples: SampleCounts, profile: Profile) -> Decision:
    """Judge this machine by this board's defaults; the data at hand is what there is of samples."""
    activity = replace(readings.activity, samples=samples)
    now = Now(elapsed_s=0.0)
    return decide(replace(readings, activity=activity), Config().policy_on(profile), profile, History(), now)


def _train(args: argparse.Namespace, profile: Profile) -> Any:
    """Start a trainer and yield the lines it prints."""
    settings = asdict(Config().trainer_on(profile))
    arguments = {
        "parent": os.getpid(),
        "model": str(args.model),
        "data": args.data,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "holdout": args.holdout,
        "seed": args.seed,
        "codec": args.codec,
        "density": args.density,
        "min_per_class": PrivacySettings().min_per_class,
        **{key: value for key, value in settings.items() if key in _TRAINER_KEYS},
    }
    command = [sys.executable, "-m", "fedclient.trainer", "dry-run", json.dumps(arguments)]
    # the current folder stays importable: --data may name a function of the user's own
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
        assert process.stdout is not None  # noqa: S101 - asked for above
        for line in process.stdout:
            yield json.loads(line)
        if process.wait() != 0:
            said.seek(0)
            raise _failure(args, process.returncode, said.read())


def _failure(args: argparse.Namespace, code: int, said: str) -> FedClientError:
    """Turn the trainer's last line into this command's error."""
    lines = [line for line in said.splitlines() if line.startswith("trainer: ")]
    sentence = lines[-1].removeprefix("trainer: ") if lines else f"the trainer crashed (exit {code})"
    if code == TrainerExit.MODEL:
        return ModelError(f"{args.model}: {sentence}")
    if code == TrainerExit.DATA:
        return DataError(sentence if sentence.startswith(args.data) else f"{args.data}: {sentence}")
    return TransientError(sentence)


def _say_withheld(classes: list[int]) -> None:
    """Tell what the default privacy floor keeps out of the update."""
    if classes:
        numbers = ", ".join(map(str, classes))
        print(
            f"class {numbers}: fewer than {PrivacySettings().min_per_class} distinct samples, so what was "
            "learnt of it would not be sent ([privacy] min_per_class)",
            file=sys.stderr,
        )


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rtraining: epoch {done} of {total}", end="\n" if done == total else "", file=sys.stderr)


def _print(report: dict[str, Any], decision: Decision) -> None:
    print(f"eligible now    {'yes' if decision.eligible else 'no'}")
    for gate in decision.gates:
        print(f"  {'open  ' if gate.ok else 'closed'} {gate.name:<18} {gate.sentence}")
    print(f"samples         {report['samples']}")
    for number, epoch in enumerate(report["epochs"], 1):
        held = epoch["holdout_accuracy"]
        tail = "" if held is None else f"   on held-out data {held:.3f}"
        print(f"  epoch {number:<3} loss {epoch['loss']:.4f}   accuracy {epoch['accuracy']:.3f}{tail}")
    print(f"seconds         {report['seconds']:.2f}")
    print(f"peak memory     {report['trainer_peak_pss_mib']:.1f} MiB (PSS of the trainer)")
    sizes = report["bytes"]
    print("update          " + "   ".join(f"{name} {size:,} B" for name, size in sizes.items()))
