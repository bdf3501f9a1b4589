"""`fedclient model export-keras`: from a Keras model to one that can be trained on devices."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from fedclient.cli import model_attach, model_file
from fedclient.errors import ModelError, UsageError


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to `fedclient model`."""
    parser = verbs.add_parser(
        "export-keras", help="make the top layers of a Keras model trainable (needs TensorFlow)"
    )
    parser.add_argument(
        "model", metavar="MODEL", help="FILE.keras, FILE.h5 or package.module:function that returns one"
    )
    parser.add_argument(
        "--trainable-top",
        nargs="+",
        default=["1"],
        metavar="K|NAME",
        help="the head: how many Dense layers, 1 or 2, or their names (default: 1)",
    )
    parser.add_argument(
        "--labels", metavar="A,B,C|FILE", help="names of the classes (default: numbers, no names)"
    )
    parser.add_argument(
        "--data", metavar="D", help="real samples to measure on: .npz, .csv or package.module:function"
    )
    parser.add_argument("--int8", action="store_true", help="quantise the backbone; needs --data")
    model_attach.add_option_arguments(parser)
    model_attach.add_output_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=export_keras)


def export_keras(args: argparse.Namespace) -> int:
    """Write a trainable file made of a Keras model, if it is proved."""
    from fedclient.model import keras  # noqa: PLC0415 - only what a verb needs

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow tells of every processor feature
    model_file.check_new(args.output, overwrite=args.force)
    samples = model_file.read_samples(args.data)
    model = _model(args.model)
    try:
        parts = keras.split(model, _top(args.trainable_top))
        wanted = keras.Wanted(
            options=model_attach.options_of(args),
            labels=model_file.read_labels(args.labels, parts.classes),
            int8=args.int8,
            samples=samples,
        )
        exported = keras.export(parts, wanted)
    except ModelError as error:
        raise ModelError(f"{args.model}: {error}") from None
    model_file.write_new(args.output, exported.attached.data, overwrite=args.force)
    told = model_attach.told_of(len(exported.parent), exported.attached, exported.proved) | {
        "layers": list(parts.layers),
        "max_prediction_error": exported.max_prediction_error,
    }
    print(json.dumps(told) if args.json else _text(args, told, exported.proved.reason))
    return 0


def _top(words: list[str]) -> int | list[str]:
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else words


def _model(where: str) -> Any:
    """Return the model in a file, or the one that a function of the caller's makes."""
    from fedclient.model import keras  # noqa: PLC0415 - ditto

    if Path(where).suffix.lower() in {".keras", ".h5"}:
        if not Path(where).is_file():
            raise UsageError(f"cannot read {where}: there is no such file")
        return keras.load(where)
    if not re.fullmatch(r"[\w.]+:\w+", where):
        raise UsageError(
            f"{where}: unknown kind of model; give FILE.keras, FILE.h5 or package.module:function"
        )
    keras.tensorflow()  # without it, the caller's module fails with a longer sentence
    module, _, name = where.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        return getattr(import_module(module), name)()
    except Exception as error:  # noqa: BLE001 - the caller's module may do anything
        raise UsageError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    finally:
        sys.path.pop(0)


def _text(args: argparse.Namespace, told: dict[str, Any], proved: str) -> str:
    error = f"{told['max_prediction_error']:.1e}"
    layers, features, classes = " and ".join(told["layers"]), told["features"], told["classes"]
    lines = [
        f"head      {layers}: {features} features -> {classes} classes, with the weights they have",
        f"proved    {proved}",
        f"predicts  what the Keras model does, within {error} of the largest{' (int8)' * args.int8}",
        f"wrote     {args.output}, {told['file_bytes']:,} bytes; the backbone has {told['backbone_bytes']:,}",
    ]
    return "\n".join(lines)
