"""The body of the modes int8 and sign: the k largest elements, one bit string from end to end.

    mode      3 bits
    full      1 bit: 1 where n = k, else n < k follows in bit_length(k) bits; nothing follows n = 0
    places    `places.py`: order, groups, positions
    signs     for each group: a bit for each value, 1 = negative (`binary.py`)
    sign:     the magnitude of all, 12 bits: a normal float32 without its sign and its last 19 bits
    int8:     the level of each magnitude (`symbols.py`), then what the levels stand for (`levels.py`)

k is the plan's budget, max(1, round(density * P)).  Mode int8 has `bits` from 2 to 8, the sign included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import binary, levels, places, symbols
from fedclient.codec.bits import BitReader, Bits, BitWriter
from fedclient.codec.layout import layout
from fedclient.codec.sparsify import top_k
from fedclient.errors import CodecError, DataError
from fedclient.limits import MAX_HEAD_PARAMETERS, VALUE_BITS
from fedclient.values import Codec, CodecMode, TensorSpec

Quantiser = Callable[[NDArray[np.float32]], tuple[NDArray[np.int64], levels.Codebook]]

NOT_FINITE: Final = "the update has NaN or infinite values: training diverged, lower the learning rate"
MODE_BITS: Final = 3
_MAGNITUDE_BITS = 12  # 6 % at most is cut off, and stays with the sender's residual
_FLOAT_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sparse:
    """Some elements of a head and their values, none of them 0."""

    indices: NDArray[np.int64]  # [n], none twice
    values: NDArray[np.float32]  # [n]
    quantized_bits: int = 0  # of the values before entropy coding


def write(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    codec: Codec,
    share: float = 1.0,
    most: int = MAX_HEAD_PARAMETERS,
) -> tuple[bytes, Sparse]:
    """Encode at most `share` of the plan's k elements of flat `vector` [P], and at most `most`.

    Returns the body, and what it decodes to.
    Raises DataError when a value is NaN or infinite, CodecError when the plan is out of bounds.
    """
    head = layout(tensors)
    budget = head.budget(codec.density)
    _check_bits(codec)
    out = BitWriter()
    out.number(codec.mode, MODE_BITS)
    chosen = top_k(vector, min(most, head.budget(codec.density * share)))
    values = vector[chosen]
    if not np.isfinite(values).all():  # they would be among the largest
        raise DataError(NOT_FINITE)
    signs = codec.mode is CodecMode.TOPK_SIGN
    if not worth_sending(values, signs=signs):
        chosen, values = chosen[:0], values[:0]
    _write_count(out, chosen.size, budget)
    if not chosen.size:
        return out.to_bytes(), Sparse(indices=chosen, values=values)
    sent = write_elements(
        out, chosen, values, tensors, None if signs else partial(levels.quantise, bits=codec.bits)
    )
    bits = chosen.size + _FLOAT_BITS if signs else codec.bits * chosen.size + 2 * _FLOAT_BITS
    return out.to_bytes(), Sparse(indices=sent.indices, values=sent.values, quantized_bits=bits)


def write_elements(
    out: BitWriter,
    chosen: NDArray[np.int64],
    values: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    quantiser: Quantiser | None,
) -> Sparse:
    """Write `values` [n >= 1] of the increasing positions `chosen`, by `quantiser`, or as signs."""
    negative = np.signbit(values)
    turn, counts = places.write(out, chosen, negative, tensors)
    if turn is not None:
        chosen, values, negative = chosen[turn], values[turn], negative[turn]
    binary.write_groups(out, negative.view(np.uint8), counts)
    magnitudes = _write_magnitudes(out, np.abs(values), quantiser)
    return Sparse(indices=chosen, values=np.copysign(magnitudes, values))


def read(data: bytes, tensors: tuple[TensorSpec, ...], codec: Codec) -> Sparse:
    """Decode the body `data`; raises CodecError unless it is as an encoder writes it."""
    budget = layout(tensors).budget(codec.density)
    _check_bits(codec)
    source = BitReader(data)
    if source.number(MODE_BITS) != codec.mode:
        raise CodecError(f"the body's mode is not the plan's, {codec.mode.value}")
    count = _read_count(source, budget)
    alphabet = 0 if codec.mode is CodecMode.TOPK_SIGN else 1 << (codec.bits - 1)
    return read_elements(source, count, tensors, alphabet)


def read_elements(source: BitReader, count: int, tensors: tuple[TensorSpec, ...], alphabet: int) -> Sparse:
    """Read `count` elements to the end of a body: values of at most `alphabet` levels, 0: signs."""
    if not count:
        source.end()
        return Sparse(indices=np.empty(0, dtype=np.int64), values=np.empty(0, dtype=np.float32))
    indices, counts = places.read(source, count, tensors)
    negative = binary.read_groups(source, counts)
    values = _read_magnitudes(source, count, alphabet)
    source.end()
    _negate(values, negative)
    return Sparse(indices=indices, values=values)


def _check_bits(codec: Codec) -> None:
    if codec.mode is CodecMode.TOPK_INT8 and not VALUE_BITS[0] <= codec.bits <= VALUE_BITS[1]:
        raise CodecError(
            f"the plan's values have {codec.bits} bits: it must be {VALUE_BITS[0]} to {VALUE_BITS[1]}"
        )


def worth_sending(values: NDArray[np.float32], *, signs: bool) -> bool:
    """Whether what stands for `values` is a normal number: the mean of signs, the largest of levels."""
    if not values.size:
        return False
    magnitudes = np.abs(values)
    return (levels.mean(magnitudes) if signs else float(magnitudes.max())) >= levels.TINY


def _negate(values: NDArray[np.float32], negative: Bits) -> None:
    """Set the sign bits of `values` [n] in place; a masked `np.negative` takes ten times as long."""
    values.view(np.uint32)[...] ^= negative.astype(np.uint32) << np.uint32(31)


def _write_count(out: BitWriter, count: int, budget: int) -> None:
    out.number(int(count == budget), 1)
    if count < budget:
        out.number(count, budget.bit_length())


def _read_count(source: BitReader, budget: int) -> int:
    if source.number(1):
        return budget
    count = source.number(budget.bit_length())
    if count >= budget:
        raise CodecError(f"the body declares {count} values as if they were fewer than {budget}")
    return count


def _write_magnitudes(
    out: BitWriter, magnitudes: NDArray[np.float32], quantiser: Quantiser | None
) -> NDArray[np.float32]:
    """Write magnitudes [n]; returns what they decode to."""
    if quantiser is None:
        # The mean, cut and not rounded: the L2 norm never grows (signSGD, Bernstein et al. 2018).
        magnitude = levels.cut(levels.mean(magnitudes), _MAGNITUDE_BITS)
        levels.write_float(out, magnitude, _MAGNITUDE_BITS)
        return np.full(magnitudes.size, magnitude, dtype=np.float32)
    found, book = quantiser(magnitudes)
    symbols.write(out, found)
    top = int(found.max())
    levels.write(out, book, single=not top)
    return book.points(top + 1)[found]


def _read_magnitudes(source: BitReader, count: int, alphabet: int) -> NDArray[np.float32]:
    if not alphabet:
        return np.full(count, levels.read_float(source, _MAGNITUDE_BITS), dtype=np.float32)
    found = symbols.read(source, count, alphabet)
    used = int(found.max()) + 1
    return levels.read(source, single=used == 1).points(used)[found]
