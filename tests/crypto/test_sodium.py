"""The primitives: lengths are checked before C sees them, and only CryptoError leaves."""

import os
import subprocess
import sys

import pytest

from fedclient.crypto import sodium
from fedclient.errors import CryptoError

SEED = bytes(range(32))
PUBLIC, PAIR = sodium.signing_pair(SEED)
SEALING_PUBLIC = sodium.sealing_public(SEED)
WRONG = [b"", bytes(31), bytes(33), bytes(63), bytearray(32), None, "x" * 32]

P = 2**255 - 19


def point(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
# Order 1, 2, 4 and 8, both signs, and the same points written with y + p.
SMALL_ORDER = [
    point(1), point(1, 1), point(P - 1), point(P - 1, 1), point(0), point(0, 1), point(P), point(P, 1),
    point(P + 1), point(P + 1, 1), point(ORDER_8), point(ORDER_8, 1),
    point(P - ORDER_8), point(P - ORDER_8, 1),
]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(10_000)], ids=len)
def test_round_trips(data: bytes) -> None:
    assert sodium.verify(PUBLIC, data, sodium.sign(PAIR, data)) == data
    sealed = sodium.seal(SEALING_PUBLIC, data)
    assert len(sealed) == len(data) + sodium.SEAL_BYTES
    assert sodium.unseal(SEALING_PUBLIC, SEED, sealed) == data
    assert sodium.seal(SEALING_PUBLIC, data) != sealed


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_length_or_type_is_refused(wrong: object) -> None:
    for call in (
        lambda: sodium.signing_pair(wrong),
        lambda: sodium.sealing_public(wrong),
        lambda: sodium.sign(wrong, b""),
        lambda: sodium.verify(wrong, b"", bytes(64)),
        lambda: sodium.verify(PUBLIC, b"", wrong),
        lambda: sodium.seal(wrong, b""),
    ):
        with pytest.raises(CryptoError, match=r"expected (32|64) bytes"):  # ours: C would read beyond the end
            call()
    for call in (
        lambda: sodium.unseal(wrong, SEED, bytes(64)),
        lambda: sodium.unseal(SEALING_PUBLIC, wrong, bytes(64)),
        lambda: sodium.unseal(SEALING_PUBLIC, SEED, wrong),
    ):
        with pytest.raises(CryptoError, match="does not open"):
            call()


@pytest.mark.parametrize("wrong", [None, "text", 5], ids=repr)
def test_content_of_another_type_is_refused(wrong: object) -> None:
    for call in (
        lambda: sodium.sign(PAIR, wrong),
        lambda: sodium.verify(PUBLIC, wrong, bytes(64)),
        lambda: sodium.seal(SEALING_PUBLIC, wrong),
    ):
        with pytest.raises(CryptoError):
            call()


@pytest.mark.parametrize("weak", SMALL_ORDER, ids=bytes.hex)
def test_a_key_of_small_order_is_refused(weak: bytes) -> None:
    """With A and R of small order and S = 0, a lax verifier accepts one message in eight or all of them."""
    for r in SMALL_ORDER:
        for message in (b"%d" % number for number in range(16)):
            with pytest.raises(CryptoError):
                sodium.verify(weak, message, r + bytes(32))


@pytest.mark.parametrize(
    "weak", [bytes(32), (1).to_bytes(32, "little"), P.to_bytes(32, "little")], ids=bytes.hex
)
def test_nothing_is_sealed_for_a_key_of_small_order(weak: bytes) -> None:
    with pytest.raises(CryptoError, match="weak"):
        sodium.seal(weak, b"secret")
    with pytest.raises(CryptoError):
        sodium.unseal(SEALING_PUBLIC, SEED, weak + bytes(16 + 5))


def test_a_signature_with_unreduced_s_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sodium.sign(PAIR, b"once")
    twin = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(CryptoError):
        sodium.verify(PUBLIC, b"once", signature[:32] + twin.to_bytes(32, "little"))


def test_every_flipped_bit_is_noticed() -> None:
    signature, sealed = sodium.sign(PAIR, b"m"), sodium.seal(SEALING_PUBLIC, b"m")
    for bit in range(8 * len(signature)):
        with pytest.raises(CryptoError):
            sodium.verify(PUBLIC, b"m", flipped(signature, bit))
    for bit in range(8 * len(sealed)):
        # X25519 ignores the top bit of a public key; the nonce, a hash of its bytes, does not.
        with pytest.raises(CryptoError):
            sodium.unseal(SEALING_PUBLIC, SEED, flipped(sealed, bit))


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little")


def test_no_more_of_pynacl_is_loaded_than_the_bindings() -> None:
    code = "import sys, fedclient.crypto.cose; print(*(m for m in sys.modules if m.startswith('nacl.')))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    above = {name for name in loaded.split() if not name.startswith(("nacl.bindings", "nacl._sodium"))}
    assert above == {"nacl.exceptions"}
