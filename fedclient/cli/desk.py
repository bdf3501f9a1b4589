"""A gateway's state folder and database, for one command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedclient.cli.main import become_owner

if TYPE_CHECKING:
    import argparse

    from fedclient.gateway.desk import Desk

DEFAULT_STATE: Final = Path("/var/lib/fedclient-gateway")


def state_folder(args: argparse.Namespace) -> Path:
    """Return the folder that --state, systemd or the default names."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return args.state or Path(named or DEFAULT_STATE)


@contextmanager
def open_desk(args: argparse.Namespace) -> Iterator[Desk]:
    """Open the gateway, as the user whose it is; raises StorageError where there is none."""
    from fedclient.gateway import server  # noqa: PLC0415 - a command line that is wrong needs none of it

    become_owner(state_folder(args))
    desk = server.open_desk(state_folder(args), args.settings.gateway)
    try:
        yield desk
    finally:
        desk.store.close()
