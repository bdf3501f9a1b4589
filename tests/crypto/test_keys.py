"""Keys as files: private, never replaced, damage noticed."""

import base64
import errno
import hashlib
import os
import re
import threading
from pathlib import Path

import pytest

from fedclient.crypto import keys, sodium
from fedclient.errors import CryptoError, FedClientError, StorageDamaged, StorageError, StorageFull

KINDS = [keys.SigningKey, keys.SealingKey]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request) -> type:
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_created_key_is_private_and_comes_back(kind, tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        key = kind.create(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_nlink == 1
    assert names(tmp_path) == ["key"]
    again = kind.load(path)
    assert (again.public, again.kid) == (key.public, key.kid)
    assert kind.load_or_create(path).public == key.public
    assert kind.create(tmp_path / "other").public != key.public


def test_load_or_create_makes_one(kind, tmp_path: Path) -> None:
    key = kind.load_or_create(tmp_path / "key")
    assert kind.load(tmp_path / "key").public == key.public


def test_loaded_keys_do_what_created_ones_do(tmp_path: Path) -> None:
    signing, sealing = keys.SigningKey.create(tmp_path / "a"), keys.SealingKey.create(tmp_path / "b")
    assert keys.SigningKey.load(tmp_path / "a").sign(b"m") == signing.sign(b"m")
    assert keys.SealingKey.load(tmp_path / "b").open(sodium.seal(sealing.public, b"m")) == b"m"
    with pytest.raises(CryptoError, match="does not open"):
        keys.SealingKey.generate().open(sodium.seal(sealing.public, b"m"))


def test_names_of_a_key() -> None:
    key = keys.SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert (
        key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )  # RFC 8032, 7.1
    digest = hashlib.sha256(key.public).digest()
    assert key.kid == keys.kid(key.public) == digest[:8]
    assert key.device_id == keys.device_id(key.public) == base64.b32encode(digest[:10]).decode().lower()
    assert re.fullmatch("[a-z2-7]{16}", key.device_id)


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    secret = bytes(range(32))
    line = b"fedclient-x25519-1 " + secret
    checksum = hashlib.sha256(line).digest()[:4]
    path = written(tmp_path / "key", b"fedclient-x25519-1 " + base64.b64encode(secret + checksum) + b"\n")
    assert keys.SealingKey.load(path).public == keys.SealingKey(secret).public


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_key_is_never_replaced(kind, tmp_path: Path) -> None:
    for content in (b"", b"precious"):
        path = written(tmp_path / "key", content)
        with pytest.raises(StorageError, match="never replaces"):
            kind.create(path)
        assert path.read_bytes() == content
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="never replaces"):
        kind.load_or_create(tmp_path / "link")
    assert names(tmp_path) == ["key", "link"]


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    made: list[keys.SigningKey] = []
    refused: list[StorageError] = []
    start = threading.Barrier(8)

    def create() -> None:
        start.wait()
        try:
            made.append(keys.SigningKey.create(tmp_path / "key"))
        except StorageError as error:
            refused.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(refused) == 7
    assert keys.SigningKey.load(tmp_path / "key").public == made[0].public
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o602])
def test_a_key_that_others_may_use_is_refused(kind, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    kind.create(path)
    path.chmod(mode)
    with pytest.raises(StorageError, match=re.escape(f"mode {mode:04o}); run `chmod 600 {path}`")):
        kind.load(path)
    path.chmod(0o400)
    kind.load(path)


def test_a_missing_key(kind, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="fedclient init"):
        kind.load(tmp_path / "key")
    with pytest.raises(StorageError):
        kind.create(tmp_path / "nowhere" / "key")


def test_what_is_not_a_file_is_refused_at_once(kind, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError, match="not a file"):
            kind.load(tmp_path / name)


def test_a_key_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    keys.SealingKey.create(tmp_path / "key")
    with pytest.raises(StorageDamaged, match="not a fedclient-ed25519-1 key file"):
        keys.SigningKey.load(tmp_path / "key")


def test_every_damaged_byte_is_noticed(kind, tmp_path: Path) -> None:
    path = tmp_path / "key"
    kind.create(path)
    good = path.read_bytes()
    damaged = [good[:size] for size in range(len(good))]
    damaged += [
        good + b"\n",
        good + b" ",
        b" " + good,
        good.replace(b"\n", b"\r\n"),
        good + bytes(4096),
        good * 2,
    ]
    damaged += [
        good[:at] + bytes((byte,)) + good[at + 1 :]
        for at in range(len(good))
        for byte in {good[at] ^ 1, good[at] ^ 32, 0, 255, 10, 61, 65} - {good[at]}
    ]
    for data in damaged:
        written(path, data)
        with pytest.raises(StorageDamaged):
            kind.load(path)
    written(path, good)
    kind.load(path)


def test_a_full_disk_leaves_nothing(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageFull):
                kind.create(tmp_path / "key")
        assert names(tmp_path) == []


def test_a_key_shows_nothing_of_its_secret(kind) -> None:
    key = kind(bytes(range(32)))
    assert not hasattr(key, "__dict__")
    for text in (repr(key), str(key), f"{key}"):
        assert re.fullmatch(r"<fedclient\.crypto\.keys\.\w+ object at 0x[0-9a-f]+>", text)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)], ids=len)
def test_a_secret_of_wrong_length_is_no_key(kind, secret: bytes) -> None:
    with pytest.raises(CryptoError):
        kind(secret)
    assert issubclass(CryptoError, FedClientError)
