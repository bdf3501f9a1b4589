"""`fedclient model inspect`: what is in a .tflite file, without running it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedclient.cli import model_file
from fedclient.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedclient.model.inspection import Inspection

_NAME_CHARS: Final = 64  # converters make names of a hundred: --tap takes the index, too


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to `fedclient model`."""
    parser = verbs.add_parser("inspect", help="list signatures, tensors, tap, labels and preprocessing")
    parser.add_argument("file", type=Path, metavar="FILE", help="any .tflite file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=inspect)


def inspect(args: argparse.Namespace) -> int:
    """Print what is in a file."""
    from fedclient.model.inspection import inspect as inspected  # noqa: PLC0415 - only what a verb needs

    try:
        found = inspected(model_file.read_model(args.file))
    except ModelError as error:
        raise ModelError(f"{args.file}: {error}") from None
    print(json.dumps(asdict(found)) if args.json else "\n".join(_lines(found)))
    return 0


def _lines(found: Inspection) -> Iterator[str]:
    yield f"file           {found.bytes:,} bytes, SHA-256 {found.sha256}"
    how = ": fedclient model attach-head makes it so" if found.tap else ""
    yield f"trainable      {'yes' if found.trainable else f'no{how}'}"
    if found.head:
        yield f"head           {_head(found.head)}"
    if found.parent:
        yield f"made of        the model with SHA-256 {found.parent}"
    if found.tap:
        tap = found.tap
        yield f"tap            {tap.features} features: tensor {tap.index}, {_shown(tap.name)}"
        yield f"               {tap.why}"
    if found.why_not:
        yield f"tap            none: {found.why_not}"
    yield f"labels         {', '.join(found.labels) or 'none'}"
    if found.preprocessing:
        scale, offset = (
            _numbers(values) for values in (found.preprocessing.scale, found.preprocessing.offset)
        )
        yield f"preprocessing  raw value * {scale} + {offset}"
    for name, one in found.signatures.items():
        inputs, outputs = (
            ", ".join(f"{_shown(port)} {at.dtype}{list(at.shape)}" for port, at in ports.items()) or "nothing"
            for ports in (one.inputs, one.outputs)
        )
        yield f"signature      {_shown(name)}: {inputs} -> {outputs}"
    for part in found.tensors:
        if found.trainable and part.index is not None:
            continue  # no tap for --tap: a head is attached to the model that it was made of
        what = "weight" if part.index is None else _shown(part.made_by) or "input"
        index = "" if part.index is None else f" {part.index}"
        yield f"tensor{index:<8} {what} {part.dtype}{list(part.shape)} {_shown(part.name)}"


def _head(head: Mapping[str, object]) -> str:
    hidden = f"{_shown(str(head['hidden']))} hidden units" if head["hidden"] else "no hidden layer"
    layers = [name for name in ("normalize", "personal") if head[name]]
    return ", ".join([hidden, f"optimizer {_shown(str(head['optimizer']))}", *layers])


def _shown(name: str) -> str:
    """Return a stranger's name so that it cannot steer a terminal."""
    short = name if len(name) <= _NAME_CHARS else f"{name[:_NAME_CHARS]}..."
    return short if short.isprintable() else repr(short)


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:.6g}" if len(values) == 1 else str([round(value, 6) for value in values])
