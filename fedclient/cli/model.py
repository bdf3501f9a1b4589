"""`fedclient model`: write a trainable head, and prove that a model trains here."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from fedclient import limits
from fedclient.errors import UsageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    verbs = subparsers.add_parser("model", help="write and check trainable models").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    new = verbs.add_parser("new-head", help="write a trainable head, a softmax layer, as a .tflite file")
    new.add_argument("--features", type=int, required=True, metavar="D", help="numbers in one sample")
    new.add_argument("--classes", type=int, required=True, metavar="N", help="labels to tell apart")
    new.add_argument("--hidden", type=int, metavar="H", help="units of a hidden layer (default: none)")
    new.add_argument("--seed", type=int, default=0, metavar="S", help="of a hidden head's first weights")
    new.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.tflite", help="a new file")
    new.add_argument("--force", action="store_true", help="overwrite OUT.tflite")
    new.set_defaults(run=new_head)
    check_ = verbs.add_parser("check", help="train one step here and compare it with the reference")
    check_.add_argument("file", type=Path, metavar="FILE", help="any .tflite file")
    check_.add_argument("--json", action="store_true", help="print one JSON object")
    check_.set_defaults(run=check)


def new_head(args: argparse.Namespace) -> int:
    """Write a head to a new file."""
    from fedclient.model.head import write_head  # noqa: PLC0415 - NumPy is for this command only

    model = write_head(args.features, args.classes, args.hidden, args.seed)
    _write(args.output, model, overwrite=args.force)
    print(f"wrote {args.output}, {len(model)} bytes: fedclient model check {args.output}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Report on a model; 0 only when it is proved to train here."""
    from fedclient.model.check import check as check_model  # noqa: PLC0415 - ditto

    report = check_model(_read(args.file))
    if args.json:
        print(json.dumps(asdict(report)))
        return 0 if report.ok else 1
    print(f"{'ok' if report.ok else 'NOT OK'}: {report.reason}")
    print(f"signatures: {', '.join(report.signatures) or 'none'}")
    for tensor in report.tensors:
        print(f"tensor: {tensor.name} {list(tensor.shape)}")
    return 0 if report.ok else 1


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limits.MAX_MODEL_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a new file, or beside the old one and then into its place."""
    target = path.with_name(f".{path.name}.{os.getpid()}") if overwrite else path
    try:
        with target.open("xb") as file:
            file.write(data)
        target.replace(path)
    except FileExistsError:
        raise UsageError(f"{target} exists: choose another name, or --force to overwrite it") from None
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
