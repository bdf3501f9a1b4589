"""A head of int8 dense layers that predicts in integers alone.

Boards have floats of 32 bits, some of 30, a PC of 64: in integers all of them, and the gateway, come to
the very same result.  A float32 is read as mantissa and exponent, sums are exact, what comes out of a
layer is rounded (half up) to units of 2^-16, and before the next layer to 15 bits and a sign.
docs/wire-format.md, section 14, has the rule word for word.
"""

from array import array
from struct import unpack_from

from micropython import const

from . import cbor

_UNIT = const(16)  # outputs are multiples of 2^-16
_LAYERS = const(8)
_ROWS = const(4096)


def number(data: bytes, at: int = 0) -> tuple:
    """Return mantissa and exponent of a float32; raises ValueError for NaN and infinities."""
    bits = unpack_from("<I", data, at)[0]
    exponent = bits >> 23 & 255
    mantissa = bits & 0x7FFFFF
    if exponent == 255:
        raise ValueError("not a finite number")
    if exponent:
        mantissa |= 0x800000
    else:
        exponent = 1
    return (-mantissa if bits >> 31 else mantissa), exponent - 150


def shifted(value: int, by: int) -> int:
    """Return `value` over 2^`by`, rounded half up."""
    return (value + (1 << by - 1)) >> by if by > 0 else value << -by


def _fitting(values: list) -> int:
    """Return by how many bits the greatest is longer than 15."""
    greatest = max(abs(one) for one in values)
    by = 0
    while greatest >> by >= 32768:
        by += 1
    return by


def _floats(data: bytes) -> tuple:
    numbers = [number(data, at) for at in range(0, len(data), 4)]
    exponent = None
    for mantissa, power in numbers:
        if mantissa:
            length = 0
            while abs(mantissa) >> length:
                length += 1
            if exponent is None or power + length - 15 > exponent:
                exponent = power + length - 15
    if exponent is None:
        return [0] * len(numbers), 1, 0
    return [shifted(one[0], exponent - one[1]) for one in numbers], 1, exponent


def integers(tag: int, data: bytes, scale: bytes | None) -> tuple:
    """Return the integers of a sample, and the mantissa and exponent of their scale."""
    if tag == cbor.FLOAT32:
        return _floats(data)
    # The bytes are little-endian, as is every board with a radio that runs MicroPython.
    return (array("b" if tag == cbor.INT8 else "h", data),) + number(scale)


class Head:
    """What the body of a message says; raises ValueError where it does not make sense."""

    def __init__(self, body: bytes) -> None:
        self.version, self._layers, self.labels = _items(cbor.read(body), 3)
        _items(self.version, 3)
        for one in self.version:
            if not isinstance(one, int) or one >> 53:
                raise ValueError("a version is three integers")
        if not 0 < len(_items(self._layers)) <= _LAYERS:
            raise ValueError("1 to 8 layers")
        before = 0
        for layer in self._layers:
            before = _checked(layer, before)
        for one in _items(self.labels):
            if not isinstance(one, str) or not 0 < len(one.encode()) <= 64:
                raise ValueError("labels are 1 to 64 bytes of text")
        if len(self.labels) not in (0, before):
            raise ValueError("labels for other outputs")
        self.columns = len(self._layers[0][1][1]) * 4 // len(self._layers[0][2])

    def outputs(self, tag: int, data: bytes, scale: bytes | None) -> list:
        """Return the last layer's outputs in units of 2^-16."""
        values, mantissa, exponent = integers(tag, data, scale)
        if len(values) != self.columns:
            raise ValueError("the head takes %d values" % self.columns)
        for layer in self._layers:
            if layer is not self._layers[0]:
                by = _fitting(values)
                values = [shifted(one, by) for one in values]
                mantissa, exponent = 1, by - _UNIT
            values = _dense(layer, values, mantissa, exponent)
        return values

    def predict(self, tag: int, data: bytes, scale: bytes | None) -> int:
        """Return the class: the first of the greatest outputs."""
        outputs = self.outputs(tag, data, scale)
        return outputs.index(max(outputs))


def _dense(layer: list, values: list, mantissa: int, exponent: int) -> list:
    activation, (_, weights), scales, bias = layer
    outputs = []
    at = 0
    for row in range(0, len(scales), 4):
        total = 0
        for value in values:
            total += value * ((weights[at] ^ 128) - 128)  # bytes have no sign
            at += 1
        scale, power = number(scales, row)
        output = shifted(total * mantissa * scale, -(exponent + power + _UNIT))
        offset, power = number(bias, row)
        output += shifted(offset, -(power + _UNIT))
        outputs.append(0 if activation and output < 0 else output)
    return outputs


def _items(value: object, size: int = 0) -> list:
    if not isinstance(value, list) or (size and len(value) != size):
        raise ValueError("not the array it should be")
    return value


def _checked(layer: list, before: int) -> int:
    """Check a layer that follows one of `before` rows (0: none); return its own."""
    activation, weights, scales, bias = _items(layer, 4)
    if activation not in (0, 1) or not isinstance(weights, tuple) or weights[0] != cbor.INT8:
        raise ValueError("not a layer of int8")
    if not isinstance(scales, memoryview) or not isinstance(bias, memoryview):
        raise ValueError("no scales or no bias")
    rows = len(scales) // 4
    size = len(weights[1])
    if not 0 < rows <= _ROWS or len(scales) % 4 or len(bias) != len(scales):
        raise ValueError("rows do not fit")
    if not size or size % rows or (before and size // rows != before):
        raise ValueError("columns do not fit")
    for at in range(0, len(scales), 4):
        number(scales, at)
        number(bias, at)
    return rows
