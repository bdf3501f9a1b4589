"""Time and size of the codec: prints one JSON object.  Run with the project's Python from any folder.

times      packing and unpacking, best of several, and the bytes of every stage
bound      bytes over log2 C(n,k)/8 + k H(q)/8, of i.i.d. deltas; q: the signed levels that came out
skewed     the same where each class has its own log2 C, of a device that holds few classes
real       both for deltas of real federations (`deltas.py`), several rounds and devices taken together
wire       the MQTT message at 1 %, signs: of 12,810 parameters over many seeds, of 1,000,000 over a few;
           `limit` is that of the same message with a body at the bound: no code of independent places and
           signs is below it on average

`worst` are the largest ratios of `bound` and `skewed`.  With --times only the first is measured.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedclient.codec import Decoded, decode, encode
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.transport.base import publish_wire_bytes
from fedclient.uplink import DeviceUplink
from fedclient.values import (
    PLAN_CODECS,
    Base,
    Codec,
    CodecMode,
    HeadVersion,
    MessageType,
    TensorSpec,
    Update,
    parameters,
)
from fedclient.wire.topics import Topics

DENSITY = 0.01
DENSITIES = (0.001, 0.01, 0.1)
SEEDS, LARGE_SEEDS = 200, 5


def head(features: int, classes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="bias", shape=(classes,)), TensorSpec(name="kernel", shape=(features, classes)))


HEADS = {"12810": head(1280, 10), "1000000": head(999, 1000)}
# Classes, and how many of them the device holds; the others change `OTHERS` as much.
SKEWED = {
    "12810 of 10": (HEADS["12810"], 2),
    "1M of 10": (head(99_999, 10), 3),
    "1M of 100": (head(9_999, 100), 20),
    "1M of 1000": (HEADS["1000000"], 100),
}
OTHERS = 0.1
VALUES = {"8 bit": Codec(), "4 bit": Codec(bits=4), "sign": Codec(mode=CodecMode.TOPK_SIGN)}


def best_us(action: Callable[[], object]) -> float:
    """Least microseconds of a call: what it costs when nothing else runs."""
    timer = timeit.Timer(action)
    number = max(1, int(0.005 / timer.timeit(1)))
    return round(min(timer.repeat(repeat=25, number=number)) / number * 1e6, 1)


def times(tensors: tuple[TensorSpec, ...], mode: CodecMode) -> dict[str, Any]:
    vector = np.random.default_rng(1).standard_normal(parameters(tensors)).astype(np.float32)
    codec = Codec(mode=mode, density=DENSITY)
    encoded = encode(vector, tensors, codec)
    decoded = decode(encoded.body, tensors, codec)
    total = np.zeros(vector.size)
    post = Post()
    return {
        "pack_us": best_us(lambda: encode(vector, tensors, codec)),
        "pack_and_seal_us": best_us(lambda: post.envelope(encode(vector, tensors, codec).body)),
        "decode_us": best_us(lambda: decode(encoded.body, tensors, codec)),
        "add_us": best_us(lambda: decoded.add_to(total, 0.5)),
        "decode_and_add_us": best_us(lambda: decode(encoded.body, tensors, codec).add_to(total, 0.5)),
        "bytes": {
            "fp32": vector.nbytes,
            "sparsified": encoded.sparsified_bytes,
            "quantized": encoded.quantized_bytes,
            "encoded": len(encoded.body),
        },
    }


class Post:
    """Signs and seals, to know what travels."""

    def __init__(self) -> None:
        key = SigningKey.generate()
        self._topic = Topics("demo").up(key.device_id, MessageType.UPDATE)
        self._uplink = DeviceUplink(
            federation="demo", key=key, gateway_sealing_key=SealingKey.generate().public
        )

    def envelope(self, body: bytes) -> bytes:
        version = HeadVersion(1, 1)
        update = Update(counter=1, head_version=version, bucket=7, accuracy_percent=None, body=body)
        return self._uplink.update(
            update, Base(head_version=version, head_hash=bytes(32), plan_hash=bytes(32))
        )

    def wire_bytes(self, body: bytes) -> int:
        """Size of the PUBLISH of QoS 1 that carries `body`."""
        return publish_wire_bytes(self._topic, len(self.envelope(body)), qos=1)


def binomial_bits(size: int, count: int) -> float:
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def value_bits(decoded: Decoded) -> float:
    """Return k H(q): the empirical entropy of signed levels."""
    shares = np.unique(decoded.values, return_counts=True)[1] / decoded.values.size
    return float(-(shares * np.log2(shares)).sum() * decoded.values.size)


def compared(
    vectors: list[NDArray[np.float32]], tensors: tuple[TensorSpec, ...], codec: Codec
) -> dict[str, Any]:
    """Encode each, and compare all together with the bound of one class and with that of each by itself."""
    sizes, whole, by_class, values, lost, sent = [], 0.0, 0.0, 0.0, 0.0, 0.0
    for vector in vectors:
        body = encode(vector, tensors, codec).body
        decoded = decode(body, tensors, codec)
        assert decoded.indices is not None
        sizes.append(len(body))
        values += value_bits(decoded)
        whole += binomial_bits(vector.size, decoded.indices.size)
        by_class += class_bits(decoded.indices, tensors)
        exact = vector[decoded.indices].astype(np.float64)
        lost += float(np.square(exact - decoded.values).sum())
        sent += float(np.square(exact).sum())
    return {
        "bytes": round(statistics.mean(sizes)),
        "bound_bytes": round((whole + values) / 8 / len(vectors), 1),
        "over_bound": round(sum(sizes) * 8 / (whole + values), 4),
        "over_class_bound": round(sum(sizes) * 8 / (by_class + values), 4),
        "positions_by_class": round(by_class / whole, 3),
        "nmse": float(f"{lost / sent:.2e}"),
    }


def class_bits(indices: NDArray[np.int64], tensors: tuple[TensorSpec, ...]) -> float:
    """Return the sum of log2 C of each class, of which the first tensor has one element each."""
    of = class_of(tensors)
    sizes, held = np.bincount(of), np.bincount(of[indices], minlength=tensors[0].size)
    return sum(itertools.starmap(binomial_bits, zip(sizes.tolist(), held.tolist(), strict=True)))


@lru_cache(maxsize=1)
def class_of(tensors: tuple[TensorSpec, ...]) -> NDArray[np.int64]:
    """Return the class of each element of a flat head: the first axis of a tensor has them, or the last."""
    classes = tensors[0].size
    return np.concatenate(
        [
            np.arange(tensor.size) // (tensor.size // classes)
            if tensor.shape[0] == classes
            else np.arange(tensor.size) % classes
            for tensor in tensors
        ]
    )


def bounds() -> dict[str, Any]:
    tensors, rng = HEADS["1000000"], np.random.default_rng(5)
    deltas = {"laplace": rng.laplace(size=1_000_000), "student_t3": rng.standard_t(3, size=1_000_000)}
    return {
        f"{name}, {density:.1%}, {values}": compared(
            [delta.astype(np.float32)], tensors, replace(codec, density=density)
        )
        for name, delta in deltas.items()
        for density in DENSITIES
        for values, codec in VALUES.items()
    }


def skewed_delta(tensors: tuple[TensorSpec, ...], held: int, seed: int) -> NDArray[np.float32]:
    """Make a delta of a device that holds the first `held` classes, in a random order of classes."""
    rng, classes = np.random.default_rng(seed), tensors[0].size
    scale = rng.permutation(np.where(np.arange(classes) < held, 1.0, OTHERS))
    return (rng.laplace(size=(parameters(tensors) // classes, classes)) * scale).ravel().astype(np.float32)


def skewed() -> dict[str, Any]:
    return {
        f"{name}, {held} held, {values}": compared([skewed_delta(tensors, held, 1)], tensors, codec)
        for name, (tensors, held) in SKEWED.items()
        for values, codec in VALUES.items()
    }


def real() -> dict[str, Any]:
    from deltas import real as federations  # noqa: PLC0415 - a quarter of a minute, and for this only

    found: dict[str, Any] = {}
    for name, deltas in federations():
        taken = [vector for vectors in deltas.by_round.values() for vector in vectors]
        found[name] = {
            "parameters": parameters(deltas.tensors),
            "deltas": len(taken),
            **{
                f"{density:.0%}, {values}": compared(taken, deltas.tensors, replace(codec, density=density))
                for density in DENSITIES[1:]
                for values, codec in VALUES.items()
            },
            "1%, sign, by round": {
                number: compared(vectors, deltas.tensors, VALUES["sign"])["over_class_bound"]
                for number, vectors in deltas.by_round.items()
            },
        }
    return found


def wire() -> dict[str, Any]:
    post = Post()
    without = post.wire_bytes(bytes(150)) - 150
    return {
        "without_body": without,
        "12810": _wire(HEADS["12810"], {"iid": 10, "2 of 10 classes": 2, "3 of 10 classes": 3}, SEEDS, post),
        "1000000": _wire(
            HEADS["1000000"],
            {"iid": 1000, "100 of 1000 classes": 100, "50 of 1000 classes": 50},
            LARGE_SEEDS,
            post,
        ),
    }


def _wire(tensors: tuple[TensorSpec, ...], deals: dict[str, int], seeds: int, post: Post) -> dict[str, Any]:
    """Encode deltas of devices that hold so many of the classes."""
    codec, found = VALUES["sign"], {}
    for name, held in deals.items():
        sizes, limits = [], []
        for seed in range(seeds):
            delta = skewed_delta(tensors, held, seed)
            body = encode(delta, tensors, codec).body
            indices = decode(body, tensors, codec).indices
            assert indices is not None
            sizes.append(post.wire_bytes(body))
            alike = held == tensors[0].size  # counts of classes that differ by chance tell nothing
            bits = binomial_bits(delta.size, indices.size) if alike else class_bits(indices, tensors)
            limits.append(sizes[-1] - len(body) + (bits + indices.size) / 8)
        found[name] = {
            "least": min(sizes),
            "mean": round(statistics.mean(sizes), 1),
            "most": max(sizes),
            "limit": round(statistics.mean(limits), 1),
        }
    return found


def worst(found: dict[str, Any]) -> dict[str, float]:
    """Return the largest ratios: of all i.i.d. deltas, at 1 % with 8 bits, and of each class at a million."""
    return {
        "over_bound": max(one["over_bound"] for one in found["bound"].values()),
        "over_bound_1%_8bit": max(
            one["over_bound"] for name, one in found["bound"].items() if name.endswith("1.0%, 8 bit")
        ),
        "over_class_bound": max(
            one["over_class_bound"] for name, one in found["skewed"].items() if name.startswith("1M")
        ),
    }


if __name__ == "__main__":
    heads = {
        name: {mode.name.lower(): times(tensors, mode) for mode in PLAN_CODECS}
        for name, tensors in HEADS.items()
    }
    found = {"benchmark": "codec", "density": DENSITY, "parameters": heads}
    if "--times" not in sys.argv[1:]:
        found |= {"bound": bounds(), "skewed": skewed(), "real": real(), "wire": wire()}
        found["worst"] = worst(found)
    print(json.dumps(found, indent=2))
