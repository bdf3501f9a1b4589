"""A gateway's commands, called in this process, and its database behind them."""

from __future__ import annotations

import json
from contextlib import closing

from fedclient.cli.main import main
from fedclient.config import GatewaySettings
from fedclient.gateway.server import open_desk


def call(state, *words) -> int:
    return main(["gateway", *map(str, words), "--state", str(state)])


def opened(state):
    desk = open_desk(state, GatewaySettings())
    return closing(desk.store), desk


def one_object(capsys):
    return json.loads(capsys.readouterr().out)
