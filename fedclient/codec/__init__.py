"""Heads and their changes as few bytes, and back.  Pure.

Up: `encode` and `decode` a device's delta, with a loss; `body.py` has the byte layout.  Error feedback is the
caller's: what was not sent is `vector - encoded.decoded`.
Down: `head_blob`, `delta_blob` and their inverses are exact; `grid.py` has the layout.
"""

from __future__ import annotations

from fedclient.codec.body import Decoded, Encoded, decode, encode
from fedclient.codec.exact import positions as statistics_of
from fedclient.codec.grid import delta_blob, head_after, head_blob, head_from
from fedclient.codec.rates import Rate, rate_of, rates

__all__ = [
    "Decoded",
    "Encoded",
    "Rate",
    "decode",
    "delta_blob",
    "encode",
    "head_after",
    "head_blob",
    "head_from",
    "rate_of",
    "rates",
    "statistics_of",
]
