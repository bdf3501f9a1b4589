"""`fedclient init`: a device's keys and a commented config file; never overwrites."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from fedclient import config, storage
from fedclient.cli.main import become_owner
from fedclient.crypto.keys import SigningKey
from fedclient.device import folder
from fedclient.errors import ConfigError, StorageReadOnly, UsageError

if TYPE_CHECKING:
    import argparse

USER = "fedclient"  # made by the package's sysusers.d file
CONFIG_MODE = 0o644  # no secrets in it: a password has a file of its own


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("init", help="make this device's keys and a commented config file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make what is missing, keep what is there, and say what comes next."""
    path, _ = config.find(args.config, os.environ)
    written = _write_config(path, args.state)
    configured = config.load(path, os.environ).state.absolute()
    state = args.state.absolute() if args.state else configured
    with storage.disk_errors(state):
        gateway, made = (state / "gateway.db").exists(), not folder.DeviceFolder(state).key.exists()
    if gateway:
        raise UsageError(f"{state} is a gateway's state folder: give the device its own with --state DIR")
    _give_to_user(state)
    become_owner(state)
    key = SigningKey.load(folder.create(state).key)
    if args.json:
        paths = {"config": str(path), "config_written": written, "state": str(state), "key_made": made}
        print(json.dumps({**paths, "device_id": key.device_id}))
        return 0
    print(f"config   {path} ({'written' if written else 'kept as it was'})")
    print(f"state    {state}")
    print(f"device   {key.device_id} ({'new key' if made else 'kept its key'})")
    options = (f" --config {path}" if args.config else "") + (
        f" --state {state}" if state != configured else ""
    )
    print(f"next     fedclient{options} enroll INVITATION")
    return 0


def _write_config(path: Path, state: Path | None) -> bool:
    """Write the commented defaults, with `state` set if given; False when the file is there."""
    text = config.template(state.absolute() if state else None)
    try:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_file(path, text.encode(), mode=CONFIG_MODE)
    except (OSError, StorageReadOnly) as error:
        raise ConfigError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; "
            "run as root, or choose a file of yours with --config PATH"
        ) from error
    return True


def _give_to_user(state: Path) -> None:
    """Where root sets up the system's own folder first, it belongs to the service's user."""
    if os.geteuid() != 0 or state != storage.DEFAULT_STATE or state.exists():
        return
    try:
        user = pwd.getpwnam(USER)
    except KeyError:  # no such user: systemd gives the folder to its own when the service starts
        return
    try:
        state.mkdir(mode=0o750, parents=True)
        os.chown(state, user.pw_uid, user.pw_gid)
    except OSError as error:
        raise StorageReadOnly(f"cannot create the state folder {state}: {error.strerror}") from error
