"""`fedclient model attach-head`: from the model that an app runs today to one that can be trained."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedclient.cli import model_file
from fedclient.errors import ModelError, UsageError

if TYPE_CHECKING:
    from fedclient.model.attach import Attached, NewHead
    from fedclient.model.attach_check import Proved
    from fedclient.model.options import HeadOptions


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to `fedclient model`."""
    parser = verbs.add_parser("attach-head", help="replace the head of a deployed model by one that trains")
    parser.add_argument("backbone", type=Path, metavar="BACKBONE.tflite", help="the model as it is deployed")
    parser.add_argument(
        "--tap", metavar="NAME|INDEX", help="the features' tensor (default: it is looked for)"
    )
    parser.add_argument(
        "--labels", metavar="A,B,C|FILE", help="names of the classes (default: the model's, if as many)"
    )
    parser.add_argument(
        "--data", metavar="D", help="real samples for the proof: .npz, .csv or package.module:function"
    )
    add_head_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=attach_head)


def add_head_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of a head, and what else it is asked for."""
    parser.add_argument("--classes", type=int, required=True, metavar="N", help="labels to tell apart")
    parser.add_argument("--hidden", type=int, metavar="H", help="units of a hidden layer (default: none)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of a hidden head's first weights")
    add_option_arguments(parser)


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what any head can be asked for, whatever its size."""
    parser.add_argument(
        "--optimizer", choices=("sgd", "momentum", "adam"), default="sgd", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="standardise features; a federation learns how"
    )
    parser.add_argument("--personal", action="store_true", help="add a layer that never leaves its device")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the file goes."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.tflite", help="a new file")
    parser.add_argument("--force", action="store_true", help="overwrite OUT.tflite")


def options_of(args: argparse.Namespace) -> HeadOptions:
    """Return the options of `add_option_arguments`."""
    from fedclient.model.options import HeadOptions, Optimizer  # noqa: PLC0415 - only what a verb needs

    return HeadOptions(optimizer=Optimizer(args.optimizer), normalize=args.normalize, personal=args.personal)


def attach_head(args: argparse.Namespace) -> int:
    """Write a trainable file made of a deployed one, if it is proved."""
    from fedclient.model.attach_check import attach_proved  # noqa: PLC0415 - ditto

    model_file.check_new(args.output, overwrite=args.force)
    parent = model_file.read_model(args.backbone)
    if args.output.exists() and args.output.samefile(args.backbone):
        raise UsageError(f"{args.output} is the backbone itself: choose another name")
    samples = model_file.read_samples(args.data)
    try:
        attached, proved = attach_proved(parent, _head(args), samples)
    except ModelError as error:
        raise ModelError(f"{args.backbone}: {error}") from None
    model_file.write_new(args.output, attached.data, overwrite=args.force)
    told = told_of(len(parent), attached, proved)
    print(json.dumps(told) if args.json else _text(args.output, told, attached, proved))
    return 0


def _head(args: argparse.Namespace) -> NewHead:
    from fedclient.model.attach import NewHead  # noqa: PLC0415 - ditto

    return NewHead(
        classes=args.classes,
        hidden=args.hidden,
        tap=args.tap,
        seed=args.seed,
        options=options_of(args),
        labels=model_file.read_labels(args.labels, args.classes),
    )


def told_of(backbone_bytes: int, attached: Attached, proved: Proved) -> dict[str, Any]:
    """Return what --json prints."""
    tap = asdict(attached.tap)
    return {
        "tap": {name: tap[name] for name in ("name", "index", "shape", "dtype", "why")},
        "features": attached.tap.features,
        "classes": attached.classes,
        "backbone_bytes": backbone_bytes,
        "file_bytes": len(attached.data),
        "max_feature_error": proved.max_feature_error,
        "max_training_error": proved.max_training_error,
    }


def _text(output: Path, told: dict[str, Any], attached: Attached, proved: Proved) -> str:
    tap = attached.tap
    labels = ", ".join(attached.labels[:8]) + ", ..." * (len(attached.labels) > 8)
    lines = [
        f"tap       {tap.name!r} (tensor {tap.index}), {tap.dtype} {list(tap.shape)}",
        f"          {tap.why}",
        f"head      {tap.features} features -> {attached.classes} classes: {labels or 'numbers, no names'}",
        f"proved    {proved.reason}",
        f"wrote     {output}, {told['file_bytes']:,} bytes; the backbone has {told['backbone_bytes']:,}",
    ]
    return "\n".join(lines)
