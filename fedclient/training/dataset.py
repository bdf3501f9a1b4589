"""From recorded samples to features and class numbers; what does not fit is skipped and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import DataError
from fedclient.runtime import TrainableModel
from fedclient.runtime.tensors import bounded
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import Sample
from fedclient.training.loop import Examples

_BATCH = 256  # samples in memory at once, or as many as have this many bytes: pictures are large
_BATCH_BYTES = 4 * 1024 * 1024
_BACKBONE_ROWS = 32  # through the backbone at once where the board does not say, then on the disk


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Examples ready for training, in the order of `ids`."""

    examples: Examples
    ids: tuple[int, ...]
    skipped: int
    distinct: int


def class_number(label: int | str | None, labels: tuple[str, ...], classes: int) -> int | None:
    """Map a sample's label to a class: numbers as they are, strings by the manifest's list.

    A model with a single output tells two classes apart.
    """
    if isinstance(label, str):
        label = labels.index(label) if label in labels else None
    return label if label is not None and 0 <= label < max(classes, 2) else None


def prepare(
    samples: Iterable[Sample], model: TrainableModel, labels: tuple[str, ...], features: Features
) -> Prepared:
    """Turn samples into examples; a sample whose label or shape does not fit is skipped.

    Raises DataError when none is left.
    """
    ids: list[int] = []
    classes: list[int] = []
    x = np.empty((0, *model.x_shape), np.float32)
    contents: set[bytes] = set()
    skipped, first = 0, ""
    for batch in _batches(samples):
        first = first or f" (the first is {list(batch[0].array.shape)} {batch[0].array.dtype})"
        fitting = [
            (sample, number)
            for sample in batch
            if (number := class_number(sample.label, labels, model.classes)) is not None
            and fits(sample, model)
        ]
        skipped += len(batch) - len(fitting)
        if fitting:
            x = _extended(x, features([sample for sample, _ in fitting]))
        for sample, number in fitting:
            ids.append(sample.id)
            classes.append(number)
            contents.add(blake2b(sample.array.data, digest_size=16).digest())
    if not ids:
        raise DataError(
            f"no sample fits the model: {skipped} have another shape or type than "
            f"{list(model.sample_shape)} {model.sample_dtype}{first}, or a label that is not "
            "one of its classes"
        )
    examples = Examples(x=x, y=np.array(classes, dtype=np.int32))
    return Prepared(examples=examples, ids=tuple(ids), skipped=skipped, distinct=len(contents))


class Features:
    """From samples to rows of the head's input, and what that cost.

    A model with a backbone runs it once for each sample, ever: results are cached by
    (model, sample id).  Without one, the sample is the row.  The backbone takes `at_once` samples at
    a time, and these are cached before the next are begun: a power cut costs no more.  `before_each` of
    its runs may raise, and what was cached by then stays.
    """

    def __init__(
        self,
        model: TrainableModel,
        model_hash: bytes = b"",
        cache: FeatureCache | None = None,
        *,
        at_once: int | None = None,
        before_each: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._hash = model_hash
        self._cache = cache
        self._at_once = at_once or _BACKBONE_ROWS
        self._before_each = before_each
        self.computed = 0  # samples that went through the backbone
        self.seconds = 0.0  # that it took for them

    def __call__(self, batch: list[Sample]) -> NDArray[np.float32]:
        if not self._model.has_features:
            # each by itself: samples of other shapes and types fit as well, if their count does
            rows = [_values(sample).astype(np.float32) for sample in batch]
            return np.stack([row.reshape(self._model.x_shape) for row in rows])
        known = {} if self._cache is None else self._known([one.id for one in batch])
        missing = [sample for sample in batch if sample.id not in known]
        for start in range(0, len(missing), self._at_once):
            self._before_each()
            new = self._extracted(missing[start : start + self._at_once])
            if self._cache is not None:
                self._cache.put(self._hash, new)
            known |= new
        found: NDArray[np.float32] = np.stack([known[sample.id] for sample in batch])
        return found.reshape(len(batch), *self._model.x_shape)

    def _known(self, ids: list[int]) -> dict[int, NDArray[np.float32]]:
        """Return what is cached and can be of this model: whoever records samples may write there, too."""
        assert self._cache is not None  # noqa: S101 - asked by who has one
        found = self._cache.get(self._hash, ids)
        return {one: row for one, row in found.items() if row.size == self._model.features and bounded(row)}

    def _extracted(self, samples: list[Sample]) -> dict[int, NDArray[np.float32]]:
        started = time.monotonic()
        rows = self._model.extract(np.stack([_values(sample) for sample in samples]))
        self.seconds += time.monotonic() - started
        self.computed += len(samples)
        return {sample.id: row for sample, row in zip(samples, rows, strict=True)}


def _extended(x: NDArray[np.float32], more: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append rows to `x`, which is nobody else's: large blocks grow where they are, without a second copy."""
    at = len(x)
    x.resize((at + len(more), *x.shape[1:]), refcheck=False)
    x[at:] = more
    return x


def _batches(samples: Iterable[Sample]) -> Iterable[list[Sample]]:
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        batch.append(sample)
        size += len(sample.array.data)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def fits(sample: Sample, model: TrainableModel) -> bool:
    """Whether a model takes a sample, whatever its label."""
    array = sample.array
    if model.has_features:
        return array.dtype == model.sample_dtype.name and array.shape == model.sample_shape
    # numbers of any type are features; only their count must fit
    return int(np.prod(array.shape)) == model.features


def _values(sample: Sample) -> NDArray[Any]:
    array = sample.array
    return np.frombuffer(array.data, np.dtype(array.dtype).newbyteorder("<")).reshape(array.shape)
