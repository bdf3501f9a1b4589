"""Time and size of the codec: prints one JSON object.  Run with the project's Python from any folder.

times      packing and unpacking, best of several, and the bytes of every stage
bound      bytes over log2 C(n,k)/8 + k H(q)/8, of i.i.d. deltas; q: the signed levels that came out
skewed     the same where each class has its own log2 C, of a device that holds few classes
wire       the MQTT message of a 12,810-parameter head at 1 %, signs, over many seeds
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedclient.codec import Decoded, decode, encode
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.transport.base import publish_wire_bytes
from fedclient.uplink import DeviceUplink
from fedclient.values import PLAN_CODECS, Base, Codec, CodecMode, HeadVersion, TensorSpec, Update, parameters
from fedclient.wire.topics import MessageType, Topics

DENSITY = 0.01
DENSITIES = (0.001, 0.01, 0.1)
SEEDS = 200


def head(features: int, classes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="bias", shape=(classes,)), TensorSpec(name="kernel", shape=(features, classes)))


HEADS = {"12810": head(1280, 10), "1000000": head(999, 1000)}
# Classes, and how many of them the device holds; the others change `OTHERS` as much.
SKEWED = {
    "12810 of 10": (head(1280, 10), 2),
    "1M of 10": (head(99_999, 10), 3),
    "1M of 100": (head(9_999, 100), 20),
}
SKEWED["1M of 1000"] = (head(999, 1000), 100)
OTHERS = 0.1
VALUES = {"8 bit": Codec(), "4 bit": Codec(bits=4), "sign": Codec(mode=CodecMode.TOPK_SIGN)}


def best_us(action: Callable[[], object]) -> float:
    """Least microseconds of a call: what it costs when nothing else runs."""
    timer = timeit.Timer(action)
    number = max(1, int(0.02 / timer.timeit(1)))
    return round(min(timer.repeat(repeat=7, number=number)) / number * 1e6, 1)


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


def against(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...], codec: Codec) -> dict[str, Any]:
    """Encode, and compare with the bound of one class and with that of each class by itself."""
    body = encode(vector, tensors, codec).body
    decoded = decode(body, tensors, codec)
    assert decoded.indices is not None
    values, classes = value_bits(decoded), tensors[0].size
    held = np.bincount(decoded.indices % classes, minlength=classes)
    by_class = sum(binomial_bits(vector.size // classes, int(count)) for count in held)
    whole = binomial_bits(vector.size, decoded.indices.size)
    sent = vector[decoded.indices].astype(np.float64)
    return {
        "bytes": len(body),
        "over_bound": round(len(body) * 8 / (whole + values), 4),
        "over_class_bound": round(len(body) * 8 / (by_class + values), 4),
        "positions_by_class": round(by_class / whole, 3),
        "nmse": float(f"{np.square(sent - decoded.values).sum() / np.square(sent).sum():.2e}"),
    }


def bounds() -> dict[str, Any]:
    tensors, rng = HEADS["1000000"], np.random.default_rng(5)
    deltas = {"laplace": rng.laplace(size=1_000_000), "student_t3": rng.standard_t(3, size=1_000_000)}
    return {
        f"{name}, {density:.1%}, {values}": against(
            delta.astype(np.float32), tensors, Codec(mode=codec.mode, density=density, bits=codec.bits)
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
        f"{name}, {held} held, {values}": against(skewed_delta(tensors, held, 1), tensors, codec)
        for name, (tensors, held) in SKEWED.items()
        for values, codec in VALUES.items()
    }


def wire() -> dict[str, Any]:
    tensors, codec, post = HEADS["12810"], VALUES["sign"], Post()
    deltas: dict[str, Callable[[int], NDArray[np.float32]]] = {
        "iid": lambda seed: np.random.default_rng(seed).laplace(size=12_810).astype(np.float32),
        "2 of 10 classes": lambda seed: skewed_delta(tensors, 2, seed),
        "3 of 10 classes": lambda seed: skewed_delta(tensors, 3, seed),
    }
    found = {
        name: [post.wire_bytes(encode(make(seed), tensors, codec).body) for seed in range(SEEDS)]
        for name, make in deltas.items()
    }
    empty = post.wire_bytes(bytes(150)) - 150
    return {
        "without_body": empty,
        "limit_iid": round(empty + (binomial_bits(12_810, 128) + 128) / 8, 1),
        **{
            name: {
                "least": min(sizes),
                "mean": round(statistics.mean(sizes), 1),
                "most": max(sizes),
            }
            for name, sizes in found.items()
        },
    }


if __name__ == "__main__":
    heads = {
        name: {mode.name.lower(): times(tensors, mode) for mode in PLAN_CODECS}
        for name, tensors in HEADS.items()
    }
    found = {"benchmark": "codec", "density": DENSITY, "parameters": heads}
    if "--times" not in sys.argv[1:]:
        found |= {"bound": bounds(), "skewed": skewed(), "wire": wire()}
    print(json.dumps(found, indent=2))
