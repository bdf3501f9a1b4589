"""What most tests of commands begin with."""

from __future__ import annotations

import argparse

import pytest

from fedclient.cli import model
from fedclient.device import folder as folders


@pytest.fixture
def quiet(monkeypatch) -> None:
    """No handler that outlives a test's standard error."""
    monkeypatch.setattr("fedclient.cli.main.log.setup", lambda **_: None)


@pytest.fixture
def folder(tmp_path):
    """Return a device's new state folder."""
    return folders.create(tmp_path / "state")


@pytest.fixture
def run_model(capsys):
    """Run a verb of `fedclient model`; return its exit code and what it printed."""
    parser = argparse.ArgumentParser()
    model.add_parser(parser.add_subparsers())

    def run(*words):
        args = parser.parse_args(["model", *map(str, words)])
        code = args.run(args)
        return code, capsys.readouterr().out

    return run
