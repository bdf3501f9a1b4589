"""Whether a head that arrived may replace the one in use, from what both do on the same rows.

1. A head whose accuracy or loss is not finite is never adopted.
2. A head must know something: its loss is below ln C, that of a head that knows nothing, by a twentieth of
   ln C and by two standard errors.  Random weights that are small come near ln C on either side.  Only
   a head that was never trained, whose loss is ln C exactly, may be the first, or follow its like.
3. Its accuracy is at most `margin` below that of the head in use.
4. It keeps nine tenths of what the head in use knows, ln C less its loss.  So the bar is relative: it is
   strict while heads know little, when random weights come close, and leaves a trained head room to move.
5. A sample whose label it has no class for, and the head in use has, counts as one it gets wrong in that;
   and the other way round.  Else a list of labels with one name left would make a constant head perfect.

On how many rows: honest heads differ from round to round on a few, so what is judged on fewer than
`enough_rows(margin)` is mostly chance, and the judge takes more.  What the rule lets through and what
it refuses, on real heads: `tools/bench/adoption.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedclient.runtime import TrainableModel
from fedclient.training.loop import Examples, logits_of
from fedclient.values import Verdict

LEAST_KNOWN = 0.05  # of ln C
SURE = 2.0  # standard errors
KEPT_SHARE = 0.9  # of what the head in use knows
_ROUNDING = 1e-5  # float32 logits, summed; an all-zero head must come out at ln C
_FEWEST, _MOST = 20, 1000  # rows, whatever the margin


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a head does on some rows: `loss` is the mean cross-entropy in nats, `error` its standard error."""

    accuracy: float
    loss: float
    error: float = 0.0


def enough_rows(margin: float) -> int:
    """Return on how many rows the standard error of an accuracy is at most `margin`."""
    worst_variance = 0.25
    return _MOST if margin <= 0 else min(_MOST, max(_FEWEST, math.ceil(worst_variance / margin**2)))


def measure(model: TrainableModel, examples: Examples) -> Measured:
    """Measure the head that `model` holds; raises ModelError for logits that are not finite."""
    hits: list[NDArray[np.bool_]] = []
    losses: list[NDArray[np.float64]] = []
    for logits, y in logits_of(model, examples):
        scores = log_probabilities(logits)
        hits.append(scores.argmax(axis=1) == y)
        losses.append(-scores[np.arange(len(y)), y])
    loss = np.concatenate(losses)
    return Measured(
        accuracy=float(np.concatenate(hits).mean()),
        loss=float(loss.mean()),
        error=float(loss.std() / math.sqrt(len(loss))),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """How many of a device's newest samples two heads have a class for, of those that both models take."""

    both: int
    only_used: int  # only the head in use
    only_new: int


def loses_classes(new: Measured, used: Measured, rows: Overlap, margin: float) -> str:
    """Say why `new` may not replace `used`, where their labels differ; "" where it may."""
    right = new.accuracy * (rows.both + rows.only_new)
    right_before = used.accuracy * (rows.both + rows.only_used)
    of_all = rows.both + rows.only_used + rows.only_new
    if right >= right_before - (margin + _ROUNDING) * of_all:
        return ""
    return (
        f"it has no class for {rows.only_used} of {of_all} samples that the head in use has one for, and is "
        f"right on {right:.0f} of all, that one on {right_before:.0f}"
    )


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-softmax of each row; a single logit is that of the second of two classes."""
    wide = logits.astype(np.float64)
    if wide.shape[1] == 1:
        wide = np.concatenate([np.zeros_like(wide), wide], axis=1)
    shifted: NDArray[np.float64] = wide - wide.max(axis=1, keepdims=True)
    scores: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return scores


def decide(new: Measured, current: Measured | None, classes: int, margin: float) -> tuple[Verdict, str]:
    """Return the verdict on `new` and a sentence; `current` is None where no head is in use."""
    nothing = math.log(max(classes, 2))
    found = f"accuracy {new.accuracy:.3f}, loss {new.loss:.3f}"
    if not all(map(math.isfinite, (new.accuracy, new.loss, new.error))):
        return Verdict.KEPT_PREVIOUS, f"not finite: {found}"
    untrained = abs(new.loss - nothing) <= _ROUNDING
    if not untrained and nothing - new.loss < max(LEAST_KNOWN * nothing, SURE * new.error):
        return Verdict.KEPT_PREVIOUS, f"{found}: hardly better than knowing nothing ({nothing:.3f}), or worse"
    if current is None or not (math.isfinite(current.accuracy) and math.isfinite(current.loss)):
        return Verdict.ADOPTED, f"{found}; there was no head to compare with"
    against = f"against accuracy {current.accuracy:.3f}, loss {current.loss:.3f}"
    known = nothing - current.loss
    if untrained and known > _ROUNDING:
        return Verdict.KEPT_PREVIOUS, f"{found} {against}: it knows nothing"
    if new.accuracy < current.accuracy - margin - _ROUNDING:
        return Verdict.KEPT_PREVIOUS, f"{found} {against}: it is right less often than the margin allows"
    if new.loss > current.loss + (1 - KEPT_SHARE) * max(0.0, known) + _ROUNDING:
        return Verdict.KEPT_PREVIOUS, f"{found} {against}: it has lost too much of what that one knows"
    return Verdict.ADOPTED, f"{found} {against}"
