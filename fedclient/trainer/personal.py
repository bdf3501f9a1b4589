"""What a trainer does for its own device alone: the personal layer, and a copy tuned for the app.

The layer goes over the published head when a job begins, is trained with the rest, and is kept by the
transaction that hands the update over; `pack` leaves it out of what is sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient.device import personal
from fedclient.device.jobs import Job
from fedclient.device.personal import PersonalKey, PersonalLayer
from fedclient.runtime import TrainableModel
from fedclient.trainer.workplace import Workplace
from fedclient.values import Manifest


def put_over(
    place: Workplace, job: Job, manifest: Manifest, base: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the weights that a job on `base` begins with: this device's personal layer in its place."""
    layer = PersonalLayer(place.database).load(PersonalKey.of(manifest, job.epoch or 0))
    if layer is None:
        return base
    mixed = personal.overlay(base.astype("<f4").tobytes(), manifest.tensors, layer)
    return np.frombuffer(mixed, "<f4").astype(np.float32)


def taken_from(model: TrainableModel) -> bytes:
    """Return the personal layer as `model` holds it now: b"" where it has none."""
    return personal.extract(model.get_weights().astype("<f4").tobytes(), model.tensors)
