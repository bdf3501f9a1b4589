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
from fedclient.limits import (
    DENSITIES,
    LEARNING_RATES,
    MAX_BATCH,
    MAX_BUDGET_S,
    MAX_EPOCHS,
    MOMENTA,
    PENALTIES,
    UPDATE_BYTES,
)
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import Decision, decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Readings, SampleCounts
from fedclient.values import PLAN_CODECS, Codec, CodecMode, Plan, Schedule

_CODECS = tuple(mode.name.lower() for mode in PLAN_CODECS)  # as in a plan file
_SCHEDULES = tuple(schedule.name.lower() for schedule in Schedule)
_EPOCH_KEYS = ("loss", "accuracy", "holdout_accuracy", "worst_recall", "holdout_worst_recall")
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
    parser.add_argument("--learning-rate", type=float, default=0.1, metavar="L", help="of a step (0.1)")
    _add_plan_options(parser)
    parser.add_argument("--holdout", type=float, default=0.2, metavar="FRACTION", help="to measure on (0.2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and of the order (0)")
    parser.add_argument(
        "--codec",
        type=lambda text: text.replace("-", "_"),  # options have hyphens elsewhere: both are understood
        choices=_CODECS,
        help="how the update shrinks (topk_int8; with --max-bytes fitted)",
    )
    parser.add_argument(
        "--density", type=float, metavar="F", help="share of elements sent (0.01; fitted: at most, 1)"
    )
    parser.add_argument(
        "--max-bytes", type=int, metavar="N", help="of the whole message: the best update that fits"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add what a plan may ask of a head that can do it; defaults are the plan's."""
    usual = Plan()
    parser.add_argument(
        "--momentum", type=float, metavar="M", help=f"of a head written with it ({usual.momentum})"
    )
    parser.add_argument(
        "--l2", type=float, default=usual.l2, metavar="L", help="weight decay of the kernels (0)"
    )
    parser.add_argument(
        "--mu", type=float, default=usual.mu, metavar="MU", help="FedProx: pull towards the start (0)"
    )
    parser.add_argument(
        "--schedule",
        choices=_SCHEDULES,
        default=_SCHEDULES[usual.schedule],
        help="of the learning rate over all steps (constant)",
    )
    parser.add_argument("--balanced", action="store_true", help="draw each class as often as any other")
    parser.add_argument(
        "--budget-s",
        type=float,
        default=usual.budget_s,
        metavar="S",
        help="after the first epoch, no more than fit into S seconds (0: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Decide as the agent would, train in a child as the agent does, and report."""
    _settle_codec(args)
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
    if sys.stderr.isatty() and len(epochs) < args.epochs:
        print(file=sys.stderr)  # the line of progress ends
    decision = _decide(readings, SampleCounts(new=result["samples"], distinct=result["distinct"]), profile)
    report = {
        "decision": decision.as_dict(),
        "samples": result["samples"],
        "epochs": epochs,
        "seconds": result["seconds"],
        "trainer_peak_pss_mib": result["peak_pss_mib"],
        "bytes": result["bytes"],
        "rates": result["rates"],
        **_times(result, len(epochs)),
        "standardised": result["standardised"],
    }
    if len(epochs) < args.epochs:
        print(f"{len(epochs)} of {args.epochs} epochs: no more fit into --budget-s", file=sys.stderr)
    _say_what_differs(result)
    if args.json:
        print(json.dumps(report))
    else:
        _print(report, decision)
    return 0


def _times(result: dict[str, Any], epochs: int) -> dict[str, float | None]:
    """Split the time: the backbone runs once for a sample, the head once for a sample in each epoch."""
    computed, passes = result["backbone_samples"], result["trained_on"] * epochs
    return {
        "backbone_seconds": result["backbone_seconds"],
        "head_seconds": result["head_seconds"],
        "backbone_seconds_per_sample": result["backbone_seconds"] / computed if computed else None,
        "head_seconds_per_sample": result["head_seconds"] / passes,
    }


def _settle_codec(args: argparse.Namespace) -> None:
    """Fill in what depends on whether bytes are given, as a plan file does."""
    fitted = CodecMode.FITTED.name.lower()
    if args.codec is None:
        args.codec = _CODECS[0] if args.max_bytes is None else fitted
    if args.density is None:
        args.density = 1.0 if args.codec == fitted else Codec().density
    if args.codec == fitted and args.max_bytes is None:
        raise UsageError("--codec fitted needs --max-bytes: they decide how much is sent")


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be trained with, before anything is loaded."""
    bounds = {
        "--epochs": (args.epochs, 1, MAX_EPOCHS),
        "--batch-size": (args.batch_size, 1, MAX_BATCH),
        "--learning-rate": (args.learning_rate, *LEARNING_RATES),
        "--momentum": (0.0 if args.momentum is None else args.momentum, *MOMENTA),
        "--l2": (args.l2, *PENALTIES),
        "--mu": (args.mu, *PENALTIES),
        "--budget-s": (args.budget_s, 0.0, MAX_BUDGET_S),
        "--density": (args.density, *DENSITIES),
        "--max-bytes": (UPDATE_BYTES[0] if args.max_bytes is None else args.max_bytes, *UPDATE_BYTES),
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
        "momentum": args.momentum,
        "l2": args.l2,
        "mu": args.mu,
        "schedule": args.schedule,
        "balanced": args.balanced,
        "budget_s": args.budget_s,
        "holdout": args.holdout,
        "seed": args.seed,
        "codec": args.codec,
        "density": args.density,
        "max_bytes": args.max_bytes,
        "min_per_class": PrivacySettings().min_per_class,
        "feature_batch": profile.feature_batch,
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


def _say_what_differs(result: dict[str, Any]) -> None:
    """Tell what would be otherwise in a federation, and what the default privacy floor keeps back."""
    if result["standardised"]:
        print(
            "the head standardises its input: here by the statistics of these samples alone, "
            "in a federation by those of all devices",
            file=sys.stderr,
        )
    if classes := result["suppressed_classes"]:
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
        print(
            f"  epoch {number:<3} loss {epoch['loss']:.4f}   accuracy {epoch['accuracy']:.3f}"
            f"   worst class {epoch['worst_recall']:.3f}{tail}"
        )
    print(f"seconds         {report['seconds']:.2f}")
    if (each := report["backbone_seconds_per_sample"]) is not None:
        print(f"  backbone      {report['backbone_seconds']:.2f}   {1e3 * each:.3f} ms a sample, once")
    each = report["head_seconds_per_sample"]
    print(f"  head          {report['head_seconds']:.2f}   {1e3 * each:.3f} ms a sample and epoch")
    print(f"peak memory     {report['trainer_peak_pss_mib']:.1f} MiB (PSS of the trainer)")
    sizes = report["bytes"]
    print("update          " + "   ".join(f"{name} {size:,} B" for name, size in sizes.items()))
    print("what bytes buy  elements    bits       message   error left (NMSE)")
    for one in report["rates"]:
        share, bits = f"{100 * one['density']:.3g} %", "signs" if one["bits"] == 1 else one["bits"]
        mark = "   <- this update" if one["picked"] else ""
        print(f"{share:>24}   {bits:>5}   {one['message_bytes']:>9,} B   {one['nmse']:.4f}{mark}")
