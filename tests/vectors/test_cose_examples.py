"""The COSE working group's examples: our Sig_structure is theirs, their Ed25519 signature is ours.

They use algorithms that our messages never have (ES256, EdDSA with alg -8), so that the parts are
tried: the bytes to be signed, and the signature primitive.  As whole messages all are refused.
"""

import json
from pathlib import Path

import pytest

from fedclient.crypto import cose, keys, sodium
from fedclient.errors import CryptoError, WireError
from fedclient.wire import cbor

ALGORITHMS = {"ES256": -7, "EdDSA": -8}


def examples(shared: Path) -> list[tuple[str, dict]]:
    folder = shared / "vectors/cose"
    paths = [*folder.glob("sign1-tests/*.json"), *folder.glob("eddsa-examples/eddsa-sig-*.json")]
    return [
        (p.stem, json.loads(p.read_text())) for p in [*sorted(paths), folder / "RFC8152/Appendix_C_2_1.json"]
    ]


def intended(example: dict) -> tuple[bytes, bytes, bytes]:
    """Return protected header, external_aad and payload as the author of the example meant them."""
    sign = example["input"]["sign0"]
    header = sign.get("protected", {})
    fields = {}
    if "alg" in header:
        fields[1] = ALGORITHMS[header["alg"]]
    if "ctyp" in header:
        fields[3] = header["ctyp"]
    protected = cbor.encode(fields) if fields else b""  # RFC 9052, 3: an empty map is an empty string
    return protected, bytes.fromhex(sign.get("external", "")), example["input"]["plaintext"].encode()


def message_of(example: dict) -> bytes:
    return bytes.fromhex(example["output"]["cbor"])


def parts_of(example: dict) -> list:
    """Take a message apart; one tag of theirs is not allowed here and is cut off before."""
    message = message_of(example).removeprefix(bytes.fromhex("d903e6"))
    value = cbor.decode(message, max_bytes=1000)
    return value.value if isinstance(value, cbor.Tagged) else value


def test_the_bytes_to_be_signed_are_theirs(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examples(shared)
    for name, example in found:
        theirs = bytes.fromhex(example["intermediates"]["ToBeSign_hex"])
        assert cose._to_be_signed(*intended(example)) == theirs, name
    assert len(found) == 12
    with capsys.disabled():
        print(f"\nCOSE Sig_structure: {len(found)} of 12 as in the examples")


def test_the_failing_ones_fail(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed tag is refused as CBOR; any other change makes other bytes than those that were signed."""
    failing = [(name, example) for name, example in examples(shared) if example.get("fail")]
    for name, example in failing:
        with pytest.raises(CryptoError):
            cose.verify(bytes(32), message_of(example), intended(example)[1])
        if "ChangeCBORTag" in example["input"]["failures"]:
            with pytest.raises(WireError, match="tag 998"):
                cbor.decode(message_of(example), max_bytes=1000)
            continue
        protected, _, payload, _ = parts_of(example)
        to_be_signed = cose._to_be_signed(protected, intended(example)[1], payload)
        assert to_be_signed != bytes.fromhex(example["intermediates"]["ToBeSign_hex"]), name
    assert len(failing) == 6
    with capsys.disabled():
        print(f"\nCOSE examples that must fail: {len(failing)} of 6 refused")


def test_ed25519_examples(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verified = 0
    for name, example in examples(shared):
        key = example["input"]["sign0"]["key"]
        if key["crv"] != "Ed25519":
            continue
        public = bytes.fromhex(key["x_hex"])
        signer = keys.SigningKey(bytes.fromhex(key["d_hex"]))
        protected, headers, payload, signature = parts_of(example)
        assert headers == {4: b"11"}
        to_be_signed = cose._to_be_signed(protected, b"", payload)
        assert sodium.verify(public, to_be_signed, signature) == to_be_signed
        assert signer.public == public, name
        assert signer.sign(to_be_signed) == signature
        with pytest.raises(CryptoError):
            sodium.verify(public, cose._to_be_signed(protected, b"\x00", payload), signature)
        with pytest.raises(CryptoError, match="empty header"):
            cose.verify(public, message_of(example), b"")
        verified += 1
    assert verified == 1
    with capsys.disabled():
        print(f"\nCOSE Ed25519 signatures: {verified} of 1 verified, and made again bit for bit")


def test_none_of_them_is_a_message_of_ours(shared: Path) -> None:
    for _, example in examples(shared):
        with pytest.raises(CryptoError):
            cose.peek(message_of(example))
