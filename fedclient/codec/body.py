"""The body of an update: the bytes between a delta and its envelope, both ends in one file.

    sparse   `sparse.py`: the modes 1 int8 and 2 sign; the first three bits of the first byte are the mode
    dense    mode (1 byte: 3), P values (never -128), a scale for each tensor with one not 0 (`quantize.py`)
    fitted   `fitted.py`: mode 5, the same for a number of bytes
    exact    mode (1 byte: 4), feature statistics and no delta: `exact.py` has its own rules

Positions index the flat vector: tensors in the order given (UTF-8 name order), each in C order.
What a decoder insists on is said where each part is read; nothing is missing and nothing is left over.

Memory is for at most the plan's k elements, whatever a body declares, and beyond that follows the bytes
that are there: half of a group's elements or fewer need at least a bit each.  In all it is at most 512 KiB,
and 100 bytes for each of the body's and 64 for each of the k elements (`tests/codec/test_strangers.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import exact, fitted, quantize, sparse
from fedclient.codec.budget import most_that_fit
from fedclient.codec.layout import Layout, layout
from fedclient.codec.sparse import NOT_FINITE, Sparse
from fedclient.errors import CodecError, DataError
from fedclient.values import Codec, CodecMode, TensorSpec

_READERS: Final = {
    CodecMode.TOPK_INT8: sparse.read,
    CodecMode.TOPK_SIGN: sparse.read,
    CodecMode.FITTED: fitted.read,
}
_POSITION_BYTES = 4  # of an uncompressed uint32 position, where stages are compared


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """A valid body's content."""

    indices: NDArray[np.int64] | None  # [n], none twice; None: dense, n = P
    values: NDArray[np.float32]  # [n]

    def add_to(self, total: NDArray[np.float64], weight: float) -> None:
        """Add `weight` times the delta to `total` [P], in float64 throughout."""
        weighted = np.multiply(self.values, weight, dtype=np.float64)
        if self.indices is None:
            total += weighted
        else:
            total[self.indices] += weighted  # positions are unique: no unbuffered add needed

    def norm(self) -> float:
        """L2 norm of the delta, in float64."""
        return math.sqrt(np.square(self.values, dtype=np.float64).sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """A body, what its receiver will compute from it, and what each stage made of the delta."""

    body: bytes
    size: int  # P
    content: Decoded
    sparsified_bytes: int  # with uint32 positions and float32 values
    quantized_bytes: int  # with uint32 positions and quantised values

    @property
    def decoded(self) -> NDArray[np.float32]:
        """What the body decodes to, bit for bit, [P]; of elements it is made anew at each call."""
        if self.content.indices is None:
            return self.content.values
        vector = np.zeros(self.size, dtype=np.float32)
        vector[self.content.indices] = self.content.values
        return vector


def encode(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    codec: Codec,
    *,
    share: float = 1.0,
    max_bytes: int | None = None,
) -> Encoded:
    """Encode the flat delta `vector` [P]; of mode EXACT, the statistics in it and nothing else.

    A body of modes 1, 2 and 5 carries at most `share` of the elements that the plan's density allows, and of
    these as many as fit into `max_bytes`; its receiver has the plan's `codec` and need not know.
    Deterministic: equal input gives equal bytes.  Raises DataError when a value is NaN or infinite, or a
    statistic out of bounds, CodecError when tensors or density are, and where nothing fits.
    """
    plan = layout(tensors)
    if vector.shape != (plan.parameters,) or vector.dtype != np.float32:
        raise ValueError(f"want float32 [{plan.parameters}], got {vector.dtype} {list(vector.shape)}")
    if codec.mode is CodecMode.FITTED:
        return _encode_fitted(vector, tensors, codec, share, max_bytes)
    if codec.mode in (CodecMode.TOPK_INT8, CodecMode.TOPK_SIGN):
        return _encode_sparse(vector, tensors, codec, share, max_bytes)
    if not np.isfinite(vector).all():
        raise DataError(NOT_FINITE)
    exactly = codec.mode is CodecMode.EXACT
    encoded = _encode_exact(vector, tensors) if exactly else _encode_dense(vector, plan)
    if max_bytes is not None and len(encoded.body) > max_bytes:
        raise _too_small(max_bytes, len(encoded.body))
    return encoded


def decode(body: bytes, tensors: tuple[TensorSpec, ...], codec: Codec) -> Decoded:
    """Decode a body from a stranger, made with the plan's `codec` for a head of `tensors`.

    Raises CodecError, and nothing else, unless every rule above holds.
    """
    if codec.mode in _READERS:
        found = _READERS[codec.mode](body, tensors, codec)
        return Decoded(indices=found.indices, values=found.values)
    if not body or body[0] != codec.mode:
        raise CodecError(
            f"the body's mode is {body[:1].hex() or 'missing'}, the plan says {codec.mode.value}"
        )
    if codec.mode is CodecMode.EXACT:
        values = exact.read(body[1:], tensors)
        return Decoded(indices=exact.positions(tensors).ravel(), values=values.ravel())
    return _decode_dense(body, layout(tensors))


def _encode_exact(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> Encoded:
    values = exact.pack(vector, tensors)
    return Encoded(
        body=bytes([CodecMode.EXACT]) + exact.write(values),
        size=vector.size,
        content=Decoded(indices=exact.positions(tensors).ravel(), values=values.ravel()),
        sparsified_bytes=values.nbytes,
        quantized_bytes=values.nbytes,
    )


def _encode_dense(vector: NDArray[np.float32], plan: Layout) -> Encoded:
    quantized, scales = quantize.to_int8(vector, plan.sizes)
    block = quantized.tobytes() + quantize.write_scales(scales)
    return Encoded(
        body=bytes([CodecMode.DENSE_INT8]) + block,
        size=vector.size,
        content=Decoded(indices=None, values=quantize.from_int8(quantized, plan.sizes, scales)),
        sparsified_bytes=vector.nbytes,
        quantized_bytes=len(block),
    )


def _encode_sparse(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    codec: Codec,
    share: float,
    max_bytes: int | None,
) -> Encoded:
    def of_at_most(most: int) -> Encoded:
        return _of_elements(*sparse.write(vector, tensors, codec, share, most), vector.size)

    whole = of_at_most(vector.size)
    if max_bytes is None or len(whole.body) <= max_bytes:
        return whole
    count = whole.content.values.size
    guess = max(1, count * max_bytes // len(whole.body))
    found = most_that_fit(of_at_most, guess, count - 1, max_bytes) if count > 1 else None
    if found is None:
        raise _too_small(max_bytes, len(of_at_most(1).body))
    return found


def _encode_fitted(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    codec: Codec,
    share: float,
    max_bytes: int | None,
) -> Encoded:
    found = fitted.write(vector, tensors, codec, share, max_bytes)
    if found is None:
        raise _too_small(max_bytes or 0, fitted.least_bytes(vector, tensors, codec))
    return _of_elements(found.body, found.sent, vector.size)


def _of_elements(body: bytes, sent: Sparse, size: int) -> Encoded:
    count = sent.indices.size
    return Encoded(
        body=body,
        size=size,
        content=Decoded(indices=sent.indices, values=sent.values),
        sparsified_bytes=count * (_POSITION_BYTES + sent.values.itemsize),
        quantized_bytes=count * _POSITION_BYTES + (sent.quantized_bits + 7) // 8,
    )


def _too_small(max_bytes: int, least: int) -> CodecError:
    return CodecError(f"an update's body may have {max_bytes} bytes, and takes at least {least}")


def _decode_dense(body: bytes, plan: Layout) -> Decoded:
    if len(body) <= plan.parameters:
        raise CodecError(f"a dense body has {plan.parameters} values, this one is {len(body)} bytes long")
    quantized = np.frombuffer(body, dtype=np.int8, count=plan.parameters, offset=1)
    scales = quantize.read_int8_scales(body[1 + plan.parameters :], quantized, plan.sizes)
    return Decoded(indices=None, values=quantize.from_int8(quantized, plan.sizes, scales))
