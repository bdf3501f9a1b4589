"""A head's delta as few bytes, and back: exact top-k, int8 or signs, Golomb-Rice positions.  Pure.

`encode` and `decode`, and where statistics lie, are all that other parts use; `body.py` has the byte layout.
Error feedback is the caller's: what was not sent is `vector - encoded.decoded`.
"""

from __future__ import annotations

from fedclient.codec.body import Decoded, Encoded, decode, encode
from fedclient.codec.exact import positions as statistics_of

__all__ = ["Decoded", "Encoded", "decode", "encode", "statistics_of"]
