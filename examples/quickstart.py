"""Three devices and a gateway in one process, over an in-memory broker: samples become a new head."""

import tempfile
from pathlib import Path

import numpy as np

import fedclient
from fedclient.model.head import write_head
from fedclient.testing.inprocess import Federation
from fedclient.values import Codec, HeadVersion, Plan

rng = np.random.default_rng(7)
plan = Plan(epochs=5, learning_rate=0.5, codec=Codec(density=1.0))
with tempfile.TemporaryDirectory() as folder:
    federation = Federation(Path(folder), write_head(features=4, classes=2), plan, devices=3)
    for _ in range(3):
        device = federation.add_device()
        x = rng.normal(size=(64, 4)).astype(np.float32)  # this device's own samples: they never leave it
        y = (x.sum(axis=1) > 0).astype(int)
        with fedclient.SampleStore(device.samples) as store:
            store.append_many(x, y.tolist())
    # the first head is 1.1; 1.2 is made out of one update of each device
    federation.run_until(lambda: federation.version >= HeadVersion(1, 3))
    model = fedclient.load_model(device.path)
    guess = model.predict(x).argmax(axis=1)
    print(f"head {model.version}: {np.mean(guess == y):.0%} of this device's samples right")
