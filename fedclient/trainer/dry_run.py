"""Train here, on this data, send nothing; every stage is the real one (DESIGN 10, `dry-run`).

Writes JSON lines to standard output: {"epoch": {...}} after each epoch, then {"result": {...}}.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedclient import codec, runtime
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device.jobs import TrainerExit
from fedclient.errors import DataError, ModelError
from fedclient.limits import UPDATE_OVERHEAD_BYTES
from fedclient.runtime import TrainableModel
from fedclient.samples.array import as_array
from fedclient.samples.importer import Dataset, load
from fedclient.samples.store import Sample
from fedclient.trainer.pack import Packed, pack
from fedclient.trainer.spent import Spent
from fedclient.training.dataset import Features, Prepared, class_number, prepare
from fedclient.training.loop import EpochReport, Examples, HeadTraining
from fedclient.training.schedule import hyper_parameters
from fedclient.training.statistics import has_statistics, with_statistics
from fedclient.uplink import DeviceUplink
from fedclient.values import (
    NO_HEAD,
    Base,
    Codec,
    CodecMode,
    Plan,
    Schedule,
    TensorSpec,
    Update,
    fixed_body_bytes,
)


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
    max_bytes: int | None = None  # of the update as a message; None: no bound
    min_per_class: int
    threads: int
    nice: int
    idle: bool
    memory_mib: int | None
    feature_batch: int | None = None  # samples that the backbone takes at once, at most
    momentum: float | None = None  # None: the plan's default where the head has momentum
    l2: float = 0.0
    mu: float = 0.0
    schedule: str = "constant"
    balanced: bool = False
    budget_s: float = 0.0


def run(arguments: DryRunArguments) -> int:
    """Carry out a dry run; raises FedClientError."""
    spent, plan = Spent(), _plan(arguments)
    model = runtime.load(Path(arguments.model), threads=arguments.threads)
    named = () if arguments.momentum is None else ("momentum",)
    hyper_parameters(plan, model.hyper_parameters, named)  # a refusal comes before minutes of backbone
    _check_room(arguments, plan, model.tensors)
    prepared = _prepared(arguments, model, spent)
    training, holdout = _split(prepared.examples, arguments)
    base = model.get_weights()
    if has_statistics(model.tensors):  # a federation of one device: its statistics are all there are
        base = with_statistics(base, model.tensors, training.x)
        model.set_weights(base)
    work = HeadTraining(model=model, examples=training, plan=plan, seed=arguments.seed, holdout=holdout)
    spent.measure()

    def on_epoch(report: EpochReport) -> None:
        spent.measure()
        _say({"epoch": report.as_dict()})

    work.run(lambda: False, on_epoch)
    parcel = _Parcel(len(training))
    room = parcel.room(arguments.max_bytes)
    packed = pack(work, base, np.zeros_like(base), arguments.min_per_class, room)
    spent.measure()
    spent.add_head(work)
    result = {
        "samples": len(prepared.examples),
        "trained_on": len(training),
        "distinct": prepared.distinct,
        "standardised": has_statistics(model.tensors),
        **spent.as_dict(),
        "bytes": {**packed.sizes, **parcel.sizes(packed.body)},
        "rates": parcel.rates(packed, model.tensors),
        "suppressed_classes": list(packed.suppressed_classes),
    }
    _say({"result": result})
    return TrainerExit.DONE


def _check_room(arguments: DryRunArguments, plan: Plan, tensors: tuple[TensorSpec, ...]) -> None:
    """Refuse, before anything is trained, bytes that no update of this kind fits into; raises ModelError."""
    body = fixed_body_bytes(plan, tensors)
    takes = 0 if body is None else body + UPDATE_OVERHEAD_BYTES
    if takes > (arguments.max_bytes or takes):
        raise ModelError(
            f"--max-bytes is {arguments.max_bytes}, but with --codec {arguments.codec} an update of this "
            f"head takes up to {takes} bytes: allow as many, or let --codec fitted choose what fits"
        )


def _plan(arguments: DryRunArguments) -> Plan:
    return Plan(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        codec=Codec(mode=CodecMode[arguments.codec.upper()], density=arguments.density),
        max_update_bytes=arguments.max_bytes or 0,
        momentum=Plan().momentum if arguments.momentum is None else arguments.momentum,
        l2=arguments.l2,
        mu=arguments.mu,
        schedule=Schedule[arguments.schedule.upper()],
        balanced=arguments.balanced,
        budget_s=arguments.budget_s,
    )


def _prepared(arguments: DryRunArguments, model: TrainableModel, spent: Spent) -> Prepared:
    """Prepare the data as a job does its samples; here a row that does not fit is an error."""
    with redirect_stdout(sys.stderr):  # what the user's own function prints is no line of ours
        dataset = load(arguments.data)
    names = dataset.label_names
    classes = [class_number(label, names, model.classes) for label in dataset.y]
    bad = next((row for row, number in enumerate(classes) if number is None), None)
    if bad is not None:
        raise DataError(
            f"row {bad}: label {dataset.y[bad]!r} is not one of the model's classes, 0 to {model.classes - 1}"
        )
    shape = dataset.x.shape[1:]
    if shape != model.sample_shape if model.has_features else int(np.prod(shape)) != model.features:
        raise DataError(
            f"a sample has shape {list(shape)}, the model takes {list(model.sample_shape)}: "
            "is this the data the model was made for?"
        )
    kept = as_array(dataset.x[0], "row 0").dtype
    if model.has_features and kept != model.sample_dtype.name:  # a job skips such samples
        raise DataError(
            f"samples are kept as {kept}, the model takes {model.sample_dtype}: "
            "give what the app gives the model"
        )
    rows = Features(model, at_once=arguments.feature_batch)  # no cache: nothing is left behind
    prepared = prepare(_samples(dataset), model, names, rows)
    spent.add_backbone(rows)
    return prepared


def _samples(dataset: Dataset) -> Iterator[Sample]:
    """Yield the rows as if an app had recorded them."""
    for number, (row, label) in enumerate(zip(dataset.x, dataset.y, strict=True)):
        yield Sample(id=number, label=label, array=as_array(row, f"row {number}"))


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


class _Parcel:
    """The real envelope, signed and sealed with keys that are thrown away."""

    def __init__(self, samples: int) -> None:
        self._uplink = DeviceUplink(
            federation="dry-run",
            key=SigningKey.generate(),
            gateway_sealing_key=SealingKey.generate().public,
        )
        self._update = Update(
            counter=1, head_version=NO_HEAD, bucket=samples.bit_length() - 1, accuracy_percent=None, body=b""
        )

    def room(self, max_bytes: int | None) -> int | None:
        """Return what a message of so many bytes leaves for the body."""
        return None if max_bytes is None else max_bytes - self._uplink.overhead_bytes(self._update, max_bytes)

    def sizes(self, body: bytes) -> dict[str, int]:
        """Return the bytes that are published, and those of the whole MQTT message."""
        nothing = hashlib.sha256(b"").digest()
        base = Base(head_version=NO_HEAD, head_hash=nothing, plan_hash=nothing)
        sealed = len(self._uplink.update(replace(self._update, body=body), base))
        return {"sealed": sealed, "message": self._message(len(body))}

    def rates(self, packed: Packed, tensors: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        """Return what other choices would come to for the same delta, and the one that was made."""
        picked = codec.rate_of(packed.delta, packed.encoded)
        same = (picked.body_bytes, picked.nmse)
        others = codec.rates(packed.delta, tensors)
        listed = [one for one in others if (one.body_bytes, one.nmse) == same]
        if listed:  # what was asked for says more than what came of it in a small head
            picked = listed[-1]
        rows = sorted([*others, *([] if listed else [picked])], key=lambda one: one.body_bytes)
        return [
            {
                "density": one.density,
                "bits": one.bits,
                "message_bytes": self._message(one.body_bytes),
                "nmse": one.nmse,
                "picked": one is picked,
            }
            for one in rows
        ]

    def _message(self, body_bytes: int) -> int:
        return body_bytes + self._uplink.overhead_bytes(self._update, body_bytes)


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
