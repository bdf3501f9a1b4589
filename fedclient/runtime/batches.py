"""Rows in, rows out: arrays checked against a port, and run in chunks.  Pure but for the runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import DataError, ModelError
from fedclient.runtime.tensors import bounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.runtime.interpreter import Port, Signature

CHUNK_BYTES: Final = 1024 * 1024  # of input at a time; a backbone's inner tensors are some ten times that
MAX_CHUNK_ROWS: Final = 256


def in_chunks(
    run: Signature, port: Port, output: str, rows: NDArray[Any], batch: int | None
) -> NDArray[np.float32]:
    """Run `rows` through one signature and return its `output`, row for row.

    `batch`: how many rows it takes at a time, None where that is free.
    """
    row_bytes = max(1, rows.dtype.itemsize * int(np.prod(port.shape[1:])))
    size = batch or min(max(CHUNK_BYTES // row_bytes, 1), MAX_CHUNK_ROWS)
    parts = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        if batch and len(chunk) < batch:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        parts.append(run({port.name: chunk})[output][: len(rows) - start])
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def checked(x: NDArray[Any], port: Port) -> NDArray[Any]:
    """Return `x` when it is a batch for `port`: type, shape, finite.  Raises DataError."""
    if x.dtype != port.dtype or x.shape[1:] != port.shape[1:] or x.ndim != len(port.shape):
        want = f"{port.dtype} [B, {', '.join(map(str, port.shape[1:]))}]"
        raise DataError(f"the model takes {want}, not {x.dtype} {list(x.shape)}")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise DataError("a sample holds NaN or infinity")
    return x


def checked_result(found: NDArray[Any], rows: int, width: int, name: str) -> NDArray[np.float32]:
    """Return `found` as float32 [rows, width] when it has that many finite values.  Raises ModelError."""
    if not rows:
        return np.zeros((0, width), np.float32)
    if found.dtype != np.float32 or len(found) != rows or found.size != rows * width:
        raise ModelError(f"{name} must be float32 {[rows, width]}, not {found.dtype} {list(found.shape)}")
    if not bounded(found):
        raise ModelError(f"{name} are not finite: the weights are too large")
    return found.reshape(rows, width)


def class_numbers(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the class of each row [B, C]; a single logit is that of the second of two classes."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.intp)
    return np.asarray(logits.argmax(axis=1))


def fixed_batch(port: Port) -> int | None:
    """Return the batch that the file fixes, None when it is dynamic."""
    return None if port.shape[0] < 0 else port.shape[0]
