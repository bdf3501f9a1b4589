"""load_model(): the current head, for the app that predicts with it.

Reads `current/` of the state folder and nothing else, so that an app in the group
`fedclient` needs no key and no database.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclient import config, runtime
from fedclient.device.slots import Slot, Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import DataError, ModelError
from fedclient.values import HeadVersion


class CurrentModel:
    """The model with the head that the agent adopted last; made by `load_model`.

    `version` and `labels` are that head's.  `personal` says whether a copy of it that was tuned on this
    device's own samples predicts in its place (`[adoption] personal`).
    """

    def __init__(self, current: Path) -> None:
        self._slots = Slots(current)
        self._tuned = TunedHead(current)
        self._loaded: tuple[str, runtime.TrainableModel] | None = None
        self._used: tuple[Slot, Tuned | None] = self._load()

    def _load(self) -> tuple[Slot, Tuned | None]:
        slot, model, head = self._slots.read()
        loaded = self._loaded
        if loaded is None or loaded[0] != slot.model_sha256:
            loaded = (slot.model_sha256, runtime.load(model))
        tuned = self._set(loaded[1], slot, head)
        self._loaded = loaded  # only now: what cannot be used changes nothing
        self.version: HeadVersion = slot.version
        self.labels: tuple[str, ...] = slot.labels
        return slot, tuned

    def _set(self, model: runtime.TrainableModel, slot: Slot, head: bytes) -> Tuned | None:
        """Give `model` the copy of `head` that was tuned here, where there is a sound one, else `head`."""
        tuned, copy = self._tuned.read(slot) or (None, b"")
        if len(copy) == len(head):
            with suppress(ModelError):  # whoever may write in this folder may have put anything there
                model.set_weights(_flat(copy))
                return tuned
        model.set_weights(_flat(head))
        return None

    @property
    def personal(self) -> bool:
        """Whether a copy of the head that was tuned on this device is in use."""
        return self._used[1] is not None

    @property
    def _model(self) -> runtime.TrainableModel:
        assert self._loaded is not None  # noqa: S101 - set by __init__
        return self._loaded[1]

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits float32 [B, C] for raw samples `x` [B, ...], or [C] for a single sample.

        Raises DataError for samples of another shape than the model's, or values that it does not take.
        """
        model, samples = self._model, np.asarray(x)
        single = samples.shape == model.sample_shape
        batch = samples[None] if single else samples
        if batch.shape[1:] != model.sample_shape:
            raise DataError(
                f"a sample has shape {list(samples.shape)}, the model takes {list(model.sample_shape)}"
            )
        rows = model.as_samples(batch)
        # Not the file's `predict`, which has both in one graph: with MobileNet v2 0.35 that is 4 % less
        # processor time and 1 MiB more, as the interpreter that checks a head is there in any case.
        features = model.extract(rows) if model.has_features else rows.astype(np.float32)
        logits = model.infer(features.reshape(len(batch), *model.x_shape))
        return logits[0] if single else logits

    def refresh(self) -> bool:
        """Take up a newer head, or a newly tuned copy of this one, if there is one; True when it changed.

        Raises as `load_model` does; the head in use stays then.
        """
        slot, before = self._slots.active(), self._used
        if slot is not None and (slot, self._tuned.beside(slot)) != before:
            self._used = self._load()
        return self._used != before


def _flat(head: bytes) -> NDArray[np.float32]:
    return np.frombuffer(head, "<f4").astype(np.float32)


def load_model(state: Path | str | None = None) -> CurrentModel:
    """Load the current head of the device at `state` (default: where the command line looks too).

    Raises NoModelYet before the first head, ModelError or StorageError when it cannot be used,
    ConfigError when it is the config file that says where, and cannot be read.
    """
    folder = config.load(None, os.environ).state if state is None else Path(state)
    return CurrentModel(folder / "current")
