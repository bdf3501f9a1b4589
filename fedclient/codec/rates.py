"""What bytes buy of one update: a table for people who choose a plan.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.body import Encoded, encode
from fedclient.values import Codec, CodecMode, TensorSpec

_DENSITIES: Final = (0.001, 0.01, 0.1)
_BITS: Final = (1, 4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """One choice: elements, bits of a value with its sign, and what that comes to."""

    density: float  # share of the elements that are sent
    bits: int  # 1: signs
    body_bytes: int
    nmse: float  # squared error of what arrives, over the sum of squares; what is left out counts


def rates(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> tuple[Rate, ...]:
    """Encode the delta `vector` [P] with each of some densities and bits; raises as `encode` does."""
    found = []
    for density in _DENSITIES:
        for bits in _BITS:
            mode = CodecMode.TOPK_SIGN if bits == 1 else CodecMode.TOPK_INT8
            codec = Codec(mode=mode, density=density, bits=max(2, bits))
            encoded = encode(vector, tensors, codec)
            found.append(
                Rate(
                    density=density,
                    bits=bits,
                    body_bytes=len(encoded.body),
                    nmse=error_left(vector, encoded),
                )
            )
    return tuple(found)


def rate_of(vector: NDArray[np.float32], encoded: Encoded) -> Rate:
    """Say the same of a body that was made of `vector` [P]."""
    values = encoded.content.values
    levels = np.unique(np.abs(values[values != 0])).size
    return Rate(
        density=np.count_nonzero(values) / max(1, encoded.size),
        bits=1 + (max(1, levels) - 1).bit_length(),
        body_bytes=len(encoded.body),
        nmse=error_left(vector, encoded),
    )


def error_left(vector: NDArray[np.float32], encoded: Encoded) -> float:
    """Return the normalised squared error, 0 where there was nothing to send."""
    exact = vector.astype(np.float64)
    total = float(np.square(exact).sum())
    return float(np.square(exact - encoded.decoded).sum()) / total if total else 0.0
