"""Keys: made where they are used, kept as files of mode 0600, named by hashes of their public half.

A key file is one line, so that a terminal or an editor does no harm:

    fedclient-ed25519-1 <base64 of 36 bytes>        (fedclient-x25519-1 for a sealing key)

The 36 bytes are the secret (32; RFC 8032's seed, RFC 7748's scalar) and the first 4 bytes of
SHA-256(b"fedclient-ed25519-1 " + secret).  A file is read only if writing its secret again gives
the very same bytes, so that a damaged key is reported and never becomes another identity.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from typing import TYPE_CHECKING, ClassVar, Final

from fedclient import limits
from fedclient.crypto import sodium
from fedclient.errors import StorageDamaged, StorageError
from fedclient.storage import disk_errors, sync_folder, write_file
from fedclient.wire.fields import KID_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

_CHECKSUM_BYTES: Final = 4
_MAX_FILE_BYTES: Final = 128  # a key file has 69 or 68


def device_id(public: bytes) -> str:
    """Return the name of the device with this Ed25519 key: base32 of SHA-256, lower case (PROTOCOL 2)."""
    return base64.b32encode(hashlib.sha256(public).digest()).decode().lower()[: limits.DEVICE_ID_CHARS]


def kid(public: bytes) -> bytes:
    """Return the short name of a public key in messages: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(public).digest()[:KID_BYTES]


class _Key:
    """A secret of 32 bytes and the file it lives in; what it can do is up to the subclass."""

    __slots__ = ("_secret", "kid", "public")
    _header: ClassVar[bytes]
    public: bytes
    kid: bytes

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.public = self._public_of(secret)
        self.kid = kid(self.public)

    def _public_of(self, secret: bytes) -> bytes:
        raise NotImplementedError

    @classmethod
    def generate(cls) -> Self:
        """Make a key that lives in memory only."""
        return cls(os.urandom(sodium.KEY_BYTES))

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a key and its file, durably; a file that is there already is never touched.

        Raises:
            StorageError: there is a file at `path`, or none can be written (StorageFull too).
        """
        secret = os.urandom(sodium.KEY_BYTES)
        temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")  # as storage.sweep expects it
        write_file(temporary, _line(cls._header, secret), mode=0o600)
        with disk_errors(path):
            try:
                os.link(temporary, path)  # a rename would replace a key that came in between
            except FileExistsError as error:
                raise StorageError(
                    f"{path}: there is a file already, and a key never replaces one"
                ) from error
            finally:
                temporary.unlink()
            sync_folder(path.parent)
        return cls(secret)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the key at `path`.

        Raises:
            StorageError: it is missing, or others than its owner may use it.
            StorageDamaged: its bytes are not what was written, or it is a key of another kind.
        """
        data = _read_private(path)
        if not data.startswith(cls._header):
            raise StorageDamaged(
                f"{path}: not a {cls._header.decode().strip()} key file; restore it from a copy"
            )
        try:
            secret = binascii.a2b_base64(data[len(cls._header) :])[: sodium.KEY_BYTES]
        except binascii.Error:
            secret = b""
        if _line(cls._header, secret) != data or len(secret) != sodium.KEY_BYTES:
            raise StorageDamaged(
                f"{path}: the key is damaged; restore it from a copy, or move it away for a new one"
            )
        return cls(secret)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key at `path`, or make one where there is none; raises what those two raise."""
        with disk_errors(path):
            there = path.exists()
        return cls.load(path) if there else cls.create(path)


class SigningKey(_Key):
    """An Ed25519 key: the identity of a device, or of a gateway towards its devices."""

    __slots__ = ("_pair", "device_id")
    _header = b"fedclient-ed25519-1 "

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.device_id = device_id(self.public)

    def _public_of(self, secret: bytes) -> bytes:
        public, self._pair = sodium.signing_pair(secret)
        return public

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`, 64 bytes."""
        return sodium.sign(self._pair, message)


class SealingKey(_Key):
    """An X25519 key: what a gateway opens sealed boxes with."""

    __slots__ = ()
    _header = b"fedclient-x25519-1 "

    def _public_of(self, secret: bytes) -> bytes:
        return sodium.sealing_public(secret)

    def open(self, sealed: bytes) -> bytes:
        """Return what `sodium.seal(self.public, ...)` was given; raises CryptoError when it does not open."""
        return sodium.unseal(self.public, self._secret, sealed)


def _line(header: bytes, secret: bytes) -> bytes:
    """Return what a key file holds."""
    checksum = hashlib.sha256(header + secret).digest()[:_CHECKSUM_BYTES]
    return header + binascii.b2a_base64(secret + checksum)


def _read_private(path: Path) -> bytes:
    """Return the bytes of a file that nobody but its owner may read."""
    with disk_errors(path):
        try:
            # Not blocking: a named pipe put here must not hang the agent.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise StorageError(
                f"{path}: there is no key; `fedclient init` (or `gateway init`) makes it"
            ) from error
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise StorageDamaged(f"{path}: not a file; a key is a file of its own")
            if stat.S_IMODE(mode) & 0o077:
                raise StorageError(
                    f"{path}: others may use this key (mode {stat.S_IMODE(mode):04o}); run `chmod 600 {path}`"
                )
            return os.read(descriptor, _MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
