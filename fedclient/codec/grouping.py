"""Which segments of a head a body takes together: those where about as many elements are sent.

A device that sees few classes changes little but their columns.  Positions then cost least when each column
is coded with its own density, but telling each density costs too: so segments of about one density form a
group, and a group is as one vector.  Where signs lean, segments that lean one way form a group with few of
the other sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.segments import Order, Segments, Survey, survey
from fedclient.values import TensorSpec

_EMPTY: Final = 23  # density class of a segment without an element that is sent; others are below
_HALF: Final = math.log2(math.e) / 2
_SPENT: Final = 24  # bits that a group costs beside its elements, about: its count, and a longer table


def _times_log2(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = counts * np.log2(np.maximum(counts, 1))
    return found


_TIMES_LOG2: Final = _times_log2(np.arange(1024))  # most segments have few elements that are sent


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grouping:
    """Groups of segments: one after the other, each in order of segments, a new order of the head."""

    order: Order
    labels: NDArray[np.int64]  # [S], the group of each segment
    sizes: list[int]  # [G], elements of each group
    starts: NDArray[np.int64]  # [S], where a segment begins in the new order
    sequence: NDArray[np.int64]  # [S], segments as they follow one another


def arrange(cut: Segments, order: Order, labels: NDArray[np.int64]) -> Grouping:
    """Lay groups out: `labels` [S] has the group of each segment of `cut`."""
    sequence = np.argsort(labels, kind="stable")
    ends = cut.size[sequence].cumsum()
    starts = np.empty_like(ends)
    starts[sequence] = ends - cut.size[sequence]
    sizes = np.bincount(labels, weights=cut.size).astype(np.int64).tolist()  # exact: far below 2^53
    return Grouping(order=order, labels=labels, sizes=sizes, starts=starts, sequence=sequence)


def choose(
    indices: NDArray[np.int64], negative: NDArray[np.bool_], tensors: tuple[TensorSpec, ...], size: int
) -> Grouping | None:
    """Find the groups that make the shortest body for increasing `indices` [n]; None: the flat head."""
    looked = survey(tensors)
    if looked is None:
        return None
    numbers = looked.locate(indices)
    numbers += numbers  # first how many are positive in a segment, then how many are negative
    numbers += negative
    signs = np.bincount(numbers.ravel(), minlength=2 * looked.size.size)
    minus = signs[1::2]
    sent = signs[0::2] + minus
    finest = _finest(signs, sent, looked)
    least, best = _cost(indices.size, size, int(np.count_nonzero(negative))), None
    for fine, begin, (order, cut) in zip(finest, looked.begins.tolist(), looked.cuts.items(), strict=True):
        if least - fine < _chance(indices.size, cut.size.size):
            continue
        own = slice(begin, begin + cut.size.size)
        cost, labels = _labels(sent[own], minus[own], cut.size)
        if cost < least:
            least, best = cost, arrange(cut, order, labels)
    return best


def _chance(count: int, number: int) -> float:
    """Bits that `number` segments seem to save where nothing is to be found, generously, and two groups cost.

    That is 1.44 bits for each on average where segments have many of the elements, less where they have few.
    """
    share = count / number
    seeming = 1.2 * (share * (1 - math.log2(share)) + 0.1) if share < 1 else 2.0
    return number * min(2.0, seeming) + 2 * _SPENT


def _finest(signs: NDArray[np.int64], sent: NDArray[np.int64], looked: Survey) -> list[float]:
    """Bits of positions and signs in each order, were each segment a group and telling that for nothing.

    A little less: log2 C(n, k) counts as k log2(n / k) + k log2(e) (1 - (p + p^2) / 2) with p = k / n.
    """
    counts = sent.astype(np.float64)  # numbers of two kinds take several times as long
    share = counts / looked.size
    places = counts * (looked.doublings - share * (_HALF + _HALF * share))
    chosen = _TIMES_LOG2.take(signs) if signs.max() < _TIMES_LOG2.size else _times_log2(signs)
    saved = np.add.reduceat(chosen, 2 * looked.begins)
    found: list[float] = (np.add.reduceat(places, looked.begins) - saved).tolist()
    return found


def _labels(
    sent: NDArray[np.int64], minus: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[float, NDArray[np.int64]]:
    """Return what a grouping costs in bits, about, and the group of each segment: the most common first."""
    kind = np.frexp(sizes // np.maximum(sent, 1))[1]  # density in powers of two
    kind[sent == 0] = _EMPTY
    leaning = 2 * minus > sent
    atoms = (2 * kind + leaning).astype(np.int64)
    columns = [np.bincount(atoms, weights=part, minlength=2 * _EMPTY + 2) for part in (sent, sizes, minus)]
    totals = np.stack([*columns, np.bincount(atoms, minlength=2 * _EMPTY + 2)], axis=1)
    cost, cluster = _clusters(totals)
    labels = cluster[atoms]
    members = np.bincount(labels)
    rank = np.empty_like(members)
    rank[np.argsort(-members, kind="stable")] = np.arange(members.size)
    shares = members[members > 0] / labels.size
    return cost - float((members[members > 0] * np.log2(shares)).sum()), rank[labels]


def _clusters(totals: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]]:
    """Join atoms of neighbouring densities while that costs less: the cost, and the cluster of each atom.

    `totals` [A, 4]: sent, elements, negative ones and segments of each atom.
    """
    used = totals[:, 3].nonzero()[0].tolist()
    groups = [([atom], totals[atom].tolist()) for atom in used]
    costs = [_group_cost(total) for _, total in groups]
    while len(groups) > 1:
        gain, at, to = -math.inf, 0, 0
        for first in range(len(groups) - 1):
            for second in range(first + 1, min(first + 3, len(groups))):
                both = [a + b for a, b in zip(groups[first][1], groups[second][1], strict=True)]
                saved = costs[first] + costs[second] - _group_cost(both)
                if saved > gain:
                    gain, at, to = saved, first, second
        if gain < 0:
            break
        atoms, total = groups.pop(to)
        groups[at] = (groups[at][0] + atoms, [a + b for a, b in zip(groups[at][1], total, strict=True)])
        costs.pop(to)
        costs[at] = _group_cost(groups[at][1])
    cluster = np.zeros(len(totals), dtype=np.int64)
    for number, (atoms, _) in enumerate(groups):
        cluster[atoms] = number
    return sum(costs), cluster


def _group_cost(total: list[float]) -> float:
    sent, size, minus, _ = total
    return _cost(sent, size, minus) + _SPENT


def _cost(sent: float, size: float, minus: float) -> float:
    """Bits of a group's positions and signs, about."""
    return _entropy(sent, size) + min(sent, _entropy(minus, sent))


def _entropy(part: float, whole: float) -> float:
    """Bits that tell which `part` of `whole` it is: log2 of the binomial coefficient, about."""
    rest = whole - part
    if not part or not rest:
        return 0.0
    return part * math.log2(whole / part) + rest * math.log2(whole / rest)
