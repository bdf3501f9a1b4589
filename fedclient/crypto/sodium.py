"""The five things libsodium does for us, each checked, each raising CryptoError; the only home of PyNaCl.

Only `nacl.bindings` is imported: the classes above it cost memory in the agent and time per message.
The bindings hand lengths to C unchecked where they sign and verify, so every length is checked here.
Strictness of Ed25519 is libsodium's: public keys of small order or in non-canonical form are refused,
so is a signature whose S is not reduced.  X25519 refuses an exchange whose result is all zero.
"""

from __future__ import annotations

from typing import Final

from nacl import bindings, exceptions

from fedclient.errors import CryptoError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEAL_BYTES: Final = 48  # what sealing adds: an X25519 key made for it, and a tag of 16 bytes
_ERRORS: Final = (exceptions.CryptoError, ValueError, TypeError, RuntimeError)


def signing_pair(seed: bytes) -> tuple[bytes, bytes]:
    """Return the Ed25519 public key of a `seed`, and the 64 bytes that `sign` wants."""
    _check(seed, KEY_BYTES, "Ed25519 seed")
    return bindings.crypto_sign_seed_keypair(seed)


def sealing_public(secret: bytes) -> bytes:
    """Return the X25519 public key of `secret`."""
    _check(secret, KEY_BYTES, "X25519 secret key")
    return bindings.crypto_scalarmult_base(secret)


def sign(secret: bytes, message: bytes) -> bytes:
    """Return the Ed25519 signature (RFC 8032) of `message`."""
    _check(secret, 2 * KEY_BYTES, "Ed25519 secret key")
    try:
        return bindings.crypto_sign(message, secret)[:SIGNATURE_BYTES]
    except _ERRORS as error:
        raise CryptoError("message cannot be signed: it is not bytes") from error


def verify(public: bytes, message: bytes, signature: bytes) -> bytes:
    """Return `message` when `signature` is the one of `public`'s owner; raises CryptoError otherwise."""
    _check(public, KEY_BYTES, "Ed25519 public key")
    _check(signature, SIGNATURE_BYTES, "Ed25519 signature")
    try:
        return bindings.crypto_sign_open(signature + message, public)
    except _ERRORS as error:
        raise CryptoError("signature is not the one of this key over this message") from error


def seal(public: bytes, data: bytes) -> bytes:
    """Encrypt `data` so that only the owner of the X25519 key `public` can read it.

    A sealed box says nothing about who sent it: whatever needs a sender is signed first.

    Raises:
        CryptoError: `public` is no X25519 key, or one that would give the content away.
    """
    _check(public, KEY_BYTES, "X25519 public key")
    try:
        return bindings.crypto_box_seal(data, public)
    except _ERRORS as error:
        raise CryptoError("nothing can be sealed for this X25519 public key: it is weak") from error


def unseal(public: bytes, secret: bytes, sealed: bytes) -> bytes:
    """Return what is in a box sealed for `public`; raises CryptoError when it does not open."""
    try:
        return bindings.crypto_box_seal_open(sealed, public, secret)
    except _ERRORS as error:
        raise CryptoError("sealed box does not open: damaged, or sealed for another key") from error


def _check(value: bytes, size: int, name: str) -> None:
    if not isinstance(value, bytes) or len(value) != size:
        found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise CryptoError(f"{name} is {found}, expected {size} bytes")
