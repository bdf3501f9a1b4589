"""Every verb: what its help says, and with --json one JSON object on standard output and nothing else."""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fedclient.cli.main import VERBS, _Parser
from fedclient.testing import week
from fedclient.testing.broker import Mosquitto
from tests.model import backbones
from tests.system.commands import SETTINGS, Setup, environment

_Level = argparse._SubParsersAction
RUN_ELSEWHERE = {
    "demo",  # tests/cli/test_demo.py: it takes a while
    "model export-keras",  # tests/cli/test_model_keras.py: it needs TensorFlow
}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Ask the verbs' own modules, so that none is forgotten."""
    root = _Parser().add_subparsers()
    for module in dict.fromkeys(verb.module for verb in VERBS.values()):
        import_module(module).add_parser(root)
    return dict(_walk(root, ()))


def _walk(level: _Level, words: tuple[str, ...]) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for name, parser in level.choices.items():
        yield " ".join((*words, name)), parser
        for action in parser._actions:
            if isinstance(action, _Level):
                yield from _walk(action, (*words, name))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Setup, list[object]]]:
    """How to call each of them, in an order that works."""
    folder = tmp_path_factory.mktemp("json")
    device, gateway, head, data = (
        Setup(folder / "d"),
        Setup(folder / "g"),
        folder / "h.tflite",
        folder / "d.npz",
    )
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(40, 4)).astype(np.float32), y=np.arange(40) % 2)
    readings = folder / "readings.trace"
    readings.write_text("".join(week.lines("calm", days=0.1)))
    (folder / "deployed.tflite").write_bytes(backbones.classifier())
    gateway.ok("model", "new-head", "--features", 4, "--classes", 2, "-o", head)
    gateway.ok("gateway", "init", "--federation", "farm", "--broker", "localhost:1883")
    gateway.ok("gateway", "publish", head)
    return {
        "init": (device, []),
        "doctor": (device, []),  # before there is a broker that should be there
        "enroll": (device, [gateway.ok("gateway", "invite").strip()]),
        "status": (device, []),
        "why": (device, []),
        "dry-run": (device, ["--model", head, "--data", data, "--epochs", 1]),
        "samples stats": (device, []),
        "nodes list": (device, []),
        "model attach-head": (
            device,
            [folder / "deployed.tflite", "--classes", 2, "-o", folder / "new.tflite"],
        ),
        "model check": (device, [head]),
        "model inspect": (device, [head]),
        "gateway devices": (gateway, []),
        "gateway rounds": (gateway, []),
        "boards": (device, []),
        "boards detect": (device, []),
        "replay": (device, [readings]),
    }


def test_no_verb_is_forgotten(calls: dict[str, tuple[Setup, list[object]]]) -> None:
    have = {verb for verb, parser in parsers().items() if "--json" in parser._option_string_actions}
    assert have == set(calls) | RUN_ELSEWHERE


def test_every_verb_and_option_says_what_it_is_for() -> None:
    found = parsers()
    assert len(found) > 20
    for verb, parser in found.items():
        assert parser.description, verb
        assert len(parser.description) > 15, verb
        assert "--state DIR" in parser.format_help(), verb
        silent = [one.dest for one in parser._actions if not one.help and not isinstance(one, _Level)]
        assert not silent, (verb, silent)


def test_one_object_and_nothing_else(calls: dict[str, tuple[Setup, list[object]]]) -> None:
    for verb, (setup, words) in calls.items():
        done = setup.run(*verb.split(), *words, "--json")
        codes = (0, 75) if verb == "why" else (0,)  # this machine may be busy
        assert done.stderr == "", verb
        assert done.returncode in codes, verb
        assert isinstance(json.loads(done.stdout), dict), verb
        assert done.stdout.count("\n") == 1, verb


def test_a_failure_leaves_standard_output_empty(tmp_path: Path) -> None:
    nowhere = Setup(tmp_path / "nowhere")
    for verb in ("status", "enroll x", "samples stats", "nodes list", "gateway devices", "gateway rounds"):
        nowhere.refused(*verb.split(), "--json")


def test_status_shows_the_model_that_publish_names(tmp_path: Path, mosquitto: str) -> None:
    setup = Setup(tmp_path / "dev")
    setup.ok("init")
    assert json.loads(setup.ok("status", "--json"))["model"] is None

    gateway = Setup(tmp_path / "gateway")
    gateway.ok("gateway", "init", "--federation", "farm", "--broker", "localhost:1883")
    gateway.ok("model", "new-head", "--features", 4, "--classes", 2, "-o", tmp_path / "head.tflite")
    published = gateway.ok("gateway", "publish", tmp_path / "head.tflite").splitlines()[1].split()[1]
    with Mosquitto(mosquitto) as broker:
        address = f"[broker]\nhost = 'localhost'\nport = {broker.port}"
        for one in (setup, gateway):
            one.config.write_text(SETTINGS.replace("[broker]", address))
        setup.ok("enroll", gateway.ok("gateway", "invite").strip())
        with gateway.daemon("gateway", "run"), setup.daemon("run") as agent:
            agent.expect("-> waiting")
            assert json.loads(setup.ok("status", "--json"))["model"] == published
        other = f"[privacy]\nallowed_models = ['{'0' * 64}']\n"
        gateway.ok("gateway", "publish", tmp_path / "head.tflite")
        setup.config.write_text(setup.config.read_text() + other)
        with gateway.daemon("gateway", "run"), setup.daemon("run") as agent:
            assert f"model {published} is not in [privacy] allowed_models" in agent.expect("is not taken")


def test_dry_run_shows_progress_on_a_terminal_only(calls: dict[str, tuple[Setup, list[object]]]) -> None:
    setup, words = calls["dry-run"]
    terminal, side = pty.openpty()
    argv = setup._argv(("dry-run", *words, "--epochs", 3))
    done = subprocess.run(argv, stderr=side, stdout=subprocess.PIPE, check=True, env=environment())
    os.close(side)
    assert os.read(terminal, 10_000).endswith(b"training: epoch 3 of 3\r\n")
    os.close(terminal)
    assert b"seconds" in done.stdout
    assert setup.run("dry-run", *words).stderr == ""
