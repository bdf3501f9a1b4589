"""The messages of tests/vectors/nodes.json: fixed values under a fixed secret, and what must be refused.

Run as a program it prints the vectors anew; they change only with the wire format.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from fedclient.nodes import head as heads
from fedclient.nodes.keys import derive
from fedclient.nodes.messages import (
    Ack,
    Ask,
    NodeHead,
    NodeHeadVersion,
    NodeLabel,
    NodeLayer,
    NodeSample,
    encode_ack,
    encode_head,
    encode_label,
    encode_sample,
)
from fedclient.wire.cbor import Tagged, encode
from fedclient.wire.topics import NodeTopics

FEDERATION, NODE, GENERATION = "local", "shed-1", 3
SECRET = bytes(range(32))
NONCE = bytes.fromhex("0102030405060708")
TOPICS = NodeTopics(FEDERATION)
KEYS = derive(SECRET, GENERATION)
MOST = 2**53


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def sample(counter: int, dtype: str, data: bytes, scale: float | None, label: Any = None) -> NodeSample:
    return NodeSample(nonce=NONCE, counter=counter, dtype=dtype, data=data, scale=scale, label=label)


SAMPLES = {
    "int8": sample(1, "int8", bytes([0, 1, 127, 128, 255]), 0.5, 3),
    "int16": sample(256, "int16", struct.pack("<3h", -32768, 0, 32767), 0.0009765625, "walking"),
    "float32": sample(65536, "float32", floats(-1.5, 0.0, 3.25), None),
    "largest counter": sample(MOST, "int8", b"\x07", 1.0, MOST),
    "64 features": sample(1048577, "int8", bytes(range(64)), 0.0625, 0),
    "label in UTF-8": sample(23, "int8", b"\x01", 1.0, "gr\u00fcn"),
}
LABELS = {
    "number": NodeLabel(nonce=NONCE, counter=24, of=23, label=9),
    "word": NodeLabel(nonce=NONCE, counter=4294967296, of=65536, label="sitting"),
    "taken back": NodeLabel(nonce=NONCE, counter=258, of=1, label=None),
    "ask": Ask(NONCE),
}
ACKS = {
    "nothing yet": Ack(nonce=NONCE, next=1),
    "ranges": Ack(nonce=NONCE, next=257, ranges=((259, 1), (300, 724))),
    "gone": Ack(nonce=NONCE, next=4000, gone=(3998, 3999)),
    "all counters": Ack(nonce=NONCE, next=MOST + 1),
    "most": Ack(
        nonce=NONCE,
        next=MOST - 1000,
        ranges=tuple((MOST - 998 + 2 * one, 1) for one in range(64)),
        gone=tuple(MOST - 2000 + one for one in range(64)),
    ),
}
ONE = NodeLayer(
    relu=False, weights=bytes([1, 2, 3, 255, 254, 253]), scales=floats(0.5, 0.25), bias=floats(0.0, -1.0)
)
TWO = (
    NodeLayer(
        relu=True,
        weights=bytes((37 * one + 11) % 255 - 127 & 0xFF for one in range(64 * 4)),
        scales=floats(0.01, 0.02, 0.0078125, 0.003),
        bias=floats(0.1, -0.2, 0.0, 1.5),
    ),
    NodeLayer(
        relu=False,
        weights=bytes((91 * one + 5) % 255 - 127 & 0xFF for one in range(4 * 3)),
        scales=floats(0.011, 0.012, 0.013),
        bias=floats(0.0, 0.5, -0.5),
    ),
)
HEADS = {
    "one layer": NodeHead(version=NodeHeadVersion(1, 2), layers=(ONE,)),
    "two layers": NodeHead(version=NodeHeadVersion(2, 300, 5), layers=TWO, labels=("a", "b", "c")),
}
X = [(7 * one) % 33 - 16 for one in range(66)]
INPUTS = {
    "one layer": [
        sample(1, "int8", struct.pack("3b", 10, -20, 30), 0.5),
        sample(1, "int8", bytes(3), 1.0),
        sample(1, "int8", struct.pack("3b", -128, 127, -1), 0.0009765625),
        sample(1, "int16", struct.pack("<3h", -32768, 32767, -1), 2.0**-149),  # a subnormal scale
        sample(1, "int16", struct.pack("<3h", -32768, 32767, -1), 1e30),  # outputs beyond 64 bits
        sample(1, "float32", floats(1.5, -0.1, 1e-7), None),
        sample(1, "float32", floats(3e38, -3e38, 1.0), None),
        sample(1, "float32", floats(2.0**-149, -(2.0**-126), 0.0), None),
        sample(1, "float32", floats(0.0, -0.0, 0.0), None),
    ],
    "two layers": [
        *(sample(1, "int8", struct.pack("64b", *X[one : one + 64]), 0.0625) for one in range(3)),
        sample(1, "int16", struct.pack("<64h", *(999 * one for one in X[:64])), 0.0000625),
        sample(1, "float32", floats(*(one / 16.5 for one in X[:64])), None),
    ],
}
V = Tagged(72, b"\x01")
S = floats(1.0)
NAN, INFINITE = floats(float("nan")), floats(float("inf"))
ROW = [0, Tagged(72, b"\x01\x02"), S, S]
BAD: dict[str, dict[str, Any]] = {
    "sample": {
        "counter 0": [NONCE, 0, V, S, None],
        "counter beyond 2^53": [NONCE, MOST + 1, V, S, None],
        "negative counter": [NONCE, -1, V, S, None],
        "short nonce": [NONCE[:7], 1, V, S, None],
        "nonce as text": ["12345678", 1, V, S, None],
        "no values": [NONCE, 1, Tagged(72, b""), S, None],
        "half a value": [NONCE, 1, Tagged(77, b"\x01\x02\x03"), S, None],
        "another tag": [NONCE, 1, Tagged(18, b"\x01"), S, None],
        "values without a tag": [NONCE, 1, b"\x01", S, None],
        "a list of numbers": [NONCE, 1, [1, 2], S, None],
        "no scale": [NONCE, 1, V, None, None],
        "scale of float32": [NONCE, 1, Tagged(85, S), S, None],
        "scale 0": [NONCE, 1, V, floats(0.0), None],
        "negative scale": [NONCE, 1, V, floats(-1.0), None],
        "scale NaN": [NONCE, 1, V, NAN, None],
        "scale of 8 bytes": [NONCE, 1, V, S + S, None],
        "value NaN": [NONCE, 1, Tagged(85, NAN), None, None],
        "value infinite": [NONCE, 1, Tagged(85, INFINITE), None, None],
        "value beyond float32": [NONCE, 1, Tagged(77, b"\xff\x7f"), floats(1e38), None],
        "empty label": [NONCE, 1, V, S, ""],
        "long label": [NONCE, 1, V, S, "x" * 65],
        "label of two lines": [NONCE, 1, V, S, "a\nb"],
        "negative label": [NONCE, 1, V, S, -1],
        "label true": [NONCE, 1, V, S, True],
        "label as bytes": [NONCE, 1, V, S, b"a"],
        "an element less": [NONCE, 1, V, S],
        "an element more": [NONCE, 1, V, S, None, None],
        "a map": {1: NONCE},
    },
    "label": {
        "of itself": [NONCE, 2, 2, 1],
        "of a later one": [NONCE, 2, 3, 1],
        "of 0": [NONCE, 2, 0, 1],
        "counter 0": [NONCE, 0, 1, 1],
        "ask with a label": [NONCE, 0, 0, 1],
        "long label": [NONCE, 2, 1, "x" * 65],
        "a float": [NONCE, 2, 1, 1.5],
        "an element more": [NONCE, 2, 1, 1, None],
    },
    "ack": {
        "next 0": [NONCE, 0, [], []],
        "range at next": [NONCE, 5, [[5, 1]], []],
        "range below next": [NONCE, 5, [[4, 1]], []],
        "ranges that touch": [NONCE, 5, [[7, 2], [9, 1]], []],
        "ranges out of order": [NONCE, 5, [[20, 1], [10, 1]], []],
        "empty range": [NONCE, 5, [[7, 0]], []],
        "long range": [NONCE, 5, [[7, 1025]], []],
        "65 ranges": [NONCE, 5, [[7 + 2 * one, 1] for one in range(65)], []],
        "65 gone": [NONCE, 100, [], list(range(1, 66))],
        "gone twice": [NONCE, 100, [], [7, 7]],
        "gone out of order": [NONCE, 100, [], [8, 7]],
        "gone 0": [NONCE, 100, [], [0]],
        "no gone": [NONCE, 5, []],
        "short nonce": [NONCE[:7], 5, [], []],
    },
    "head": {
        "no layers": [[1, 1, 0], [], []],
        "nine layers": [[1, 1, 0], [[0, V, S, S]] * 9, []],
        "version of two": [[1, 1], [ROW], []],
        "version beyond 2^53": [[MOST + 1, 1, 0], [ROW], []],
        "activation 2": [[1, 1, 0], [[2, *ROW[1:]]], []],
        "int16 weights": [[1, 1, 0], [[0, Tagged(77, b"\x01\x02"), S, S]], []],
        "no rows": [[1, 1, 0], [[0, V, b"", b""]], []],
        "half a scale": [[1, 1, 0], [[0, V, S[:3], S[:3]]], []],
        "bias of another length": [[1, 1, 0], [[0, V, S, S + S]], []],
        "weights that do not divide": [[1, 1, 0], [[0, Tagged(72, b"\x01\x02\x03"), S + S, S + S]], []],
        "layers that do not fit": [[1, 1, 0], [ROW, ROW], []],
        "scale NaN": [[1, 1, 0], [[0, V, NAN, S]], []],
        "bias infinite": [[1, 1, 0], [[0, V, S, INFINITE]], []],
        "a label too many": [[1, 1, 0], [ROW], ["a", "b"]],
        "empty label": [[1, 1, 0], [ROW], [""]],
        "number as label": [[1, 1, 0], [ROW], [7]],
    },
}
# Bodies that are no deterministic CBOR of ours: as hex, `N` is the nonce.
N = "48" + NONCE.hex()
RAW = {
    "sample": {
        "empty array": "80",
        "long head of the counter": f"85{N}1801d8484101440000803ff6",
        "long array head": f"9805{N}01d8484101440000803ff6",
        "long tag head": f"85{N}01d900484101440000803ff6",
        "indefinite array": f"9f{N}01d8484101440000803ff6ff",
        "indefinite string": f"85{N}01d8485f4101ff440000803ff6",
        "a byte more": f"85{N}01d8484101440000803ff600",
        "a byte less": f"85{N}01d8484101440000803f",
        "claims 4 GB": f"85{N}01d8485affffffff01",
        "claims 2^64-1": f"85{N}01d8485bffffffffffffffff01",
        "undefined": f"85{N}01d8484101440000803ff7",
        "label not UTF-8": f"85{N}01d8484101440000803f61ff",
        "nested arrays": "81" * 40,
        "reserved head": f"85{N}1cd8484101440000803ff6",
    },
    "ack": {
        "claims 2^32 ranges": f"84{N}059affffffff",
        "a byte more": f"84{N}05808000",
        "a byte less": f"84{N}0580",
        "long head of next": f"84{N}18058080",
    },
    "head": {
        "claims 4 GB of weights": "8383010100818400d8485affffffff01",
        "nested arrays": "81" * 40,
        "a byte less": "838301010081",
    },
}
# What a node says and the device cannot settle: not even nonce and counter stand where they belong.
UNSETTLED = {
    "sample": {
        "counter 0",
        "counter beyond 2^53",
        "negative counter",
        "short nonce",
        "nonce as text",
        "a map",
        "empty array",
        "long head of the counter",
        "long array head",
        "indefinite array",
        "nested arrays",
        "reserved head",
    },
    "label": {"counter 0", "ask with a label"},
}
TOPIC_OF = {kind: getattr(TOPICS, kind)(NODE) for kind in ("sample", "label", "ack", "head")}


def seal(kind: str, body: bytes) -> bytes:
    return (KEYS.up if kind in {"sample", "label"} else KEYS.down).seal(TOPIC_OF[kind], body)


def _good(kind: str, name: str, body: bytes, **known: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, **known, "body": body.hex(), "message": seal(kind, body).hex()}


def _good_messages() -> list[dict[str, Any]]:
    found = []
    for name, one in SAMPLES.items():
        scale = None if one.scale is None else floats(one.scale).hex()
        known = {"counter": one.counter, "dtype": one.dtype, "data": one.data.hex(), "scale": scale}
        found.append(_good("sample", name, encode_sample(one), **known, label=one.label))
    for name, one in LABELS.items():
        known = {} if isinstance(one, Ask) else {"counter": one.counter, "of": one.of, "label": one.label}
        found.append(_good("label", name, encode_label(one), **known))
    for name, one in ACKS.items():
        found.append(_good("ack", name, encode_ack(one), next=one.next, ranges=one.ranges, gone=one.gone))
    for name, one in HEADS.items():
        version = [one.version.generation, one.version.version, one.version.revision]
        tries = [
            {
                "dtype": x.dtype,
                "data": x.data.hex(),
                "scale": None if x.scale is None else floats(x.scale).hex(),
                "outputs": [str(output) for output in heads.outputs(one, x)],  # JSON's readers stop at 2^53
                "class": heads.predict(one, x),
            }
            for x in INPUTS[name]
        ]
        known = {"version": version, "labels": one.labels, "rows": one.layers[-1].rows, "predictions": tries}
        found.append(_good("head", name, encode_head(one), **known))
    return found


def _bad_messages() -> list[dict[str, Any]]:
    """What has a right tag, and a body to refuse; `settles` is the counter that is taken all the same."""
    written = [(kind, name, encode(value)) for kind, group in BAD.items() for name, value in group.items()]
    written += [
        (kind, name, bytes.fromhex(hex_)) for kind, group in RAW.items() for name, hex_ in group.items()
    ]
    found = []
    for kind, name, body in written:
        one = {"kind": kind, "name": name, "message": seal(kind, body).hex()}
        if kind in UNSETTLED:
            one["settles"] = None if name in UNSETTLED[kind] else {"sample": 1, "label": 2}[kind]
        found.append(one)
    return found


def _forged() -> list[dict[str, Any]]:
    """Sound bodies whose tag is not right for this topic, direction, generation or secret."""
    found = []
    for kind, body in (("sample", encode_sample(SAMPLES["int8"])), ("ack", encode_ack(ACKS["ranges"]))):
        topic, up = TOPIC_OF[kind], kind == "sample"

        def key(secret: bytes = SECRET, generation: int = GENERATION, *, up: bool = up) -> Any:
            keys = derive(secret, generation)
            return keys.up if up else keys.down

        right = key().seal(topic, body)
        named = {
            "another topic": key().seal(topic.replace(NODE, "shed-2"), body),
            "another federation": key().seal(topic.replace("local", "farm"), body),
            "the other direction": key(up=not up).seal(topic, body),
            "the generation before": key(generation=GENERATION - 1).seal(topic, body),
            "another secret": key(secret=bytes(32)).seal(topic, body),
            "last bit of the tag": right[:-1] + bytes([right[-1] ^ 1]),
            "first bit of the body": bytes([right[0] ^ 1]) + right[1:],
            "a byte cut off": right[:-1],
            "tag alone": right[-16:],
            "nothing": b"",
        }
        found += [{"kind": kind, "name": name, "message": message.hex()} for name, message in named.items()]
    return found


def vectors() -> dict[str, Any]:
    return {
        "about": [
            "Messages of nodes and their device, byte for byte; docs/wire-format.md, section 14.",
            "good: decodes to these fields and back to these bytes.  bad: a right tag, a body to refuse;",
            "settles: the counter that the device takes and answers as gone, null where none can be read.",
            "forged: the tag is refused.  outputs: of the last layer, in units of 2^-16.",
        ],
        "federation": FEDERATION,
        "node": NODE,
        "generation": GENERATION,
        "secret": SECRET.hex(),
        "nonce": NONCE.hex(),
        "topics": TOPIC_OF,
        "keys": {"up": KEYS.up._key.hex(), "down": KEYS.down._key.hex()},
        "hmac": [
            {"key": (b"\x0b" * 20).hex(), "data": b"Hi There".hex(), "mac": RFC4231[0]},
            {"key": (b"\xaa" * 131).hex(), "data": LONG_KEY_DATA.hex(), "mac": RFC4231[1]},
        ],
        "good": _good_messages(),
        "bad": _bad_messages(),
        "forged": _forged(),
    }


LONG_KEY_DATA = b"Test Using Larger Than Block-Size Key - Hash Key First"
RFC4231 = (  # test cases 1 and 6
    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
)

if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
