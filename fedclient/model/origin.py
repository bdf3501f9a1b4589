"""Where a trainable file comes from: the deployed model, its tap, labels and preprocessing.  Pure.

It travels in the file's metadata entry "fedclient", beside what `head.py` notes there; all of it is JSON.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from fedclient import limits
from fedclient.errors import DataError, ModelError
from fedclient.model.head import METADATA_NAME
from fedclient.model.packaged import Preprocessing, checked_labels
from fedclient.model.reader import read_metadata
from fedclient.model.tap import Tap


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """The parent's input; `range`: of its values, if the parent says; the others, if it is quantised."""

    index: int
    range: tuple[float, ...] | None = None  # least and greatest
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """The deployed model: the whole file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """`tap_scale` and `tap_zero_point`: () where the tap is not quantised."""

    tap: Tap
    tap_scale: tuple[float, ...]
    tap_zero_point: tuple[int, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    input: Input
    parent: Parent

    def as_json(self) -> dict[str, Any]:
        """Return what stands in the metadata."""
        return asdict(self)


def read_origin(model: bytes) -> Origin | None:
    """Return what a trainable file says of its origin; None for a head alone, and for a stranger's file.

    Raises ModelError when the file is damaged.
    """
    told = read_metadata(model, METADATA_NAME)
    if told is None:
        return None
    try:
        found: dict[str, Any] = json.loads(told)
        return _origin(found) if found.get("tap") is not None else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, DataError):
        raise ModelError(f"the metadata {METADATA_NAME!r} in the file is damaged") from None


def _origin(found: dict[str, Any]) -> Origin:
    preprocessing = found["preprocessing"]
    scale, zero_point = _numbers(found["tap_scale"]), _integers(found["tap_zero_point"])
    if len(scale) != len(zero_point) or len(scale) > 1:
        raise ValueError
    return Origin(
        tap=_tap(**found["tap"]),
        tap_scale=scale,
        tap_zero_point=zero_point,
        labels=checked_labels(found["labels"], "labels"),
        preprocessing=None if preprocessing is None else _preprocessing(**preprocessing),
        input=_input(**found["input"]),
        parent=_parent(**found["parent"]),
    )


def _tap(*, averaged: bool, shape: list[int], **rest: Any) -> Tap:
    tap = Tap(averaged=averaged, shape=_integers(shape), **rest)
    _integers([tap.index, tap.features])
    if (
        tap.features < 1
        or not isinstance(averaged, bool)
        or not all(isinstance(text, str) for text in (tap.name, tap.dtype, tap.why))
    ):
        raise ValueError
    return tap


def _preprocessing(*, scale: list[float], offset: list[float]) -> Preprocessing:
    return Preprocessing(scale=_numbers(scale), offset=_numbers(offset))


def _input(*, index: int, range: Any, scale: list[float], zero_point: list[int]) -> Input:  # noqa: A002 - the key
    low_high = None if range is None else _numbers(range)
    if low_high is not None and len(low_high) != len(("low", "high")):
        raise ValueError
    (index,) = _integers([index])
    return Input(index=index, range=low_high, scale=_numbers(scale), zero_point=_integers(zero_point))


def _parent(*, sha256: str, bytes: int) -> Parent:  # noqa: A002 - ditto
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError
    return Parent(sha256=sha256, bytes=_integers([bytes])[0])


def _numbers(values: list[float]) -> tuple[float, ...]:
    if len(values) > limits.MAX_LABELS or not all(math.isfinite(value) for value in values):
        raise ValueError
    return tuple(map(float, values))


def _integers(values: list[int]) -> tuple[int, ...]:
    if len(values) > limits.MAX_LABELS or not all(type(value) is int for value in values):
        raise ValueError
    return tuple(values)
