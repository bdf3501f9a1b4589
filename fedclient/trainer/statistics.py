"""A job under a plan with `statistics`: mean and mean of squares of each feature, and no training.

They are sent as they are (`codec/exact.py`).  The residual and what was returned stay for the jobs to
come, and nothing is clipped.  The privacy floor on distinct samples holds as for any job: the mean of a few
would tell too much about each.
"""

from __future__ import annotations

import logging

import numpy as np

from fedclient import codec
from fedclient.errors import CodecError, DataError, ModelError
from fedclient.trainer.handover import Result
from fedclient.training.loop import Examples
from fedclient.training.statistics import with_statistics
from fedclient.values import Manifest, parameters

log = logging.getLogger(__name__)


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
