"""CBOR (RFC 8949, 4.2.1: one way to write each item) of the few types that a node uses.

    int >= 0, bytes, str, list, None, and (tag, bytes): a typed array, as in RFC 8746

Bytes come back as a memoryview of what was read: nothing is copied, and a length is believed only
as far as there are bytes.  Whatever else is read raises ValueError.
"""

from micropython import const

INT8 = 72
INT16 = 77  # little-endian, as is FLOAT32
FLOAT32 = 85
_DEPTH = const(4)


def put_head(out: bytearray, major: int, number: int) -> None:
    """Append the first bytes of an item."""
    major <<= 5
    if number < 24:
        out.append(major | number)
        return
    size = 0
    while size < 3 and number >> (8 << size):
        size += 1
    out.append(major | 24 + size)
    for shift in range((8 << size) - 8, -1, -8):
        out.append(number >> shift & 255)


def put(out: bytearray, item: object) -> bytearray:
    """Append an item."""
    if item is None:
        out.append(0xF6)
    elif isinstance(item, int):
        put_head(out, 0, item)
    elif isinstance(item, str):
        text = item.encode()
        put_head(out, 3, len(text))
        out.extend(text)
    elif isinstance(item, list):
        put_head(out, 4, len(item))
        for one in item:
            put(out, one)
    elif isinstance(item, tuple):
        put_head(out, 6, item[0])
        put(out, item[1])
    else:
        put_head(out, 2, len(item))
        out.extend(item)
    return out


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> memoryview:
        end = self.at + size
        if end > len(self.data):
            raise ValueError("cut short")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def number(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise ValueError("not a length")
        number = 0
        for byte in self.take(1 << low - 24):
            number = number << 8 | byte
        if number < 24 or (low > 24 and not number >> (4 << low - 24)):
            raise ValueError("not the shortest form")
        return number

    def item(self, depth: int) -> object:
        first = self.take(1)[0]
        if first == 0xF6:
            return None
        major = first >> 5
        number = self.number(first & 31)
        if major == 0:
            return number
        if major == 2:
            return self.take(number)
        if major == 3:
            return str(self.take(number), "utf-8")
        if major == 4 and depth:
            if number > len(self.data) - self.at:  # of a byte each, at least
                raise ValueError("cut short")
            return [self.item(depth - 1) for _ in range(number)]
        if major == 6 and number in (INT8, INT16, FLOAT32):
            data = self.item(0)
            if isinstance(data, memoryview):
                return (number, data)
        raise ValueError("not a type of ours")


def read(data: bytes) -> object:
    """Return the one item that these bytes are."""
    reader = _Reader(memoryview(data))
    item = reader.item(_DEPTH)
    if reader.at != len(data):
        raise ValueError("bytes left over")
    return item
