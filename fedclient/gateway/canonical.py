"""The head that every device has, bit for bit, and what rounding has kept from it.  Pure, NumPy.

Each version is the one before plus integers times a power of two, one for each tensor: few bytes lead to
it (`codec/grid.py`), and no machine rounds.  What that leaves of the wanted head is the remainder, and is
wanted again of the next version: late, and not lost (error feedback in both directions: Tang et al. 2019).

    head + remainder + change  =  next head + next remainder

Steps and elements are chosen for the least remainder that the budget has room for: with each of a few
steps the elements that are to change most, as many as fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.errors import CodecError
from fedclient.values import TensorSpec

# Bits of a step below the magnitude (root of the mean square of what is not 0) in its tensor:
_PUBLISHED: Final = 4  # of a head as it is published
_FINEST: Final = 6  # of a head in training: a finer one costs who joins, and is no better
_CHANGE: Final = 3  # of the changes of one version
_SMALL: Final = 10  # a tensor of 2^n values has 10 - n bits more: of few values each counts
_PARTS: Final = 3  # steps too fine for all elements that are tried with a part of them
_CLOSE: Final = 64  # a part's size is found to one of so many
_NOISE: Final = 2.0**-20  # of the largest: smaller ones are what rounding has left of 0
_LEAST_EXPONENT: Final = -126  # a float32 has normal numbers from here on

Vector = NDArray[np.float64]
Exponents = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Canonical:
    """A head as it is published, and what is still wanted of it."""

    head: NDArray[np.float32]  # [P]
    full: bytes  # what a device without any head decodes to it
    remainder: Vector  # [P]


def begin(head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> Canonical:
    """Put a head on a grid; what is rounded away is not wanted: this is the head from now on."""
    statistics = _elements(tensors, [tensor.is_statistic for tensor in tensors])
    values = head.astype(np.float64)
    rounded = _rounded(values, _finest(values, tensors, _PUBLISHED))
    found = _plain(np.where(statistics, values, rounded))
    return _canonical(found, found.astype(np.float64), tensors)


def with_statistics(
    canonical: Canonical, head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]
) -> Canonical:
    """Return the canonical head with the feature statistics of `head`, which differs in nothing else."""
    found = _plain(head)
    return _canonical(found, found + canonical.remainder, tensors)


def advance(
    canonical: Canonical, change: Vector, tensors: tuple[TensorSpec, ...], budget_bytes: int
) -> tuple[Canonical, bytes | None]:
    """Return the next version and the delta of at most `budget_bytes` that leads there.

    None where the full head is no longer, and where values have outgrown their grid and get a new one.
    """
    moved = _elements(tensors, [tensor.is_in_deltas for tensor in tensors])
    wanted = np.where(moved, canonical.remainder + change, 0.0)
    total = canonical.head + wanted
    finest = _finest(total, tensors, _FINEST)
    try:
        best = _best(canonical.head, wanted, finest, tensors, budget_bytes)
        following = _canonical(best.head, total, tensors)
    except CodecError:
        renewed = np.where(moved, _rounded(total, finest), canonical.head)
        return _canonical(_plain(renewed), total, tensors), None
    return following, best.delta if len(best.delta) < len(following.full) else None


def _canonical(head: NDArray[np.float32], wanted: Vector, tensors: tuple[TensorSpec, ...]) -> Canonical:
    """Raise CodecError for a head on no grid."""
    return Canonical(head=head, full=codec.head_blob(head, tensors), remainder=wanted - head)


def _plain(head: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Take the sign off zeros, and what is subnormal away: some boards have neither."""
    return np.where(np.abs(head) < np.ldexp(1.0, _LEAST_EXPONENT), 0.0, head).astype(np.float32)


# --- the delta --------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Candidate:
    head: NDArray[np.float32]
    delta: bytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Step:
    """A choice of steps: what each element's change is rounded to, and which elements change at all."""

    before: NDArray[np.float32]
    rounded: Vector  # [P]
    changed: NDArray[np.intp]  # [n], in the order of how much they change
    tensors: tuple[TensorSpec, ...]

    def part(self, count: int) -> _Candidate:
        """Change the `count` elements that change most; raises CodecError where no delta does that."""
        chosen = self.changed[:count]
        total = self.before.astype(np.float64)
        total[chosen] += self.rounded[chosen]
        head = total.astype(np.float32) + np.float32(0)  # no -0
        return _Candidate(head=head, delta=codec.delta_blob(self.before, head, self.tensors))

    def largest(self, budget_bytes: int) -> _Candidate:
        """Change as many elements as there is room for."""
        best, least, most = self.part(0), 0, min(self.changed.size, 8 * budget_bytes) + 1
        while most - least > 1 + least // _CLOSE:
            count = (least + most) // 2
            tried = self.part(count)
            if len(tried.delta) <= budget_bytes:
                best, least = tried, count
            else:
                most = count
        return best


def _best(
    before: NDArray[np.float32],
    wanted: Vector,
    finest: Exponents,
    tensors: tuple[TensorSpec, ...],
    budget_bytes: int,
) -> _Candidate:
    """Find the change that leaves the least, relative to what each tensor changes."""
    # Small changes of one tensor do not wait for large ones of another; and large ones are never coarser.
    scale = np.minimum(_magnitudes(wanted, tensors), _exponent(_magnitude(wanted))).astype(np.int32)
    relative = np.ldexp(wanted, -scale)
    order = np.argsort(-np.abs(relative), kind="stable")
    tried: list[_Step] = []
    for coarser in range(-_CHANGE, 64):
        rounded = _rounded(wanted, np.maximum(scale + coarser, finest))
        step = _Step(before=before, rounded=rounded, changed=order[rounded[order] != 0], tensors=tensors)
        whole = step.part(step.changed.size) if step.changed.size <= 8 * budget_bytes else None
        if whole is not None and len(whole.delta) <= budget_bytes:
            parts = [one.largest(budget_bytes) for one in tried[-_PARTS:]]
            return min(
                [whole, *parts], key=lambda one: _left(relative, scale, one.head - before.astype(np.float64))
            )
        tried.append(step)
    raise CodecError("no delta is as small as that")


def _left(relative: Vector, scale: Exponents, change: Vector) -> float:
    """Return the squared norm of what `change` leaves."""
    return float(np.square(relative - np.ldexp(change, -scale)).sum())


# --- steps ------------------------------------------------------------------------------------------
def _elements(tensors: tuple[TensorSpec, ...], marks: list[bool]) -> NDArray[np.bool_]:
    """Spread what is said of tensors over their elements [P]."""
    return np.repeat(marks, [tensor.size for tensor in tensors])


def _rounded(values: Vector, exponents: Exponents) -> Vector:
    """Round `values` [P] to multiples of 2^exponents [P]."""
    return np.ldexp(np.rint(np.ldexp(values, -exponents)), exponents)


def _finest(values: Vector, tensors: tuple[TensorSpec, ...], bits: int) -> Exponents:
    """Return the exponent [P] of the step with which a tensor has its values in `bits`, or a few more.

    The largest of n values is at most sqrt(n) times their magnitude, so all integers are below 2^19.
    """
    return _spread(
        (
            max(
                _exponent(_magnitude(own)) - bits - max(0, _SMALL - own.size.bit_length()),
                _LEAST_EXPONENT,
            )
            for own in _by_tensor(values, tensors)
        ),
        tensors,
    )


def _magnitudes(values: Vector, tensors: tuple[TensorSpec, ...]) -> Exponents:
    """Return the exponent [P] of the power of two below the magnitude of each tensor."""
    return _spread((_exponent(_magnitude(own)) for own in _by_tensor(values, tensors)), tensors)


def _by_tensor(values: Vector, tensors: tuple[TensorSpec, ...]) -> Iterator[Vector]:
    begin_ = 0
    for tensor in tensors:
        yield values[begin_ : begin_ + tensor.size]
        begin_ += tensor.size


def _spread(exponents: Iterator[int], tensors: tuple[TensorSpec, ...]) -> Exponents:
    return np.repeat(np.array(list(exponents), dtype=np.int32), [tensor.size for tensor in tensors])


def _magnitude(values: Vector) -> float:
    """Return the root of the mean square of what is neither 0 nor what float64 made of a 0 by rounding."""
    sizes = np.abs(values)
    used = values[sizes > sizes.max() * _NOISE]
    return math.sqrt(float(np.square(used).mean())) if used.size else 0.0


def _exponent(value: float) -> int:
    """Return the exponent of the power of two that is not above `value`; some number for 0."""
    return math.frexp(value)[1] - 1
