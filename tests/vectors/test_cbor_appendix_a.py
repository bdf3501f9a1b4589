"""RFC 8949 appendix A: what is in our subset round-trips, everything else is refused."""

import json
import math
from pathlib import Path

import pytest

from fedclient.errors import WireError
from fedclient.wire import cbor

# Each vector outside the subset, and why.  A new or missing one fails the test.
OUTSIDE = {
    "bignum": ["c249010000000000000000", "c349010000000000000000"],
    "wide float": [
        "fa7f800000", "fa7fc00000", "faff800000",
        "fb7ff0000000000000", "fb7ff8000000000000", "fbfff0000000000000",
    ],
    "simple value": ["f7", "f0", "f818", "f8ff"],
    "tag": [
        "c074323031332d30332d32315432303a30343a30305a", "c11a514b67b0", "c1fb41d452d9ec200000",
        "d74401020304", "d818456449455446",
        "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
    ],
    "text key": ["a26161016162820203", "826161a161626163", "a56161614161626142616361436164614461656145"],
    "indefinite length": [
        "5f42010243030405ff", "7f657374726561646d696e67ff",
        "9fff", "9f018202039f0405ffff", "9f01820203820405ff", "83018202039f0405ff", "83019f0203ff820405",
        "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff",
        "bf61610161629f0203ffff", "826161bf61626163ff", "bf6346756ef563416d7421ff",
    ],
}  # fmt: skip
NOT_JSON = {
    "f97c00": math.inf, "f9fc00": -math.inf, "40": b"", "4401020304": b"\1\2\3\4", "a201020304": {1: 2, 3: 4},
}  # fmt: skip


def test_appendix_a(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = json.loads((shared / "vectors/cbor/appendix_a.json").read_text())
    outside = [encoded for group in OUTSIDE.values() for encoded in group]
    read = 0
    for vector in vectors:
        encoded = bytes.fromhex(vector["hex"])
        if vector["hex"] in outside:
            outside.remove(vector["hex"])
            with pytest.raises(WireError):
                cbor.decode(encoded, max_bytes=100)
            continue
        value = cbor.decode(encoded, max_bytes=100)
        assert cbor.encode(value) == encoded
        if vector["hex"] == "f97e00":
            assert math.isnan(value)
        else:
            expected = vector["decoded"] if "decoded" in vector else NOT_JSON[vector["hex"]]
            assert value == expected
            assert type(value) is type(expected)
            assert cbor.encode(expected) == encoded
        read += 1
    assert outside == []
    assert (len(vectors), read) == (82, 50)
    refused = len(vectors) - read
    groups = ", ".join(f"{len(group)} {name}" for name, group in OUTSIDE.items())
    with capsys.disabled():
        print(f"\nCBOR appendix A: {len(vectors)} = {read} read and written, {refused} refused ({groups})")
