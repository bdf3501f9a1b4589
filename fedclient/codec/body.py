"""The body of an update: the bytes between a delta and its envelope, both ends in one file.

    sparse   mode (1 byte: 1 int8, 2 sign)
             count n (LEB128 varint, shortest form, at most the plan's k); nothing follows when n = 0
             positions (a block of `rice.py`)
             int8: n values (1 byte each, two's complement, never 0 or -128), then a scale for each tensor
                   that has a value, in order of tensors (float32, little-endian)
             sign: n bits, 1 = negative, most significant bit first, zero padded; one magnitude
                   (float32, little-endian)
    dense    mode (1 byte: 3), P values (never -128), a scale for each tensor that has a nonzero value
    exact    mode (1 byte: 4), feature statistics and no delta: `exact.py` has its own rules

Positions index the flat vector: tensors in the order given (UTF-8 name order), each in C order.
The rules of a decoder, in the order they are checked:

1. The mode byte is the plan's.
2. The count is minimal, and no more than k = max(1, round(density * P)).
3. Positions are below P, padding is zero, the Rice parameter is the best (`rice.py`).
4. Values and scales are what an encoder makes (`quantize.py`).
5. Nothing is missing and nothing is left over.

So a content has one body, but for this: two scales one float32 step apart can give equal products.
Memory follows the bytes that are there, never the numbers they declare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import exact, quantize, rice
from fedclient.codec.layout import Layout, layout
from fedclient.codec.sparsify import top_k
from fedclient.errors import CodecError, DataError
from fedclient.values import Codec, CodecMode, TensorSpec

_POSITION_BYTES = 4  # of an uncompressed uint32 position, where stages are compared
_SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """A body, what its receiver will compute from it, and what each stage made of the delta."""

    body: bytes
    decoded: NDArray[np.float32]  # [P], bit for bit what the body decodes to
    sparsified_bytes: int  # with uint32 positions and float32 values
    quantized_bytes: int  # with uint32 positions and quantised values


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


def encode(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...], codec: Codec) -> Encoded:
    """Encode the flat delta `vector` [P]; of mode EXACT, the statistics in it and nothing else.

    Deterministic: equal input gives equal bytes.  Raises DataError when a value is NaN or infinite, or a
    statistic out of bounds, CodecError when tensors or density are.
    """
    plan = layout(tensors)
    if vector.shape != (plan.parameters,) or vector.dtype != np.float32:
        raise ValueError(f"want float32 [{plan.parameters}], got {vector.dtype} {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise DataError("the update has NaN or infinite values: training diverged, lower the learning rate")
    if codec.mode is CodecMode.EXACT:
        return _encode_exact(vector, tensors)
    if codec.mode is CodecMode.DENSE_INT8:
        return _encode_dense(vector, plan)
    return _encode_sparse(vector, plan, codec)


def decode(body: bytes, tensors: tuple[TensorSpec, ...], codec: Codec) -> Decoded:
    """Decode a body from a stranger, made with the plan's `codec` for a head of `tensors`.

    Raises CodecError, and nothing else, unless every rule above holds.
    """
    plan = layout(tensors)
    if not body or body[0] != codec.mode:
        raise CodecError(
            f"the body's mode is {body[:1].hex() or 'missing'}, the plan says {codec.mode.value}"
        )
    if codec.mode is CodecMode.EXACT:
        values = exact.read(body[1:], tensors)
        return Decoded(indices=exact.positions(tensors).ravel(), values=values.ravel())
    if codec.mode is CodecMode.DENSE_INT8:
        return _decode_dense(body, plan)
    return _decode_sparse(body, plan, codec)


def _encode_exact(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> Encoded:
    values = exact.pack(vector, tensors)
    decoded = np.zeros_like(vector)
    decoded[exact.positions(tensors)] = values
    body = bytes([CodecMode.EXACT]) + exact.write(values)
    return Encoded(body=body, decoded=decoded, sparsified_bytes=values.nbytes, quantized_bytes=values.nbytes)


def _encode_dense(vector: NDArray[np.float32], plan: Layout) -> Encoded:
    quantized, scales = quantize.to_int8(vector, plan.sizes)
    block = quantized.tobytes() + quantize.write_scales(scales)
    return Encoded(
        body=bytes([CodecMode.DENSE_INT8]) + block,
        decoded=quantize.from_int8(quantized, plan.sizes, scales),
        sparsified_bytes=vector.nbytes,
        quantized_bytes=len(block),
    )


def _encode_sparse(vector: NDArray[np.float32], plan: Layout, codec: Codec) -> Encoded:
    chosen = top_k(vector, plan.budget(codec.density))
    indices, values, block = chosen, vector[chosen], b""
    if chosen.size and codec.mode is CodecMode.TOPK_SIGN:
        indices, values, block = _pack_signs(chosen, values)
    elif chosen.size:
        indices, values, block = _pack_int8(chosen, values, plan)
    body = bytes([codec.mode]) + _varint(indices.size)
    if indices.size:
        body += rice.encode(indices) + block
    decoded = np.zeros(plan.parameters, dtype=np.float32)
    decoded[indices] = values
    return Encoded(
        body=body,
        decoded=decoded,
        sparsified_bytes=chosen.size * (_POSITION_BYTES + vector.itemsize),
        quantized_bytes=indices.size * _POSITION_BYTES + len(block),
    )


_Packed = tuple[NDArray[np.int64], NDArray[np.float32], bytes]  # what is sent, decoded, and its bytes


def _pack_int8(chosen: NDArray[np.int64], values: NDArray[np.float32], plan: Layout) -> _Packed:
    quantized, scales = quantize.to_int8(values, plan.counts(chosen))
    kept = quantized.nonzero()[0]
    indices, quantized = chosen[kept], quantized[kept]
    decoded = quantize.from_int8(quantized, plan.counts(indices), scales[scales > 0])
    return indices, decoded, quantized.tobytes() + quantize.write_scales(scales)


def _pack_signs(chosen: NDArray[np.int64], values: NDArray[np.float32]) -> _Packed:
    magnitude = quantize.magnitude_of(values)
    if not magnitude[0]:
        return chosen[:0], values[:0], b""
    negative = values < 0
    block = np.packbits(negative).tobytes() + quantize.write_scales(magnitude)
    return chosen, np.where(negative, -magnitude, magnitude), block


def _decode_dense(body: bytes, plan: Layout) -> Decoded:
    if len(body) <= plan.parameters:
        raise CodecError(f"a dense body has {plan.parameters} values, this one is {len(body)} bytes long")
    quantized = np.frombuffer(body, dtype=np.int8, count=plan.parameters, offset=1)
    scales = quantize.read_int8_scales(body[1 + plan.parameters :], quantized, plan.sizes)
    return Decoded(indices=None, values=quantize.from_int8(quantized, plan.sizes, scales))


def _decode_sparse(body: bytes, plan: Layout, codec: Codec) -> Decoded:
    count, at = _read_varint(body, 1)
    budget = plan.budget(codec.density)
    if count > budget:
        raise CodecError(f"the body declares {count} values, the plan allows {budget}")
    if count == 0:
        if len(body) > at:
            raise CodecError(f"the body has {len(body) - at} bytes after a count of 0")
        return Decoded(indices=np.empty(0, dtype=np.int64), values=np.empty(0, dtype=np.float32))
    signs = codec.mode is CodecMode.TOPK_SIGN
    width = (count + 7) // 8 if signs else count
    end = max(at, len(body) - width - _SCALE_BYTES)  # positions leave room for values and one scale
    indices, used = rice.decode(body[at:end], count, plan.parameters)
    at += used
    if signs:
        return Decoded(
            indices=indices, values=_unpack_signs(body[at : at + width], body[at + width :], count)
        )
    quantized = np.frombuffer(body, dtype=np.int8, count=count, offset=at)
    if not quantized.all():
        raise CodecError("the body sends the value 0, which a sparse body leaves out")
    counts = plan.counts(indices)
    scales = quantize.read_int8_scales(body[at + count :], quantized, counts)
    return Decoded(indices=indices, values=quantize.from_int8(quantized, counts, scales))


def _unpack_signs(packed: bytes, magnitude: bytes, count: int) -> NDArray[np.float32]:
    value = quantize.read_scales(magnitude, 1)
    negative = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if negative[count:].any():
        raise CodecError("the body has nonzero padding after its signs")
    return np.where(negative[:count], -value, value)


def _varint(number: int) -> bytes:
    """LEB128, shortest form."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a LEB128 number of at most 28 bits, enough for any head; returns it and where it ends."""
    number = 0
    for index, byte in enumerate(data[at : at + 4]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise CodecError("the body's count is not in its shortest form")
            return number, at + index + 1
    raise CodecError("the body's count is cut off or too long")
