"""What a device keeps to itself of a job: the personal layer.

It goes over the published head when a job begins, is trained with the rest, and is kept by the
transaction that hands the update over (`handover.py`); `pack` leaves it out of what is sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient.device import personal
from fedclient.device.jobs import Job
from fedclient.device.personal import PersonalLayer
from fedclient.runtime import TrainableModel
from fedclient.trainer.workplace import Workplace
from fedclient.values import Manifest


def put_over(
    place: Workplace, job: Job, manifest: Manifest, base: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the weights that a job on `base` begins with: this device's personal layer in its place."""
    mixed = PersonalLayer(place.database).over(base.astype("<f4").tobytes(), manifest, job.epoch or 0)
    return np.frombuffer(mixed, "<f4").astype(np.float32)


def taken_from(model: TrainableModel) -> bytes:
    """Return the personal layer as `model` holds it now: b"" where it has none."""
    return personal.extract(model.get_weights().astype("<f4").tobytes(), model.tensors)
