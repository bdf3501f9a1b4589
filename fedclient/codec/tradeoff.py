"""What a byte buys: how many elements to send, and how exactly, for the least squared error.  Pure.

An element costs bits for its place and sign whatever its value, and then more for a finer value.  With cells
of one width, or of slowly growing ones, that start somewhat below one width, an entropy coder comes near the
rate-distortion function (quantisers with a dead zone, Sullivan 1996).  So the search is over the width of the
first cell, where it starts, and how fast cells grow; at few bytes signs alone are better.

Bits are predicted: positions by the binomial coefficient, levels by their entropy and the usual cost of a
table.  `ratio` corrects that for heads whose classes differ; the caller encodes once to learn it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import levels

LEVELS: Final = 128
_GROWTHS: Final = (0, 16, 20, 24, 28, 32, 36, 40)  # g of `levels.py`: 0.0005, then 0.008 to 0.5
_FEW_GROWTHS: Final = (0, 28, 36)  # that are looked at first
_STARTS: Final = (0.0, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5)  # where cell 0 starts, in its own width
_USUAL_START: Final = 0.7
_NEAR: Final = (0.4, 0.6, 0.8, 1.0, 1.25, 1.7, 2.5)  # widths to look at around the first guess
_WIDTHS: Final = 24
_FINEST: Final = 2.0**-14  # width of a cell, as a share of the largest: finer, and 128 cells are too few
_CLOSE: Final = 2.0**-20  # float32 tells points apart that are further than this from each other
_SIGN_BITS: Final = 12.0
_BOOK_BITS: Final = 44.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """A quantiser whose points are not in the middle: cell j starts at start + width * (1 + growth ...)."""

    start: float
    width: float  # of cell 0, as `levels.py` writes a gap
    growth: int  # g of `levels.py`


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """So many elements, in these cells; None: as signs."""

    count: int
    cells: Cells | None
    bits: float  # predicted
    places: float  # of these, those that `ratio` is about


class Tail:
    """The largest magnitudes of a head of `size` elements, sorted, with their sums."""

    def __init__(self, magnitudes: NDArray[np.float32], size: int) -> None:
        self.sorted = np.sort(magnitudes).astype(np.float64)  # [N >= 1]
        self.size = size
        zero = np.zeros(1)
        self.sums = np.concatenate((zero, np.cumsum(self.sorted)))
        self.squares = np.concatenate((zero, np.cumsum(np.square(self.sorted))))
        self.largest = float(self.sorted[-1])

    def place_bits(self, count: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits of `count` positions at random."""
        return binomial_bits(count, self.size)


def binomial_bits(count: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return log2 of the binomial coefficient, by Stirling, for 0 < count <= size."""
    rest = size - count
    least = np.maximum(rest, 1)
    bits = count * np.log2(size / count) + rest * np.log2(size / least)
    found: NDArray[np.float64] = np.maximum(0.0, bits - 0.5 * np.log2(2 * np.pi * count * least / size))
    return found


def choose(tail: Tail, limit: float, ratio: float = 1.0) -> Choice:
    """Choose what removes most of the squared error within `limit` bits, infinity: without a bound."""
    signs, gain = _signs(tail, limit, ratio)
    cells = _cells(tail, limit, ratio)
    if cells is None or (signs is not None and gain >= cells[1]):
        return signs or Choice(count=1, cells=None, bits=_SIGN_BITS, places=0.0)
    return cells[0]


def _signs(tail: Tail, limit: float, ratio: float) -> tuple[Choice | None, float]:
    """Send as many as fit, at their mean; fewer, where the mean of all would say little of each."""
    number = tail.sorted.size
    counts = np.unique(np.geomspace(1, number, 400).astype(np.int64))
    places = tail.place_bits(counts.astype(np.float64)) * ratio
    bits = places + counts + _SIGN_BITS
    means = (tail.sums[-1] - tail.sums[number - counts]) / counts
    gains = np.square(means) * counts
    gains[(bits > limit) | (means < levels.TINY)] = -1.0
    best = int(gains.argmax())
    if gains[best] < 0:
        return None, 0.0
    count = int(counts[best])
    if best + 1 < counts.size and bits[best + 1] > limit:  # the bound is between two counts
        slope = (counts[best + 1] - count) / (bits[best + 1] - bits[best])
        count += int((limit - bits[best]) * slope)
    found = Choice(count=count, cells=None, bits=float(bits[best]), places=float(places[best]))
    return found, float(gains[best])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tried:
    """What each of some quantisers would come to, [N]."""

    width: NDArray[np.float64]
    count: NDArray[np.int64]
    bits: NDArray[np.float64]
    places: NDArray[np.float64]
    gain: NDArray[np.float64]  # squared error that it takes away


def _cells(tail: Tail, limit: float, ratio: float) -> tuple[Choice, float] | None:
    """Search for growth and width together, then for the start, then for all of them nearby."""
    low, high = max(tail.largest * _FINEST, levels.TINY), max(tail.largest, levels.TINY)
    widths, start = np.geomspace(low, high, _WIDTHS), _USUAL_START
    for growths in (_FEW_GROWTHS, _GROWTHS):
        growth = max(growths, key=lambda one: _best_gain(_try(tail, widths, start, one, ratio), limit))
        width = _crossing(_try(tail, widths, start, growth, ratio), limit)
        widths = np.clip(width * np.array(_NEAR), low, high)
        start = max(_STARTS, key=lambda one: _best_gain(_try(tail, widths, one, growth, ratio), limit))
    width = _crossing(_try(tail, widths, start, growth, ratio), limit)
    last = _try(tail, np.clip(width * np.linspace(0.85, 1.2, 16), low, None), start, growth, ratio)
    at = _fitting(last, limit)
    if at is None:
        return None
    cells = Cells(start=start * float(last.width[at]), width=float(last.width[at]), growth=growth)
    found = Choice(
        count=int(last.count[at]), cells=cells, bits=float(last.bits[at]), places=float(last.places[at])
    )
    return found, float(last.gain[at])


def _crossing(tried: _Tried, limit: float) -> float:
    """Return the width to take: where bits reach the limit, or a coarser one where that is no loss."""
    order = np.argsort(tried.bits, kind="stable")
    at = _fitting(tried, limit)
    if at is not None and tried.gain[at] >= np.interp(limit, tried.bits[order], tried.gain[order]):
        return float(tried.width[at])
    return float(np.exp(np.interp(limit, tried.bits[order], np.log(tried.width[order]))))


def _best_gain(tried: _Tried, limit: float) -> float:
    """Return what these quantisers take away at the limit, in between those that were tried."""
    order = np.argsort(tried.bits, kind="stable")
    gain = float(np.interp(limit, tried.bits[order], tried.gain[order]))
    at = _fitting(tried, limit)
    if at is None:
        return gain * min(1.0, limit / float(tried.bits[order[0]]))  # less, the further they are from it
    return max(gain, float(tried.gain[at]))


def _fitting(tried: _Tried, limit: float) -> int | None:
    """Return the best of those that fit; finer is not better where 128 cells reach less far."""
    fits = (tried.bits <= limit).nonzero()[0]
    return int(fits[tried.gain[fits].argmax()]) if fits.size else None


def _try(tail: Tail, widths: NDArray[np.float64], start: float, growth: int, ratio: float) -> _Tried:
    """Work out what cells of each of `widths` come to, from the sums alone."""
    widths = levels.cut_gaps(widths)  # to what a body can say
    steps = levels.steps(growth, LEVELS)  # where cells start, in widths
    used = int(steps.searchsorted(tail.largest / float(widths.min()))) + 1
    steps = steps[: min(used, LEVELS)]
    edges = widths[:, None] * (start + steps)
    cuts = np.empty((widths.size, steps.size + 1), dtype=np.int64)
    cuts[:, :-1] = tail.sorted.searchsorted(edges.ravel()).reshape(edges.shape)
    cuts[:, -1] = tail.sorted.size
    counts = np.diff(cuts, axis=1).astype(np.float64)
    sums = np.diff(tail.sums[cuts], axis=1)
    count = counts.sum(axis=1)
    first = _first(widths, counts, sums, steps)
    points = first[:, None] + widths[:, None] * steps
    gain = (points * (2 * sums - points * counts)).sum(axis=1)
    some = np.maximum(count, 1)
    entropy = some * np.log2(some) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=1)
    places = tail.place_bits(some) * ratio
    bits = places + count + entropy + _BOOK_BITS + _table_bits(counts)
    return _Tried(width=widths, count=count.astype(np.int64), bits=bits, places=places, gain=gain)


def _first(
    widths: NDArray[np.float64],
    counts: NDArray[np.float64],
    sums: NDArray[np.float64],
    steps: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the first point [N] of least squared error, where each next is a cell's width further on.

    `widths` [N] are those of cell 0, `counts` and `sums` [N, C] what is in each, `steps` [C] where it starts.
    """
    total: NDArray[np.float64] = sums.sum(axis=1) - widths * (counts * steps).sum(axis=1)
    first: NDArray[np.float64] = np.maximum(0.0, total / np.maximum(counts.sum(axis=1), 1))
    return first


def _table_bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of the table of codes, and what whole bits cost beyond the entropy; about."""
    used = (counts > 0).sum(axis=1)
    found: NDArray[np.float64] = 8.0 + 5.0 * np.log2(used + 1.0) + 0.015 * counts.sum(axis=1)
    return found


def quantise(magnitudes: NDArray[np.float32], cells: Cells) -> tuple[NDArray[np.int64], levels.Codebook]:
    """Quantise `magnitudes` [n >= 1], those below cell 0 into it: the level of each, and the codebook.

    No point is beyond the largest magnitude: what is sent is never longer than what there was.
    """
    steps = levels.steps(cells.growth, LEVELS)
    largest, least = float(magnitudes.max()), float(magnitudes.min())
    mean = float(magnitudes.mean(dtype=np.float64))
    edges = cells.start + cells.width * steps[1:]
    found = edges.searchsorted(magnitudes, side="right").astype(np.int64, copy=False)
    counts = np.bincount(found)
    first = mean - cells.width * float((counts * steps[: counts.size]).sum()) / found.size
    first = levels.cut_first(max(first, least))
    top = counts.size - 1
    while top and first + cells.width * float(steps[top]) > largest:
        top -= 1
    if not top or cells.width < largest * _CLOSE:
        return np.zeros_like(found), levels.Codebook(first=levels.cut_first(mean), gap=0.0, growth=0)
    return np.minimum(found, top), levels.Codebook(first=first, gap=cells.width, growth=cells.growth)
