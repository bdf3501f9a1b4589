"""What a node may say, and what an ack says: checked here, before it is queued or believed.

docs/wire-format.md, section 14, "Bodies".
"""

from struct import pack

from micropython import const

from . import cbor
from .head import number

WINDOW = 1024  # counters above the oldest unsettled one that may be sent; also the most in a range
_LIST = const(64)  # ranges, or counters gone, in an ack
_LABEL = const(64)  # bytes
_MOST = 1 << 53


def typed(values: object, scale: object = None) -> tuple:
    """Return tag, bytes and scale (4 bytes or None) of an array of b, h (with a scale) or f (without).

    Raises ValueError for anything else, a scale that is not above 0 and a float that is not finite.
    """
    data = bytes(values)
    size = len(data) // len(values)
    if scale is None:
        if size != 4:
            raise ValueError("array of f, or b or h and a scale")
        for at in range(0, len(data), 4):
            number(data, at)
        return cbor.FLOAT32, data, None
    if size > 2:
        raise ValueError("array of f, or b or h and a scale")
    if not isinstance(scale, bytes):
        scale = pack("<f", scale)
    mantissa, exponent = number(scale)
    if mantissa <= 0 or exponent > 88:
        raise ValueError("a scale is above 0 and below 2^112")
    return (cbor.INT8 if size == 1 else cbor.INT16), data, scale


def checked_label(label: object) -> object:
    """Return a label: the name of a class, its number, or None; raises ValueError."""
    if isinstance(label, str):
        if not 0 < len(label.encode()) <= _LABEL:
            raise ValueError("a label has 1 to 64 bytes")
        for one in label:
            if not (" " <= one <= "~" or ("\xa0" < one < "\u2000" and one != "\xad")):
                raise ValueError("a label prints in one line")
    elif label is not None and (not isinstance(label, int) or not 0 <= label <= _MOST):
        raise ValueError("a label is a text, or 0 to 2^53")
    return label


def read_ack(body: object) -> tuple:
    """Return nonce, `next`, the counter after the last taken and the ranges of all that is settled above.

    Raises ValueError.
    """
    if not isinstance(body, list) or len(body) != 4:
        raise ValueError("not an ack")
    nonce, below, ranges, gone = body
    if not isinstance(nonce, memoryview) or not isinstance(ranges, list) or not isinstance(gone, list):
        raise ValueError("not an ack")
    if len(nonce) != 8 or len(ranges) > _LIST or len(gone) > _LIST:
        raise ValueError("too many")
    top = _counter(below, 1)
    for pair in ranges:
        if not isinstance(pair, list) or len(pair) != 2 or _counter(pair[1], 1) > WINDOW:
            raise ValueError("not a range")
        top = _counter(pair[0], top + 1) + pair[1]
    last = 0
    for one in gone:
        last = _counter(one, last + 1)
        ranges.append((one, 1))
    return bytes(nonce), below, top, ranges


def _counter(one: object, least: int) -> int:
    if not isinstance(one, int) or not least <= one <= _MOST + 1:
        raise ValueError("not a counter")
    return one
