"""Bodies of what nodes and their device say: values <-> CBOR (docs/wire-format.md, section 14).  Pure.

    message = keys.up.seal(topic, encode_sample(sample))
    sample = decode_sample(keys.up.open(topic, message, limits.MAX_NODE_SAMPLE_BYTES))

Each decoder returns the whole value or raises WireError; what is encoded is not checked again.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import mul
from typing import Final

from fedclient import limits
from fedclient.errors import WireError
from fedclient.wire import cbor, fields

NONCE_BYTES: Final = 8
Label = int | str | None

_SHORT_ARRAY: Final = 0x80  # head of an array of up to 23 elements
_OPENING_BYTES: Final = 1 + NONCE_BYTES + 9  # a nonce, and a counter at its longest

_TAGS: Final = {"int8": cbor.TAG_INT8, "int16": cbor.TAG_INT16_LE, "float32": cbor.TAG_FLOAT32_LE}
_DTYPES: Final = {tag: dtype for dtype, tag in _TAGS.items()}
_CODES: Final = {"int8": "b", "int16": "h", "float32": "f"}
_SAFE_SCALE: Final = 2.0**112  # no int16 times this is beyond float32
_SIZES: Final = {"int8": 1, "int16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSample:
    """One reading.  Integers have a scale, float32 has none."""

    nonce: bytes
    counter: int
    dtype: str
    data: bytes  # little-endian
    scale: float | None
    label: Label = None

    def raw(self) -> tuple[int, ...] | tuple[float, ...]:
        """Return the numbers as sent."""
        return _numbers(self.dtype, self.data)

    def values(self) -> array[float]:
        """Return what they stand for, as float32."""
        return array("f", self.raw() if self.scale is None else map(mul, self.raw(), repeat(self.scale)))


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLabel:
    """The label of a sample that was sent before, or will be."""

    nonce: bytes
    counter: int
    of: int
    label: Label


@dataclass(frozen=True, slots=True)
class Ask:
    """Where does counting stand?"""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """A body that says nothing but whose message this is: enough to settle it."""

    nonce: bytes
    counter: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """What is settled: all below `next`, the ranges (first, count), and what is gone."""

    nonce: bytes
    next: int
    ranges: tuple[tuple[int, int], ...] = ()
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLayer:
    """One dense layer in int8: a scale and a bias for each row."""

    relu: bool
    weights: bytes
    scales: bytes
    bias: bytes

    @property
    def rows(self) -> int:
        return len(self.scales) // 4

    @property
    def columns(self) -> int:
        return len(self.weights) // self.rows


@dataclass(frozen=True, order=True, slots=True)
class NodeHeadVersion:
    """Orders heads of a node: the federation's head, then the tuning of the node's own."""

    generation: int
    version: int
    revision: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeHead:
    """What a node predicts with."""

    version: NodeHeadVersion
    layers: tuple[NodeLayer, ...]
    labels: tuple[str, ...] = ()


def encode_sample(sample: NodeSample) -> bytes:
    """Write the body."""
    scale = None if sample.scale is None else _float(sample.scale)
    values = cbor.Tagged(_TAGS[sample.dtype], sample.data)
    return cbor.encode([sample.nonce, sample.counter, values, scale, sample.label])


def decode_sample(body: bytes) -> NodeSample:
    """Read a body; raises WireError."""
    nonce, counter, values, scale, label = _array(body, limits.MAX_NODE_SAMPLE_BYTES, "a sample", 5)
    dtype, data = _values(values)
    sample = NodeSample(
        nonce=_nonce(nonce),
        counter=_counter(counter, "counter"),
        dtype=dtype,
        data=data,
        scale=_scale(scale, dtype),
        label=_label(label),
    )
    if not _fits_float32(sample):
        raise WireError("a sample holds NaN, an infinity or a value beyond float32")
    return sample


def encode_label(label: NodeLabel | Ask) -> bytes:
    """Write the body."""
    if isinstance(label, Ask):
        return cbor.encode([label.nonce, 0, 0, None])
    return cbor.encode([label.nonce, label.counter, label.of, label.label])


def decode_label(body: bytes) -> NodeLabel | Ask:
    """Read a body; raises WireError."""
    nonce, counter, of, label = _array(body, limits.MAX_NODE_LABEL_BYTES, "a label", 4)
    if (counter, of, label) == (0, 0, None) and type(counter) is type(of) is int:
        return Ask(_nonce(nonce))
    found = NodeLabel(
        nonce=_nonce(nonce),
        counter=_counter(counter, "counter"),
        of=_counter(of, "the sample's counter"),
        label=_label(label),
    )
    if found.of >= found.counter:
        raise WireError(f"label {found.counter} is of sample {found.of}, which is not before it")
    return found


def decode_malformed(body: bytes) -> Malformed:
    """Read how a body begins that is no sample and no label; raises WireError where that is malformed too."""
    if not body or not _SHORT_ARRAY <= body[0] <= _SHORT_ARRAY + 23:
        raise WireError("a body is no short array")
    (nonce, counter), _ = cbor.decode_sequence(body[1:], 2, max_bytes=_OPENING_BYTES)
    return Malformed(_nonce(nonce), _counter(counter, "counter"))


def encode_ack(ack: Ack) -> bytes:
    """Write the body."""
    return cbor.encode([ack.nonce, ack.next, [list(one) for one in ack.ranges], list(ack.gone)])


def decode_ack(body: bytes) -> Ack:
    """Read a body; raises WireError."""
    nonce, following, ranges, gone = _array(body, limits.MAX_NODE_ACK_BYTES, "an ack", 4)
    top = fields.integer(following, "next", 1, limits.MAX_NODE_COUNTER + 1)
    ack = Ack(
        nonce=_nonce(nonce),
        next=top,
        ranges=tuple(_range(one) for one in fields.array(ranges, "ranges", max_size=limits.MAX_ACK_RANGES)),
        gone=tuple(_counter(one, "gone") for one in fields.array(gone, "gone", max_size=limits.MAX_ACK_GONE)),
    )
    for first, count in ack.ranges:
        if first <= top:
            raise WireError(f"range {first} does not leave a gap to what is before it")
        top = first + count
    if list(ack.gone) != sorted(set(ack.gone)):
        raise WireError("the counters that are gone do not ascend")
    return ack


def encode_head(head: NodeHead) -> bytes:
    """Write the body."""
    version = [head.version.generation, head.version.version, head.version.revision]
    layers = [
        [int(one.relu), cbor.Tagged(cbor.TAG_INT8, one.weights), one.scales, one.bias] for one in head.layers
    ]
    return cbor.encode([version, layers, list(head.labels)])


def decode_head(body: bytes) -> NodeHead:
    """Read a body; raises WireError."""
    version, layers, labels = _array(body, limits.MAX_NODE_HEAD_BYTES, "a head", 3)
    numbers = (
        fields.integer(one, "version", 0, limits.MAX_NODE_COUNTER)
        for one in fields.array(version, "version", 3)
    )
    head = NodeHead(
        version=NodeHeadVersion(*numbers),
        layers=tuple(_layer(one) for one in fields.array(layers, "layers", max_size=limits.MAX_NODE_LAYERS)),
        labels=tuple(_word(one) for one in fields.array(labels, "labels", max_size=limits.MAX_LABELS)),
    )
    if not head.layers:
        raise WireError("a head has no layers")
    for before, after in zip(head.layers, head.layers[1:], strict=False):
        if before.rows != after.columns:
            raise WireError(f"a layer takes {after.columns} values, the one before has {before.rows} rows")
    if len(head.labels) not in {0, head.layers[-1].rows}:
        raise WireError(f"a head has {len(head.labels)} labels for {head.layers[-1].rows} outputs")
    return head


# --- parts ------------------------------------------------------------------------------------------
def _array(body: bytes, max_bytes: int, name: str, size: int) -> list[object]:
    return fields.array(cbor.decode(body, max_bytes=max_bytes), name, size)


def _nonce(value: object) -> bytes:
    return fields.octets(value, "nonce", NONCE_BYTES)


def _counter(value: object, name: str) -> int:
    return fields.integer(value, name, 1, limits.MAX_NODE_COUNTER)


def _label(value: object) -> Label:
    if value is None:
        return None
    if isinstance(value, str):
        return _word(value)
    return fields.integer(value, "label", 0, limits.MAX_NODE_COUNTER)


def _word(value: object) -> str:
    word = fields.text(value, "label", limits.MAX_LABEL_BYTES)
    if not word.isprintable():
        raise WireError("a label does not print in one line")
    return word


def _values(value: object) -> tuple[str, bytes]:
    tagged = fields.typed(value, cbor.Tagged, "values")
    if tagged.tag not in _DTYPES:
        raise WireError(f"values have the tag {tagged.tag}, which is no array of numbers")
    dtype, data = _DTYPES[tagged.tag], fields.typed(tagged.value, bytes, "values")
    if not data or len(data) % _SIZES[dtype]:
        raise WireError(f"values have {len(data)} bytes, which is no number of {dtype}")
    return dtype, data


def _scale(value: object, dtype: str) -> float | None:
    if dtype == "float32":
        if value is not None:
            raise WireError("float32 values have a scale")
        return None
    (scale,) = _numbers("float32", fields.octets(value, "scale", 4))
    if not (math.isfinite(scale) and scale > 0):
        raise WireError(f"scale is {scale}, which is not above 0 and finite")
    return scale


def _fits_float32(sample: NodeSample) -> bool:
    """Whether no value is NaN, infinite or beyond float32; few samples have to be looked through for that."""
    if sample.scale is not None and sample.scale <= _SAFE_SCALE:
        return True
    return math.isfinite(sum(sample.values()))  # no sum of so few float32 overflows


def _range(value: object) -> tuple[int, int]:
    first, count = fields.array(value, "range", 2)
    return _counter(first, "first"), fields.integer(count, "count", 1, limits.NODE_WINDOW)


def _layer(value: object) -> NodeLayer:
    activation, weights, scales, bias = fields.array(value, "layer", 4)
    dtype, data = _values(weights)
    layer = NodeLayer(
        relu=fields.integer(activation, "activation", 0, 1) == 1,
        weights=data,
        scales=fields.typed(scales, bytes, "scales"),
        bias=fields.typed(bias, bytes, "bias"),
    )
    size = len(layer.scales)
    if dtype != "int8" or not size or size % 4 or size // 4 > limits.MAX_NODE_ROWS:
        raise WireError(f"a layer has {dtype} weights and {size} bytes of scales")
    if len(layer.bias) != size or len(data) % layer.rows:
        raise WireError(
            f"a layer of {layer.rows} rows has {len(data)} weights, {len(layer.bias)} bytes of bias"
        )
    if not all(map(math.isfinite, _numbers("float32", layer.scales + layer.bias))):
        raise WireError("a layer has a scale or a bias that is not finite")
    return layer


def _float(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        raise WireError(f"scale {value} is beyond float32") from None


def _numbers(dtype: str, data: bytes) -> tuple[int, ...] | tuple[float, ...]:
    numbers: Sequence[float] = struct.unpack(f"<{len(data) // _SIZES[dtype]}{_CODES[dtype]}", data)
    return tuple(numbers)
