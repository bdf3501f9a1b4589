"""From what a device has stored to a model with its head set, and to features of its samples.

Whoever works with a published head begins here: the job, and whoever judges or tunes a head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedclient import runtime
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.errors import ModelError
from fedclient.runtime import TrainableModel
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import SampleStore, features_path
from fedclient.training.dataset import Features
from fedclient.values import Manifest


class AskedToStop(Exception):
    """Somebody wants this trainer to stop, before it has anything to checkpoint."""


def load(
    folder: DeviceFolder, manifest: Manifest, threads: int = 1
) -> tuple[TrainableModel, NDArray[np.float32]]:
    """Return the manifest's model with its head set, and that head, flat float32 [P].

    Raises StorageDamaged for a blob that is not there whole, ModelError for a model that is another one.
    """
    blobs = Blobs(folder.blobs)
    model = runtime.load(blobs.read(manifest.model), threads=threads)
    if model.tensors != manifest.tensors:
        raise ModelError("the model has other tensors than its manifest says")
    base = np.frombuffer(blobs.read(manifest.head), "<f4").astype(np.float32)
    model.set_weights(base)
    return model, base


def features(
    folder: DeviceFolder,
    model: TrainableModel,
    model_hash: bytes,
    *,
    at_once: int | None = None,
    should_stop: Callable[[], bool],
) -> Features:
    """Return what turns this device's samples into rows of the head's input, through its feature cache.

    It is for the samples that are there now: once some are purged it keeps nothing any more.  It raises
    AskedToStop when `should_stop` says so: a backbone may take minutes for all samples.
    """

    def check_wanted() -> None:
        if should_stop():
            raise AskedToStop

    store = SampleStore(folder.samples)
    epoch = store.epoch
    cache = FeatureCache(features_path(folder.samples), is_current=lambda: store.epoch == epoch)
    return Features(model, model_hash, cache, at_once=at_once, before_each=check_wanted)
