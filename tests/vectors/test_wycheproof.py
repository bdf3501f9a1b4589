"""Project Wycheproof's corner cases, through the very calls that verify and open our messages."""

import json
from collections import Counter
from pathlib import Path

import pytest
from nacl import bindings

from fedclient.crypto import sodium
from fedclient.errors import CryptoError


def cases(shared: Path, name: str) -> list[tuple[dict, dict]]:
    data = json.loads((shared / f"vectors/wycheproof/testvectors_v1/{name}_test.json").read_text())
    found = [(group, case) for group in data["testGroups"] for case in group["tests"]]
    assert len(found) == data["numberOfTests"]
    return found


def test_ed25519(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    for group, case in cases(shared, "ed25519"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
        try:
            assert sodium.verify(public, message, signature) == message
            verdict = "valid"
        except CryptoError:
            verdict = "invalid"
        assert verdict == case["result"], case
        counts[verdict] += 1
    assert counts == {"valid": 88, "invalid": 63}
    with capsys.disabled():
        print(
            f"\nWycheproof Ed25519: 151 = {counts['valid']} accepted + {counts['invalid']} refused, 0 wrong"
        )


def test_x25519(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """libsodium refuses what gives an all-zero secret; sealing for such a key is refused with it."""
    counts: Counter[str] = Counter()
    for _, case in cases(shared, "x25519"):
        public, private = bytes.fromhex(case["public"]), bytes.fromhex(case["private"])
        expected = bytes.fromhex(case["shared"])
        if expected == bytes(32):
            with pytest.raises(RuntimeError):
                bindings.crypto_scalarmult(private, public)
            with pytest.raises(CryptoError, match="weak"):
                sodium.seal(public, b"content")
            counts["refused"] += 1
        else:
            assert bindings.crypto_scalarmult(private, public) == expected, case
            assert open_box_from(public, private, expected) == b"content", case
            counts["match"] += 1
    assert counts == {"match": 487, "refused": 31}
    with capsys.disabled():
        print(f"\nWycheproof X25519: 518 = {counts['match']} match + {counts['refused']} refused, 0 wrong")


def open_box_from(ephemeral: bytes, private: bytes, agreed: bytes) -> bytes:
    """Open, with our call, a sealed box made by hand from the vector's shared secret.

    libsodium documents a sealed box as ephemeral public key, then crypto_box under the nonce
    BLAKE2b-24(ephemeral || recipient); the key of crypto_box is HSalsa20(shared secret, 0).
    """
    recipient = sodium.sealing_public(private)
    nonce = bindings.crypto_generichash.generichash_blake2b_salt_personal(
        ephemeral + recipient, digest_size=24
    )
    box = bindings.crypto_secretbox(b"content", nonce, hsalsa20(agreed))
    return sodium.unseal(recipient, private, ephemeral + box)


def hsalsa20(key: bytes) -> bytes:
    """HSalsa20 with a zero input (Bernstein, "Extending the Salsa20 nonce", section 2)."""
    words = [int.from_bytes(key[at : at + 4], "little") for at in range(0, 32, 4)]
    constant = [int.from_bytes(b"expand 32-byte k"[at : at + 4], "little") for at in range(0, 16, 4)]
    x = [constant[0], *words[:4], constant[1], 0, 0, 0, 0, constant[2], *words[4:], constant[3]]
    columns = [(0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)]
    rows = [(0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)]
    for _ in range(10):
        for a, b, c, d in columns + rows:
            for to, one, two, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (x[one] + x[two]) & 0xFFFFFFFF
                x[to] ^= (total << turn | total >> 32 - turn) & 0xFFFFFFFF
    return b"".join(x[at].to_bytes(4, "little") for at in (0, 5, 10, 15, 6, 7, 8, 9))
