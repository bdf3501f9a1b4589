"""A second reader of valid bodies, from the page alone, as a board without NumPy would write it."""

import math
import struct


class Reader:
    def __init__(self, body: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in body)
        self.at = 0

    def bits(self, count: int) -> str:
        self.at += count
        assert self.at <= len(self.text)
        return self.text[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int("0" + self.bits(width), 2)

    def planes(self, count: int, width: int) -> list[int]:
        rows = [self.bits(count) for _ in range(width)]
        return [int("0" + "".join(row[i] for row in rows), 2) for i in range(count)]

    def positions(self, count: int, size: int) -> list[int]:
        if 2 * count > size:
            free = set(self.positions(size - count, size))
            return [place for place in range(size) if place not in free]
        if count == 0:
            return []
        by = max(1, math.ceil((45426 * size - 55135 * count) / (65536 * count)))
        remainders = [0] * count
        if by > 1:
            width = (by - 1).bit_length()
            short = 2**width - by
            for i, head in enumerate(self.planes(count, width - 1)):
                remainders[i] = head
            for i, head in enumerate(remainders):
                if head >= short:
                    remainders[i] = 2 * head + self.number(1) - short
        found, last = [], -1
        for remainder in remainders:
            quotient = 0
            while self.bits(1) == "0":
                quotient += 1
            last += quotient * by + remainder + 1
            found.append(last)
        return found

    def binary(self, count: int) -> list[int]:
        if self.number(1) == 0:
            return [int(bit) for bit in self.bits(count)]
        ones = set(self.positions(self.number(count.bit_length()), count))
        return [int(place in ones) for place in range(count)]

    def symbols(self, count: int) -> list[int]:
        length = self.number(5)
        slots, lengths = 2**length, {}
        for depth in range(length, 99):
            if slots == 0:
                break
            lengths[depth] = self.number(slots.bit_length())
            slots = 2 * (slots - lengths[depth])
        table, code, symbol = {}, 0, 0
        for depth, many in lengths.items():
            for _ in range(many):
                table[format(code, f"0{depth}b") if depth else ""] = symbol
                code, symbol = code + 1, symbol + 1
            code *= 2
        if length == 1:
            codes = [str(bit) for bit in self.binary(count)]
        else:
            codes = [format(head, f"0{length}b") if length else "" for head in self.planes(count, length)]
        for _ in range(len(lengths) - 1):
            open_ = [i for i in range(count) if codes[i] not in table]
            for i, bit in zip(open_, self.binary(len(open_)), strict=True):
                codes[i] += str(bit)
        return [table[code] for code in codes]

    def octaves(self, count: int) -> list[int]:
        longest, lengths = self.number(5), [1] * count
        for depth in range(1, longest):
            reached = [i for i in range(count) if lengths[i] == depth]
            for i, longer in zip(reached, self.binary(len(reached)), strict=True):
                lengths[i] += longer
        found = [1] * count
        for depth in range(2, longest + 1):
            own = [i for i in range(count) if lengths[i] == depth]
            second = self.binary(len(own))
            rest = self.planes(len(own), depth - 2)
            for i, high, low in zip(own, second, rest, strict=True):
                found[i] = (2 + high) * 2 ** (depth - 2) + low
        return found

    def real(self, width: int) -> float:
        (value,) = struct.unpack(">f", (self.number(width) << (31 - width)).to_bytes(4, "big"))
        return value


def read_slowly(body: bytes, tensors, density: float) -> list[float]:
    """Return the flat vector."""
    size = sum(tensor.size for tensor in tensors)
    if body[0] == 3:
        return read_dense(body, tensors)
    if body[0] == 4:
        return read_statistics(body, tensors)
    out, source = [0.0] * size, Reader(body)
    mode, budget = source.number(3), max(1, round(density * size))
    if mode == 5:
        count = read_count(source, budget)
    else:
        count = budget if source.number(1) else source.number(budget.bit_length())
    if count == 0:
        return out
    if mode == 5:
        mode = 1 if source.number(1) else 2
    groups = read_groups(source, count, tensors)
    flat = [group[place] for group, held in groups for place in source.positions(held, len(group))]
    negative = [bit for _, held in groups for bit in source.binary(held)]
    if mode == 2:
        magnitudes = [source.real(12)] * count
    else:
        levels = source.symbols(count)
        points = [source.real(23)]
        if max(levels):
            gap, growth = source.real(15), source.number(6)
            for _ in range(max(levels)):
                points.append(points[-1] + gap)
                gap *= 1 + (4 + growth % 4) * 2.0 ** (growth // 4 - 13)
        magnitudes = [struct.unpack("<f", struct.pack("<f", points[level]))[0] for level in levels]
    for place, sign, magnitude in zip(flat, negative, magnitudes, strict=True):
        out[place] = -magnitude if sign else magnitude
    assert source.at + 7 >= len(source.text)
    assert "1" not in source.text[source.at :]
    return out


def read_count(source: Reader, most: int) -> int:
    length = source.number(most.bit_length().bit_length())
    return int("1" + source.bits(length - 1), 2) if length else 0


def read_groups(source: Reader, count: int, tensors):
    """Return for each group the flat indices it goes through, and how many of them are sent."""
    order = source.number(2)
    size = sum(tensor.size for tensor in tensors)
    if order == 0:
        return [(list(range(size)), count)]
    segments, begin = [], 0
    for tensor in tensors:
        many = 1 if len(tensor.shape) < 2 else tensor.shape[-1 if order == 1 else 0]
        flat = list(range(begin, begin + tensor.size))
        for index in range(many):
            step = tensor.size // many
            segments.append(flat[index::many] if order == 1 else flat[index * step : (index + 1) * step])
        begin += tensor.size
    labels = source.symbols(len(segments))
    groups = [
        [place for segment, own in zip(segments, labels, strict=True) if own == number for place in segment]
        for number in range(max(labels) + 1)
    ]
    held = [source.number(len(group).bit_length()) for group in groups[:-1]]
    return list(zip(groups, [*held, count - sum(held)], strict=True))


def read_full(data: bytes, tensors) -> list[float]:
    """Return the flat head of `full`."""
    own = [tensor for tensor in tensors if tensor.name.startswith("normalize/")]
    raw = 4 * sum(tensor.size for tensor in own)
    statistics = iter(struct.unpack(f"<{raw // 4}f", data[:raw]))
    integers = iter(read_integers(data[raw:], [tensor for tensor in tensors if tensor not in own]))
    return [next(statistics if tensor in own else integers) for tensor in tensors for _ in range(tensor.size)]


def read_delta(before: list[float], data: bytes, tensors) -> list[float]:
    """Return the flat head after a delta."""
    moved = [tensor for tensor in tensors if not tensor.name.startswith(("normalize/", "personal/"))]
    change = iter(read_integers(data, moved))
    return [
        value + (next(change) if tensor in moved else 0)
        for tensor, value in zip([t for t in tensors for _ in range(t.size)], before, strict=True)
    ]


def read_integers(data: bytes, tensors) -> list[float]:
    size, source = sum(tensor.size for tensor in tensors), Reader(data)
    out = [0.0] * size
    count = source.number(size.bit_length())
    if count:
        groups = read_groups(source, count, tensors)
        flat = [group[place] for group, held in groups for place in source.positions(held, len(group))]
        negative = [bit for _, held in groups for bit in source.binary(held)]
        magnitudes = source.octaves(count)
        ends = [sum(tensor.size for tensor in tensors[: i + 1]) for i in range(len(tensors))]
        tensor_of = {place: next(i for i, end in enumerate(ends) if place < end) for place in flat}
        used = sorted(set(tensor_of.values()))
        steps = [source.number(8) for _ in used] if source.number(1) else [source.number(8)] * len(used)
        for place, sign, magnitude in zip(flat, negative, magnitudes, strict=True):
            value = math.ldexp(magnitude, steps[used.index(tensor_of[place])] - 126)
            out[place] = -value if sign else value
    assert source.at + 7 >= len(source.text)
    assert "1" not in source.text[source.at :]
    return out


def read_dense(body: bytes, tensors) -> list[float]:
    size = sum(tensor.size for tensor in tensors)
    values, at, out = struct.unpack(f"{size}b", body[1 : 1 + size]), 1 + size, []
    for tensor in tensors:
        own, scale = values[len(out) : len(out) + tensor.size], 0.0
        if any(own):
            (scale,) = struct.unpack("<f", body[at : at + 4])
            at += 4
        out += [struct.unpack("<f", struct.pack("<f", value * scale))[0] for value in own]
    return out


def read_statistics(body: bytes, tensors) -> list[float]:
    values = iter(struct.unpack(f"<{len(body) // 4}f", body[1:]))
    statistics = {"normalize/mean", "normalize/mean_square"}
    return [
        next(values) if tensor.name in statistics else 0 for tensor in tensors for _ in range(tensor.size)
    ]
