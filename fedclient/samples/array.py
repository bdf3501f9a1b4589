"""One sample as bytes: dtype, shape, little-endian values in C order.

Stored as they are: uint8, int8, int16, int32, float32.  Every other kind of number (float64, float16,
int64, bool ...) is stored as float32, which is what heads compute with; a value that does not fit
float32 is refused like NaN.  NumPy is imported only when an ndarray comes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Final

from fedclient.errors import DataError
from fedclient.limits import MAX_SAMPLE_BYTES, MAX_TENSOR_RANK

DTYPES: Final = {"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "float32": 4}  # bytes of one value
_FORMATS: Final = {"B": "uint8", "b": "int8", "h": "int16", "i": "int32", "f": "float32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """The values of one sample."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def as_array(x: object, where: str = "the sample") -> Array:
    """Take an ndarray, anything with a buffer (array.array, memoryview) or a flat list of numbers.

    Raises: DataError, naming `where`: not numbers, NaN or infinite, empty, too large.
    """
    try:
        if hasattr(x, "dtype") and hasattr(x, "tobytes"):
            found, finite = _from_numpy(x)
        else:
            found, finite = _from_buffer(x)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise DataError(f"{where}: it is not an array of numbers ({error})") from error
    if not 1 <= len(found.shape) <= MAX_TENSOR_RANK or not prod(found.shape):
        raise DataError(
            f"{where}: its shape is {found.shape}, give 1 to {MAX_TENSOR_RANK} dimensions, none empty"
        )
    if len(found.data) > MAX_SAMPLE_BYTES:
        raise DataError(f"{where}: it has {len(found.data)} bytes, the limit is {MAX_SAMPLE_BYTES}")
    if not finite:
        raise DataError(f"{where}: it holds NaN, an infinity or a value beyond float32; leave it out")
    return found


def _from_numpy(x: Any) -> tuple[Array, bool]:
    import numpy as np  # noqa: PLC0415  an app that records lists does without

    if x.dtype.kind not in "buif":
        raise TypeError(f"dtype {x.dtype}")
    dtype = x.dtype.name if x.dtype.name in DTYPES else "float32"
    with np.errstate(over="ignore"):
        values = np.asarray(x).astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    return Array(dtype=dtype, shape=tuple(x.shape), data=values.tobytes()), bool(np.isfinite(values).all())


def _from_buffer(x: Any) -> tuple[Array, bool]:
    if isinstance(x, (str, bytes, bytearray)):
        raise TypeError("give bytes a type and a shape: memoryview(data).cast('B', (8, 8))")
    if isinstance(x, (list, tuple)):
        x = array("f", x)
    view: Any = memoryview(x)
    flat = view.cast("B").cast(view.format) if view.ndim != 1 else view
    if view.format not in _FORMATS:
        flat = memoryview(array("f", flat.tolist()))
    finite = flat.format != "f" or all(map(isfinite, flat))
    return Array(dtype=_FORMATS[flat.format], shape=tuple(view.shape), data=flat.tobytes()), finite
