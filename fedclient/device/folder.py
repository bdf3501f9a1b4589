"""Layout and permissions of a device's state folder (DESIGN 7).

<state>/               0750
  keys/                0700   device.key, enrolment, nodes.json
  device.db            0600   session, outbox, job, residual, history
  blobs/               0700   models and heads by content
  samples/             2770   samples.db, features.db: apps in the group record here
  nodes/               0700   heads for nodes; made with the first
  current/             2770   model, head and tuned head that apps in the group predict with
  agent.lock           0600   one agent at a time
  agent.sock           0600   where its owner asks the agent that runs
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from fedclient.errors import AlreadyRunning, ConfigError, StorageReadOnly

_DIRECTORIES = {"keys": 0o700, "blobs": 0o700, "samples": 0o2770, "current": 0o2770}
_STATE_MODE = 0o750  # the group passes through to samples/ and current/


@dataclass(frozen=True)
class DeviceFolder:
    """Where everything of one device is."""

    path: Path

    @property
    def key(self) -> Path:
        return self.path / "keys" / "device.key"

    @property
    def enrolment(self) -> Path:
        return self.path / "keys" / "enrolment"

    @property
    def nodes(self) -> Path:
        """The secrets of nodes."""
        return self.path / "keys" / "nodes.json"

    @property
    def node_heads(self) -> Path:
        return self.path / "nodes"

    @property
    def database(self) -> Path:
        return self.path / "device.db"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def samples(self) -> Path:
        return self.path / "samples" / "samples.db"

    @property
    def current(self) -> Path:
        return self.path / "current"

    def lock(self) -> int:
        """Take this folder for one agent; the lock lasts while the returned descriptor is open.

        Raises AlreadyRunning when another process has it.
        """
        try:
            descriptor = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageReadOnly(f"cannot write {self.path / 'agent.lock'}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageReadOnly(f"cannot lock {self.path}: {error.strerror}") from error
            raise AlreadyRunning(
                f"another agent is running on {self.path}: stop it, or give this one its own --state"
            ) from None
        return descriptor

    def in_use(self, locks: Path = Path("/proc/locks")) -> bool:
        """Tell whether an agent has this folder, without taking the lock from one that starts just now."""
        try:
            inode = (self.path / "agent.lock").stat().st_ino
            return f":{inode} " in locks.read_text()
        except OSError:
            return False


def create(state: Path) -> DeviceFolder:
    """Make the folder, what it lacks of its layout, and the device's key; keep all that is there."""
    folder = DeviceFolder(state)
    try:
        state.mkdir(mode=_STATE_MODE, parents=True, exist_ok=True)
        for name, mode in _DIRECTORIES.items():
            path = state / name
            if not path.is_dir():
                path.mkdir()
                path.chmod(mode)  # mkdir's own mode is cut by the umask
    except OSError as error:
        raise StorageReadOnly(
            f"cannot create the state folder {state}: {error.strerror}; "
            "run as root, or choose a folder of yours with --state DIR"
        ) from error
    if not folder.key.exists():
        from fedclient.crypto.keys import SigningKey  # noqa: PLC0415 - a judge starts sooner without

        SigningKey.create(folder.key)
    return folder


def open_folder(state: Path) -> DeviceFolder:
    """Return the folder of a device that was set up; raises ConfigError for any other."""
    folder = DeviceFolder(state)
    try:
        found = folder.key.exists()
    except PermissionError:
        raise StorageReadOnly(f"no access to {state}: run as root or as the folder's owner") from None
    if not found:
        raise ConfigError(
            f"no device is set up in {state}: run `fedclient init` first, or name another --state DIR"
        )
    return folder


def nearest(path: Path) -> Path:
    """Return `path` as far as it is there: the room that a state folder would have is that disk's."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.isdir(one))  # noqa: PTH112 - no error if it may not be looked at
