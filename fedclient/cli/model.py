"""`fedclient model`: write a trainable head, attach one to a deployed model, prove that it trains here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fedclient.cli import model_attach, model_file, model_inspect, model_keras
from fedclient.errors import ModelError

FEATURE_ERRORS: Final = ("max_feature_error", "max_delegate_error", "delegate_drift")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    verbs = subparsers.add_parser("model", help="write and check trainable models").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    model_attach.add_verb(verbs)
    new = verbs.add_parser(
        "new-head", help="write a trainable head alone, for raw samples, as a .tflite file"
    )
    new.add_argument("--features", type=int, required=True, metavar="D", help="numbers in one sample")
    model_attach.add_head_arguments(new)
    model_attach.add_output_arguments(new)
    new.set_defaults(run=new_head)
    check_ = verbs.add_parser("check", help="train here and compare with the reference")
    check_.add_argument("file", type=Path, metavar="FILE", help="any .tflite file")
    check_.add_argument(
        "--parent",
        type=Path,
        metavar="BACKBONE.tflite",
        help="what attach-head made it of: compare features too",
    )
    check_.add_argument("--data", metavar="D", help="real samples for that, as attach-head takes them")
    check_.add_argument("--json", action="store_true", help="print one JSON object")
    check_.set_defaults(run=check)
    model_inspect.add_verb(verbs)
    model_keras.add_verb(verbs)


def new_head(args: argparse.Namespace) -> int:
    """Write a head to a new file."""
    from fedclient.model.head import write_head  # noqa: PLC0415 - NumPy is for this command only

    options = model_attach.options_of(args)
    model = write_head(args.features, args.classes, args.hidden, args.seed, options)
    model_file.write_new(args.output, model, overwrite=args.force)
    print(f"wrote {args.output}, {len(model)} bytes: fedclient model check {args.output}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Report on a model; 0 only when it is proved to train here."""
    data = model_file.read_model(args.file)
    told = _proved(args, data)
    if args.json:
        print(json.dumps(told))
        return 0 if told["ok"] else 1
    print(f"{'ok' if told['ok'] else 'NOT OK'}: {told['reason']}")
    print(f"signatures: {', '.join(told['signatures']) or 'none'}")
    for tensor in told["tensors"]:
        print(f"tensor: {tensor['name']} {list(tensor['shape'])}")
    return 0 if told["ok"] else 1


def _proved(args: argparse.Namespace, data: bytes) -> dict[str, Any]:
    """Prove a file that attach-head wrote, or any other."""
    from fedclient.model.check import Report  # noqa: PLC0415 - NumPy is for this command only
    from fedclient.model.check import check as check_model  # noqa: PLC0415 - ditto
    from fedclient.model.origin import read_origin  # noqa: PLC0415 - ditto

    nothing = dict.fromkeys(FEATURE_ERRORS)
    try:
        if args.parent or args.data or read_origin(data):
            return _proved_as_attached(args, data)
    except ModelError as error:
        if data[4:8] == b"TFL3":  # else its kind is not known, which the other check says
            return asdict(Report(ok=False, reason=str(error))) | nothing
    return asdict(check_model(data)) | nothing


def _proved_as_attached(args: argparse.Namespace, data: bytes) -> dict[str, Any]:
    from fedclient.model.attach_check import check_attached  # noqa: PLC0415 - ditto
    from fedclient.model.inspection import inspect  # noqa: PLC0415 - ditto

    parent = model_file.read_model(args.parent) if args.parent else b""
    samples = model_file.read_samples(args.data)
    held = inspect(data)
    found = asdict(check_attached(data, parent, samples))
    weights = [part for part in held.tensors if part.index is None]
    return {
        "ok": found["ok"],
        "reason": found["reason"],
        "signatures": sorted(held.signatures),
        "tensors": [{"name": part.name, "shape": part.shape} for part in weights],
        "max_relative_error": found["max_training_error"],
    } | {name: found[name] for name in FEATURE_ERRORS}
