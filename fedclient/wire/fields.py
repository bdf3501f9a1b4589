"""Checks of single fields: each returns the value with its type, or raises WireError naming the field."""

from __future__ import annotations

import math
from typing import TypeVar

from fedclient import limits
from fedclient.errors import WireError
from fedclient.values import HeadVersion

HASH_BYTES = 32
DELTA_HASH_BYTES = 8  # to find it by; what it leads to has a whole hash
KEY_BYTES = 32
KID_BYTES = 8
TOKEN_BYTES = 16

_T = TypeVar("_T")


def typed(value: object, kind: type[_T], name: str) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WireError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
    return value


def integer(value: object, name: str, low: int, high: int) -> int:
    found = typed(value, int, name)
    if not low <= found <= high:
        raise WireError(f"{name} is {found}, outside {low} to {high}")
    return found


def number(value: object, name: str, low: float, high: float) -> float:
    found = typed(value, float, name)  # never an int: what is read must be written again as the same bytes
    if not math.isfinite(found) or not low <= found <= high:
        raise WireError(f"{name} is {found}, outside {low} to {high}")
    return found


def octets(value: object, name: str, size: int) -> bytes:
    data = typed(value, bytes, name)
    if len(data) != size:
        raise WireError(f"{name} has {len(data)} bytes, expected {size}")
    return data


def text(value: object, name: str, max_bytes: int) -> str:
    found = typed(value, str, name)
    if not found or len(found.encode()) > max_bytes:
        raise WireError(f"{name} is empty or longer than {max_bytes} bytes")
    return found


def array(value: object, name: str, size: int | None = None, max_size: int = 0) -> list[object]:
    items = typed(value, list, name)
    if size is not None and len(items) != size:
        raise WireError(f"{name} has {len(items)} elements, expected {size}")
    if size is None and len(items) > max_size:
        raise WireError(f"{name} has {len(items)} elements, at most {max_size} are allowed")
    return items


def head_version(generation: object, version: object) -> HeadVersion:
    return HeadVersion(
        integer(generation, "generation", 0, limits.COUNTER_MAX),
        integer(version, "version", 0, limits.COUNTER_MAX),
    )
