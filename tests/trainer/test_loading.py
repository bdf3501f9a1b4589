"""A stored head becomes a model with that head set; features go through the device's cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedclient.errors import ModelError, StorageDamaged
from fedclient.samples.store import features_path
from fedclient.trainer.loading import AskedToStop, features, load
from fedclient.values import HeadVersion
from tests.runtime.models import Foreign, build
from tests.trainer.setup import CLASSES, FEATURES, bench

V1 = HeadVersion(1, 1)


def test_the_model_holds_the_manifests_head(device) -> None:
    head = np.arange((FEATURES + 1) * CLASSES, dtype=np.float32)
    model, base = load(device.folder, device.publish(V1, head=head.tobytes()))
    assert model.get_weights().tobytes() == base.tobytes() == head.tobytes()


def test_another_model_or_none_is_said(device) -> None:
    manifest = device.publish(V1)
    renamed = tuple(replace(tensor, name=tensor.name + "x") for tensor in manifest.tensors)
    with pytest.raises(ModelError, match="other tensors"):
        load(device.folder, replace(manifest, tensors=renamed))
    for path in device.folder.blobs.iterdir():
        path.unlink()
    with pytest.raises(StorageDamaged, match="fetched again"):
        load(device.folder, manifest)


def test_a_backbones_features_are_kept_beside_the_samples(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    manifest = device.publish(V1)
    model, _ = load(device.folder, manifest)
    shape, dtype = model.sample_shape, model.sample_dtype
    device.store.append_many([np.full(shape, row, dtype) for row in range(4)], [0, 1, 2, 0])
    found = list(device.store.read((1, 2, 3, 4)))
    rows = features(device.folder, model, manifest.model.hash, should_stop=lambda: False)(found)
    assert features_path(device.folder.samples).exists()
    model.extract = None  # from now on only the cache can know
    again = features(device.folder, model, manifest.model.hash, should_stop=lambda: True)(found)
    assert again.tobytes() == rows.tobytes()
    device.store.append(np.full(shape, 5, dtype), 0)
    with pytest.raises(AskedToStop):  # before the backbone runs, which may take long
        features(device.folder, model, manifest.model.hash, should_stop=lambda: True)(
            list(device.store.read((5,)))
        )
    device.close()
