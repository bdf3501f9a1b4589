"""Train here, on this data, send nothing; every stage is the real one (DESIGN 10, `dry-run`).

Writes JSON lines to standard output: {"epoch": {...}} after each epoch, then {"result": {...}}.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedclient import runtime
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device.jobs import TrainerExit
from fedclient.errors import DataError
from fedclient.runtime import TrainableModel
from fedclient.samples.importer import Dataset, load
from fedclient.trainer.pack import pack
from fedclient.training.dataset import class_number
from fedclient.training.loop import EpochReport, Examples, HeadTraining
from fedclient.training.process import pss_mib
from fedclient.uplink import DeviceUplink
from fedclient.values import NO_HEAD, Base, Codec, CodecMode, Plan, Update


@dataclass(frozen=True, kw_only=True)
class DryRunArguments:
    """What `fedclient dry-run` asks for."""

    parent: int  # process id of the command
    model: str
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    holdout: float  # share of the samples, by seed
    seed: int
    codec: str
    density: float
    min_per_class: int
    threads: int
    nice: int
    idle: bool
    memory_mib: int | None


def run(arguments: DryRunArguments) -> int:
    """Carry out a dry run; raises FedClientError."""
    started = time.monotonic()
    model = runtime.load(Path(arguments.model), threads=arguments.threads)
    with redirect_stdout(sys.stderr):  # what the user's own function prints is no line of ours
        dataset = load(arguments.data)
    training, holdout = _split(_examples(dataset, model), arguments)
    plan = Plan(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        codec=Codec(mode=CodecMode[arguments.codec.upper()], density=arguments.density),
    )
    base = model.get_weights()
    work = HeadTraining(model=model, examples=training, plan=plan, seed=arguments.seed, holdout=holdout)
    peak_mib = pss_mib()

    def on_epoch(report: EpochReport) -> None:
        nonlocal peak_mib
        peak_mib = max(peak_mib, pss_mib())
        _say({"epoch": report.as_dict()})

    work.run(lambda: False, on_epoch)
    packed = pack(work, base, np.zeros_like(base), arguments.min_per_class)
    result = {
        "samples": len(training) + (0 if holdout is None else len(holdout)),
        "distinct": len({hashlib.sha256(row.tobytes()).digest() for row in dataset.x}),
        "seconds": time.monotonic() - started,
        "trainer_peak_pss_mib": max(peak_mib, pss_mib()),
        "bytes": {**packed.sizes, "sealed": _sealed_bytes(packed.body, len(training))},
        "suppressed_classes": list(packed.suppressed_classes),
    }
    _say({"result": result})
    return TrainerExit.DONE


def _examples(dataset: Dataset, model: TrainableModel) -> Examples:
    """Fit the data to the model; unlike recorded samples, a row that does not fit is an error."""
    names = dataset.label_names
    classes = [class_number(label, names, model.classes) for label in dataset.y]
    bad = next((row for row, number in enumerate(classes) if number is None), None)
    if bad is not None:
        raise DataError(
            f"row {bad}: label {dataset.y[bad]!r} is not one of the model's classes, 0 to {model.classes - 1}"
        )
    x = dataset.x
    if model.has_features:
        features = model.extract(model.as_samples(x))
    elif int(np.prod(x.shape[1:])) != model.features:
        raise DataError(
            f"a sample has shape {list(x.shape[1:])}, the model takes {list(model.x_shape)}: "
            "is this the data the model was made for?"
        )
    else:
        features = np.asarray(x, dtype=np.float32)
    rows = features.reshape(len(x), *model.x_shape)
    return Examples(x=rows, y=np.array(classes, dtype=np.int32))


def _split(examples: Examples, arguments: DryRunArguments) -> tuple[Examples, Examples | None]:
    order = np.random.Generator(np.random.PCG64(arguments.seed)).permutation(len(examples))
    held = round(len(examples) * arguments.holdout)
    if held == 0:
        return examples, None
    if held == len(examples):
        raise DataError(f"--holdout {arguments.holdout} leaves nothing to train on")
    parts = (order[held:], order[:held])
    train, holdout = (Examples(x=examples.x[rows], y=examples.y[rows]) for rows in parts)
    return train, holdout


def _sealed_bytes(body: bytes, samples: int) -> int:
    """Size of the real envelope, signed and sealed with keys that are thrown away."""
    nothing = hashlib.sha256(b"").digest()
    uplink = DeviceUplink(
        federation="dry-run", key=SigningKey.generate(), gateway_sealing_key=SealingKey.generate().public
    )
    update = Update(
        counter=1, head_version=NO_HEAD, bucket=samples.bit_length() - 1, accuracy_percent=None, body=body
    )
    return len(uplink.update(update, Base(head_version=NO_HEAD, head_hash=nothing, plan_hash=nothing)))


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
