"""From recorded samples to features and class numbers; what does not fit is skipped and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import DataError
from fedclient.runtime import TrainableModel
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import Sample
from fedclient.training.loop import Examples

_BATCH = 256  # raw samples in memory at once while features are extracted


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
    rows: list[NDArray[np.float32]] = []
    contents: set[bytes] = set()
    skipped = 0
    for batch in _batches(samples):
        fitting = [(sample, class_number(sample.label, labels, model.classes)) for sample in batch]
        fitting = [
            (sample, number) for sample, number in fitting if number is not None and _fits(sample, model)
        ]
        skipped += len(batch) - len(fitting)
        if fitting:
            rows.append(features([sample for sample, _ in fitting]))
        for sample, number in fitting:
            ids.append(sample.id)
            classes.append(number if number is not None else 0)
            contents.add(blake2b(sample.array.data, digest_size=16).digest())
    if not ids:
        raise DataError(
            f"no sample fits the model: {skipped} have another shape or type than "
            f"{list(model.sample_shape)} {model.sample_dtype}, or a label that is not one of its classes"
        )
    examples = Examples(x=np.concatenate(rows), y=np.array(classes, dtype=np.int32))
    return Prepared(examples=examples, ids=tuple(ids), skipped=skipped, distinct=len(contents))


Features = Callable[[list[Sample]], NDArray[np.float32]]


def features_of(
    model: TrainableModel,
    model_hash: bytes,
    cache: FeatureCache,
    *,
    at_once: int | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> Features:
    """Return a function from samples to rows of the head's input.

    A model with a backbone runs it once for each sample, ever: results are cached by
    (model, sample id).  Without one, the sample is the row.  The backbone takes `at_once` samples
    at a time; `before_each` of its runs may raise, and what was cached by then stays.
    """
    size = at_once or _BATCH

    def plain(batch: list[Sample]) -> NDArray[np.float32]:
        # each by itself: samples of other shapes and types fit as well, if their count does
        return np.stack([_values(sample).astype(np.float32).reshape(model.x_shape) for sample in batch])

    def cached(batch: list[Sample]) -> NDArray[np.float32]:
        known = cache.get(model_hash, [sample.id for sample in batch])
        missing = [sample for sample in batch if sample.id not in known]
        for start in range(0, len(missing), size):
            before_each()
            part = missing[start : start + size]
            fresh = model.extract(np.stack([_values(sample) for sample in part]))
            new = {sample.id: row for sample, row in zip(part, fresh, strict=True)}
            cache.put(model_hash, new)
            known = {**known, **new}
        rows: NDArray[np.float32] = np.stack([known[sample.id] for sample in batch])
        return rows.reshape(len(batch), *model.x_shape)

    return cached if model.has_features else plain


def _batches(samples: Iterable[Sample]) -> Iterable[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _fits(sample: Sample, model: TrainableModel) -> bool:
    array = sample.array
    if model.has_features:
        return array.dtype == model.sample_dtype.name and array.shape == model.sample_shape
    # numbers of any type are features; only their count must fit
    return int(np.prod(array.shape)) == model.features


def _values(sample: Sample) -> NDArray[Any]:
    array = sample.array
    return np.frombuffer(array.data, np.dtype(array.dtype).newbyteorder("<")).reshape(array.shape)
