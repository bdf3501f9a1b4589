"""Bodies that strangers may send: junk, and valid bodies with changes.  Each can be made again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedclient.codec import encode
from fedclient.values import MEAN, MEAN_SQUARE, Codec, CodecMode, TensorSpec, parameters

HEADS = {
    "three": (
        TensorSpec(name="b", shape=(3,)),
        TensorSpec(name="w", shape=(2, 4)),
        TensorSpec(name="x", shape=(9,)),
    ),
    "one element": (TensorSpec(name="w", shape=()),),
    "kernel": (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10))),
    "columns": (TensorSpec(name="kernel", shape=(3, 4096)),),
    "deep": (TensorSpec(name="bias", shape=(7,)), TensorSpec(name="kernel", shape=(3, 3, 5, 7))),
    "tiny ones": tuple(TensorSpec(name=f"t{number:02}", shape=(1,)) for number in range(64)),
    "statistics": (
        TensorSpec(name="kernel", shape=(5, 3)),
        TensorSpec(name=MEAN, shape=(5,)),
        TensorSpec(name=MEAN_SQUARE, shape=(5,)),
    ),
    "largest": (TensorSpec(name="kernel", shape=(1000, 4000)),),
}
DENSITIES = (1e-9, 0.01, 0.15, 0.4, 0.6, 1.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plan, and a body under it."""

    head: str
    codec: Codec
    body: bytes

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return HEADS[self.head]

    @property
    def most(self) -> int:
        """How many elements a valid body has at most."""
        size = parameters(self.tensors)
        if self.codec.mode in (CodecMode.DENSE_INT8, CodecMode.EXACT):
            return size
        return max(1, round(self.codec.density * size))


def draw(rng: np.random.Generator, tensors: tuple[TensorSpec, ...]) -> np.ndarray:
    """Return a delta with tails, classes that differ, ties or gaps."""
    size, columns = parameters(tensors), tensors[-1].shape[-1] if tensors[-1].shape else 1
    values = rng.standard_t(3, size=size)
    kind = rng.integers(5)
    if kind == 1:
        values *= np.resize(10.0 ** rng.integers(-3, 1, columns), size)
    elif kind == 2:
        values = np.round(values)
    elif kind == 3:
        values = np.ldexp(values, rng.integers(-140, 110))
    elif kind == 4:
        values = np.abs(values) * (rng.random(size) < rng.random())
    return values.astype(np.float32)


def valid(rng: np.random.Generator, head: str) -> Case:
    """Return a body as an encoder writes it."""
    tensors = HEADS[head]
    modes = [mode for mode in CodecMode if mode is not CodecMode.EXACT or head == "statistics"]
    mode = modes[rng.integers(len(modes))]
    codec = Codec(mode=mode, density=float(rng.choice(DENSITIES)), bits=int(rng.integers(2, 9)))
    vector = draw(rng, tensors)
    if mode is CodecMode.EXACT:
        samples = rng.standard_normal((20, 5))
        statistics = (samples.mean(0), (samples**2).mean(0))
        vector = np.concatenate((np.zeros(15), *statistics)).astype(np.float32)
    return Case(head=head, codec=codec, body=encode(vector, tensors, codec).body)


def junk(rng: np.random.Generator, head: str) -> Case:
    """Return random bytes, or one byte many times, under the first bits of the plan's mode."""
    mode = list(CodecMode)[rng.integers(len(CodecMode))]
    codec = Codec(mode=mode, density=float(rng.choice(DENSITIES)), bits=int(rng.integers(2, 9)))
    size = int(2 ** (rng.random() * 13))
    data = bytearray(rng.bytes(size) if rng.random() < 0.7 else rng.bytes(1) * size)
    sparse = mode not in (CodecMode.DENSE_INT8, CodecMode.EXACT)
    data[0] = mode << 5 | data[0] & 31 if sparse else mode
    if sparse and rng.random() < 0.5:
        data[0] |= 16  # as many values as the plan allows
    return Case(head=head, codec=codec, body=bytes(data))


def changed(rng: np.random.Generator, case: Case, other: bytes) -> Case:
    """Flip, cut, insert, repeat or splice in a valid body."""
    data = bytearray(case.body)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) + 1))
        kind = rng.integers(8)
        if kind < 3 and data:  # anywhere, in the counts, in what stands for the values
            low, high = [(0, 8 * len(data)), (0, 32), (8 * len(data) - 48, 8 * len(data))][kind]
            for bit in rng.integers(max(0, low), min(high, 8 * len(data)), rng.integers(1, 9)).tolist():
                data[bit // 8] ^= 0x80 >> bit % 8
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 5:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 6:
            data[at:] = other[min(at, len(other)) :]
        else:  # a bit more, so all behind it is read as something else
            number = int.from_bytes(data[at:], "big") >> 1
            data[at:] = number.to_bytes(len(data) - at, "big")
    return Case(head=case.head, codec=case.codec, body=bytes(data))


def strangers(seed: int, heads: tuple[str, ...]) -> Iterator[Case]:
    """Yield bodies without end."""
    rng = np.random.default_rng(seed)
    while True:
        head = heads[rng.integers(len(heads))]
        yield junk(rng, head)
        first, second = valid(rng, head), valid(rng, head)
        yield first
        for _ in range(12):
            yield changed(rng, first, second.body)
