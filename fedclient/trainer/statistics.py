"""A job under a plan with `statistics`: mean and mean of squares of each feature, and no training.

They are sent as they are (`codec/exact.py`).  The residual and what was returned stay for the jobs to
come, and nothing is clipped.  The privacy floor on distinct samples holds as for any job: the mean of a few
would tell too much about each.

So would the difference of two means: who asks for the newest 32 samples and then for the newest 33 has one of
them.  So what is measured is the very samples of the last time, or as many new ones as the floor says.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np

from fedclient import codec
from fedclient.errors import CodecError, DataError, ModelError, PrivacyFloor
from fedclient.samples.store import SampleStore
from fedclient.trainer.handover import Result
from fedclient.trainer.workplace import Workplace
from fedclient.training.loop import Examples
from fedclient.training.statistics import with_statistics
from fedclient.values import Manifest, parameters

log = logging.getLogger(__name__)


_NEWEST, _WHICH = "statistics_newest", "statistics_which"  # counters: the last time's samples


def check_apart(place: Workplace, ids: tuple[int, ...], labels: tuple[str, ...]) -> None:
    """Raise PrivacyFloor where the statistics of these samples, less those sent before, are of too few."""
    journal, floor = place.journal, place.arguments.min_samples
    if not journal.counter(_NEWEST) or journal.counter(_WHICH) == _which(ids):
        return
    new = SampleStore(place.folder.samples).new_since(journal.counter(_NEWEST), labels)
    if new < floor:
        raise PrivacyFloor(
            f"feature statistics were sent before, and {new} distinct samples are new since, the privacy "
            f"floor is {floor} ([privacy] min_samples): the difference would tell too much of them"
        )


def marks(ids: tuple[int, ...]) -> dict[str, int]:
    """Return what is to be remembered of the samples whose statistics are sent."""
    return {_NEWEST: max(ids), _WHICH: _which(ids)}


def _which(ids: tuple[int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(sorted(ids)).encode()).digest()[:7], "big")


def collect(examples: Examples, manifest: Manifest, report: dict[str, object]) -> Result:
    """Return the statistics of `examples` as an update; `report` is what history keeps besides.

    Raises ModelError for a head that has none, DataError for features that are out of bounds.
    """
    if not np.isfinite(examples.x).all():
        raise DataError("the features have NaN or infinite values: look at the samples")
    nothing = np.zeros(parameters(manifest.tensors), dtype=np.float32)
    with np.errstate(over="ignore"):  # the codec refuses what is out of bounds
        found = np.nan_to_num(with_statistics(nothing, manifest.tensors, examples.x))
    try:
        encoded = codec.encode(found, manifest.tensors, manifest.plan.body_codec)
    except CodecError as error:
        raise ModelError(f"the plan asks for feature statistics: {error}") from None
    log.info("feature statistics of %d samples", len(examples))
    return Result(
        body=encoded.body,
        examples=len(examples),
        sizes={
            "fp32": encoded.sparsified_bytes,
            "sparsified": encoded.sparsified_bytes,
            "quantized": encoded.quantized_bytes,
            "encoded": len(encoded.body),
        },
        report={**report, "suppressed_classes": [], "base_accuracy": None, "epochs": []},
    )
