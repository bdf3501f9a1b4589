"""Time and size of the codec: prints one JSON object.  Run with the project's Python from any folder."""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedclient.codec import decode, encode
from fedclient.values import PLAN_CODECS, Codec, CodecMode, TensorSpec, parameters

DENSITY = 0.01
HEADS = {
    "12810": (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10))),
    "1000000": (TensorSpec(name="bias", shape=(1000,)), TensorSpec(name="kernel", shape=(999, 1000))),
}


def best_us(action: Callable[[], object]) -> float:
    """Least microseconds of a call: what it costs when nothing else runs."""
    timer = timeit.Timer(action)
    number = max(1, int(0.02 / timer.timeit(1)))
    return round(min(timer.repeat(repeat=7, number=number)) / number * 1e6, 1)


def measure(tensors: tuple[TensorSpec, ...], mode: CodecMode) -> dict[str, Any]:
    vector = np.random.default_rng(1).standard_normal(parameters(tensors)).astype(np.float32)
    codec = Codec(mode=mode, density=DENSITY)
    encoded = encode(vector, tensors, codec)
    decoded = decode(encoded.body, tensors, codec)
    total = np.zeros(vector.size)
    return {
        "pack_us": best_us(lambda: encode(vector, tensors, codec)),
        "decode_us": best_us(lambda: decode(encoded.body, tensors, codec)),
        "add_us": best_us(lambda: decoded.add_to(total, 0.5)),
        "bytes": {
            "fp32": vector.nbytes,
            "sparsified": encoded.sparsified_bytes,
            "quantized": encoded.quantized_bytes,
            "encoded": len(encoded.body),
        },
    }


if __name__ == "__main__":
    heads = {
        name: {mode.name.lower(): measure(tensors, mode) for mode in PLAN_CODECS}
        for name, tensors in HEADS.items()
    }
    print(json.dumps({"benchmark": "codec", "density": DENSITY, "parameters": heads}, indent=2))
