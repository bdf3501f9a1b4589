from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedclient.gateway.roster import Standing
from fedclient.gateway.server import found
from fedclient.gateway.store import Release
from fedclient.values import (
    Base,
    Broker,
    Command,
    CommandKind,
    HeadVersion,
    Judgement,
    Phase,
    Status,
    Verdict,
)
from fedclient.wire.topics import Topics
from tests.cli.desks import call, one_object, opened

ONE, TWO, GONE = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("fedclient.cli.main.log.setup", lambda **_: None)
    config = tmp_path / "config.toml"
    config.write_text("")
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(config))
    found(tmp_path / "gateway", "farm", Broker(host="localhost", port=1883))
    return tmp_path / "gateway"


@pytest.fixture
def three(state) -> Path:
    """Two devices, and one that was revoked."""
    closer, desk = opened(state)
    with closer, desk.store.transaction():
        for device in (ONE, TWO, GONE):
            desk.store.roster.enrol(device, bytes(32), 7)
        desk.store.roster.set_standing(GONE, Standing.REVOKED)
    return state


def commands(state) -> dict[str, Command]:
    closer, desk = opened(state)
    with closer:
        return desk.store.commands.wanted(time.time())


def test_devices(state, capsys):
    closer, desk = opened(state)
    with closer, desk.store.transaction():
        desk.store.roster.enrol("a" * 16, bytes(32), 7)
        desk.alarm("a" * 16, "odd")
    assert call(state, "devices", "revoke", "a" * 16) == 0
    capsys.readouterr()
    assert call(state, "devices", "--json") == 0
    found = one_object(capsys)
    assert found["devices"] == [
        {
            "id": "a" * 16,
            "standing": "revoked",
            "conflicts": 0,
            "last_counter": 0,
            "enrolled_unix_s": 7,
            "status": None,
            "judgement": None,
            "pause": None,
        }
    ]
    assert [alarm["sentence"] for alarm in found["alarms"]] == ["odd"]
    assert call(state, "devices", "reinstate", "a" * 16) == 2, "revoked is for good"
    assert call(state, "devices", "revoke", "nobody") == 2


def test_what_a_device_made_of_its_newest_head(three, capsys) -> None:
    closer, desk = opened(three)
    with closer, desk.store.transaction():
        desk.store.add_blob(b"b", b"")
        for version, verdict in (
            (HeadVersion(1, 1), Verdict.ADOPTED),
            (HeadVersion(1, 2), Verdict.KEPT_PREVIOUS),
        ):
            base = Base(head_version=version, head_hash=b"b", plan_hash=b"p")
            desk.store.add_release(Release(head_version=version, model_hash=b"b", base=base, signed=b""))
            desk.store.verdicts.note(ONE, Judgement(head_version=version, verdict=verdict))
    assert call(three, "devices") == 0
    one, two, _ = capsys.readouterr().out.splitlines()
    assert one.endswith("  kept previous 1.2")
    assert two.endswith("-"), "it has said nothing"
    assert call(three, "devices", "--json") == 0
    found = [row["judgement"] for row in one_object(capsys)["devices"]]
    assert found == [{"generation": 1, "version": 2, "verdict": "kept_previous"}, None, None]


def test_an_old_status_is_told_as_one(three, capsys) -> None:
    said = Status(
        start=1, sequence=1, phase=Phase.IDLE, closed_gates=(), floor=HeadVersion(1, 1), software="x"
    )
    closer, desk = opened(three)
    with closer, desk.store.transaction():
        desk.store.roster.save_status(ONE, said, int(time.time()) - 7 * 60 - 1)
    assert call(three, "devices") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("  idle (7 min ago)")


def test_reinstate_ends_a_suspension(state):
    closer, desk = opened(state)
    with closer:
        with desk.store.transaction():
            desk.store.roster.enrol("a" * 16, bytes(32), 7)
            desk.store.roster.set_standing("a" * 16, Standing.SUSPENDED, 3)
        assert call(state, "devices", "reinstate", "a" * 16) == 0
        device = desk.store.roster.device("a" * 16)
    assert (device.standing, device.conflicts) == (Standing.ACTIVE, 0)


def test_a_revoked_devices_topics_are_the_gateways_to_clear(three) -> None:
    assert call(three, "devices", "revoke", ONE) == 0
    topics = Topics("farm")
    closer, desk = opened(three)
    with closer:
        assert desk.store.retained() == {topics.command(ONE), topics.online(ONE)}


def test_pause_and_resume_one_device(three, capsys) -> None:
    assert call(three, "pause", ONE) == 0
    assert capsys.readouterr().out == f"{ONE}  paused until resumed\n"
    (first,) = commands(three).values()
    assert (first.kind, first.seconds) == (CommandKind.PAUSE, 0)
    assert call(three, "devices") == 0
    one, two, gone = capsys.readouterr().out.splitlines()
    assert one.endswith("paused until resumed")
    assert "paused" not in two + gone
    assert call(three, "resume", ONE) == 0
    assert capsys.readouterr().out == f"{ONE}  resumed\n"
    assert commands(three)[ONE] == Command(sequence=first.sequence + 1, kind=CommandKind.RESUME)
    assert call(three, "devices", "--json") == 0
    assert [row["pause"] for row in one_object(capsys)["devices"]] == [None, None, None]


def test_pause_all_for_a_while(three, capsys) -> None:
    before = int(time.time())
    assert call(three, "pause", "--all", "--for", "30m") == 0
    assert capsys.readouterr().out == f"{ONE}  paused for 30m\n{TWO}  paused for 30m\n"
    assert {id_: (one.kind, one.seconds) for id_, one in commands(three).items()} == {
        ONE: (CommandKind.PAUSE, 1800),
        TWO: (CommandKind.PAUSE, 1800),
    }
    assert call(three, "devices", "--json") == 0
    pause, _, none = (row["pause"] for row in one_object(capsys)["devices"])
    assert before <= pause["since_unix_s"] <= time.time()
    assert pause["until_unix_s"] == pause["since_unix_s"] + 1800
    assert none is None
    assert call(three, "devices") == 0
    assert capsys.readouterr().out.count("paused until 20") == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pause", "nobody"), "device nobody is not enrolled"),
        (("pause", GONE), f"device {GONE} was revoked"),
        (("resume", GONE), f"device {GONE} was revoked"),
        (("pause", ONE, "--for", "31d"), "to 30d"),
        (("pause", ONE, "--for", "soon"), "for example 30m"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(three, capsys, words, sentence) -> None:
    assert call(three, *words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert commands(three) == {}


@pytest.mark.parametrize(
    "words", [("pause",), ("pause", ONE, "--all"), ("resume",), ("resume", ONE, "--for", "1h")]
)
def test_a_command_is_for_one_device_or_for_all(three, words) -> None:
    assert call(three, *words) == 2
    assert commands(three) == {}


def test_pause_all_where_nobody_is(state, capsys) -> None:
    assert call(state, "pause", "--all") == 0
    assert "no device is enrolled yet" in capsys.readouterr().err
