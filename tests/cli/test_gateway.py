from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.gateway.store import Release, Round
from fedclient.model.attach import NewHead, attach
from fedclient.model.head import write_head
from fedclient.values import Base, Broker, CodecMode, HeadVersion, Judgement, Plan, Verdict
from fedclient.wire.invitation import decode_invitation
from tests.cli.desks import call, one_object, opened
from tests.model import backbones

PLAN = """
epochs = 2
learning_rate = 1
[codec]
mode = "topk_sign"
density = 0.05
"""


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def state(tmp_path, monkeypatch, capsys) -> Path:
    config = tmp_path / "config.toml"
    config.write_text("")
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(config))
    folder = tmp_path / "gateway"
    assert call(folder, "init", "--federation", "farm", "--broker", "localhost:1883") == 0
    assert f"next     fedclient --state {folder} gateway publish " in capsys.readouterr().out
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_head(4, 3))
    return path


def test_init_never_overwrites(state, capsys):
    before = {path.name: path.read_bytes() for path in state.glob("*.key")}
    assert call(state, "init", "--federation", "barn", "--broker", "localhost:1883") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in state.glob("*.key")} == before


@pytest.mark.parametrize("broker", ["localhost", ":1883", "localhost:", "localhost:0", "localhost:99999"])
def test_a_broker_is_host_and_port(tmp_path, broker, capsys):
    assert call(tmp_path / "new", "init", "--federation", "farm", "--broker", broker) == 2
    assert "HOST:PORT" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_invite_prints_invitations_and_nothing_else(state, capsys):
    assert call(state, "invite", "--count", "3", "--expires-h", "2") == 0
    out = capsys.readouterr().out.splitlines()
    found = [decode_invitation(line) for line in out]
    assert len({one.token for one in found}) == 3
    assert {(one.federation, one.broker) for one in found} == {("farm", Broker(host="localhost", port=1883))}
    assert all(7000 < one.expires_unix_s - time.time() <= 7200 for one in found)
    assert call(state, "invite", "--count", "0") == 2


def test_publish_rollback_recover_and_rounds(state, model, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    assert call(state, "publish", model, "--labels", "a, b,c", "--plan", plan) == 0
    assert call(state, "publish", model) == 0
    assert call(state, "rollback", "1") == 0
    assert call(state, "recover", "--force") == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("head")]
    assert heads == [f"head     {n}.{n}" for n in (1, 2, 3, 4)]
    closer, desk = opened(state)
    with closer:
        manifests = {one.head_version: desk.open_manifest(one.signed) for one in desk.store.releases(9)}
    assert manifests[HeadVersion(4, 4)].labels == ("a", "b", "c")
    assert manifests[HeadVersion(4, 4)].plan.codec.mode is CodecMode.TOPK_SIGN
    assert manifests[HeadVersion(2, 2)].plan == Plan()
    assert call(state, "rounds", "--json") == 0
    nobody = {"adopted": 0, "kept_previous": 0, "unjudged": 0}
    assert one_object(capsys) == {
        "current": {"version": 4, "generation": 4, "verdicts": nobody},
        "rounds": [],
    }
    assert call(state, "rollback", "9") == 2
    assert call(state, "publish", model, "--labels", "a,b") == 2
    assert call(state, "publish", model, "--labels", "a,b,a") == 2  # two classes of one name


def test_labels_that_came_with_the_model_are_published(state, tmp_path):
    path = tmp_path / "attached.tflite"
    path.write_bytes(attach(backbones.classifier(), NewHead(classes=2, labels=("cat", "dog"))).data)
    (tmp_path / "names.txt").write_text("x\ny\n")
    for words, labels in (
        ([], ("cat", "dog")),
        (["--labels", "a,b"], ("a", "b")),
        (["--labels", tmp_path / "names.txt"], ("x", "y")),
    ):
        assert call(state, "publish", path, *words) == 0
        closer, desk = opened(state)
        with closer:
            (release,) = desk.store.releases(1)
            assert desk.open_manifest(release.signed).labels == labels


def test_recover_asks_before_it_ends_a_healthy_generation(state, model, capsys):
    assert call(state, "publish", model) == 0
    assert call(state, "recover") == 2
    assert "nothing to recover from" in capsys.readouterr().err
    closer, desk = opened(state)
    with closer:
        assert desk.store.current() == HeadVersion(1, 1)
        with desk.store.transaction():
            desk.store.note_seen(HeadVersion(1, 5))
        assert call(state, "recover") == 0
        assert desk.store.current() == HeadVersion(2, 6)


def test_publish_refuses_what_does_not_train(state, tmp_path, shared, capsys):
    assert call(state, "publish", shared / "models" / "hello_world_float.tflite") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert call(state, "publish", tmp_path / "none.tflite") == 2


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            "momentum = 0.5",
            "momentum is 0.5, but the model's 'train' has no input 'momentum': write the head anew with "
            "--optimizer momentum, or leave momentum out",
        ),
        ("statistics = true", "the head has no feature statistics"),
    ],
)
def test_publish_refuses_a_plan_that_the_model_cannot_follow(state, model, tmp_path, capsys, plan, sentence):
    path = tmp_path / "plan.toml"
    path.write_text(plan)
    assert call(state, "publish", model, "--plan", path) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    closer, desk = opened(state)
    with closer:
        assert desk.store.current() == HeadVersion(0, 0)


def test_rounds_show_verdicts_and_epochs_where_there_is_something_to_show(state, capsys):
    closer, desk = opened(state)
    made = Round(counted=3, accuracy=0.5, bytes_up=1, bytes_down=2, seconds=3.0, closed_unix_s=4)
    said = {1: "AAAKU", 2: "AK", 3: ""}
    letters = {"A": Verdict.ADOPTED, "K": Verdict.KEPT_PREVIOUS, "U": Verdict.UNJUDGED}
    with closer, desk.store.transaction():
        desk.store.add_blob(b"b", b"")
        for number, verdicts in said.items():
            version = HeadVersion(1, number)
            base = Base(head_version=version, head_hash=b"b", plan_hash=b"p")
            release = Release(head_version=version, model_hash=b"b", base=base, signed=b"")
            more = {2: {"epochs": 1.75, "full_bytes": 900}, 3: {"full_bytes": 950, "delta_bytes": 70}}
            desk.store.add_release(release, replace(made, **more.get(number, {})))
            for device, letter in zip("abcde", verdicts, strict=False):
                desk.store.roster.enrol(device, bytes(32), 7)
                judgement = Judgement(head_version=version, verdict=letters[letter])
                desk.store.verdicts.note(device, judgement)
    capsys.readouterr()
    assert call(state, "rounds") == 0
    assert capsys.readouterr().out.splitlines() == [
        "current  1.3",
        "1.1  updates 3  accuracy 0.500  up 1 B  down 2 B  3.0 s  adopted 3, kept previous 1, unjudged 1",
        "1.2  updates 3  epochs 1.8  accuracy 0.500  up 1 B  down 2 B (no delta, whole 900 B)  3.0 s"
        "  adopted 1, kept previous 1",
        "1.3  updates 3  accuracy 0.500  up 1 B  down 2 B (delta 70 B, whole 950 B)  3.0 s",
    ]
    assert call(state, "rounds", "--json") == 0
    rows = one_object(capsys)["rounds"]
    assert rows[0]["verdicts"] == {"adopted": 3, "kept_previous": 1, "unjudged": 1}
    assert [row["epochs"] for row in rows] == [None, 1.75, None]
    assert [row["full_bytes"] for row in rows] == [None, 900, 950]
    assert [row["delta_bytes"] for row in rows] == [None, None, 70]


def test_tables_for_people(state, capsys):
    closer, desk = opened(state)
    with closer, desk.store.transaction():
        desk.store.roster.enrol("a" * 16, bytes(32), 7)
    assert call(state, "devices") == 0
    assert call(state, "rounds") == 0
    assert capsys.readouterr().out.startswith("a" * 16 + "  active")


def test_a_new_gateway_says_what_it_lacks(state, capsys):
    capsys.readouterr()
    assert call(state, "devices") == call(state, "rounds") == 0
    said = capsys.readouterr()
    assert said.out == "current  none yet: fedclient gateway publish MODEL.tflite\n"
    assert said.err == "no device is enrolled yet: `fedclient gateway invite` lets one in\n"


def test_a_folder_without_gateway(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDCLIENT_CONFIG", "")
    assert call(tmp_path, "rounds") == 1
    assert "gateway init" in capsys.readouterr().err


def test_two_runs_on_one_folder_and_an_orderly_end(state):
    """The broker is not there: a gateway waits for it, and ends when it is told to."""
    command = [sys.executable, "-m", "fedclient", "gateway", "run", "--state", str(state)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        assert b"no head is published yet" in first.stderr.readline()
        assert b"disconnected" in first.stderr.readline()
        second = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False, timeout=30)
        assert second.returncode == 1
        assert b"another gateway is running" in second.stderr
        assert call(state, "rounds") == 0, "other verbs work while it runs"
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0
    finally:
        first.kill()
        first.communicate()
