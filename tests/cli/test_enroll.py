"""`fedclient enroll`: an invitation goes in, one request comes out and stays."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.cli import main
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder, create
from fedclient.device.journal import Journal
from fedclient.session import Enrolment, State
from fedclient.uplink import GatewayUplink, envelope_hash
from fedclient.values import Broker, Invitation, Reason
from fedclient.wire.invitation import encode_invitation
from tests.wire.golden import INVITATION, SEALING

HERE = replace(INVITATION, broker=Broker(host="localhost", port=1883), sealing_key=SEALING.public)
NEWER = replace(HERE, token=b"u" * 16)
OTHER = replace(HERE, federation="elsewhere", token=b"v" * 16)
PASTED = encode_invitation(HERE)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceFolder:
    monkeypatch.setattr(main.log, "setup", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("")
    return create(tmp_path / "state")


@pytest.fixture
def run(device: DeviceFolder, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str, str]:
        config = str(device.path.parent / "c.toml")
        code = main.main(["--config", config, "--state", str(device.path), "enroll", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def stored(device: DeviceFolder) -> enrolment.StoredEnrolment:
    found = enrolment.load(device.enrolment)
    assert found is not None
    return found


def judged(device: DeviceFolder, answer: Enrolment, reason: Reason = Reason.NONE) -> None:
    """Do as the agent does after the gateway's answer to the request that is stored."""
    request = envelope_hash(stored(device).request).hex()
    database = open_database(device)
    Journal(database).save_state(State(enrolment=answer, request=request, refusal=reason))
    database.close()


def opened_token(device: DeviceFolder, invitation: Invitation) -> bytes:
    """Open the request as the gateway does."""
    gateway = GatewayUplink(federation=invitation.federation, key=SEALING)
    key = SigningKey.load(device.key)
    request = gateway.open_enrolment(stored(device).request, key.device_id)
    assert request.public_key == key.public
    return request.token


def test_rule_7_an_argument_a_file_and_standard_input(run, device, monkeypatch) -> None:
    (device.path.parent / "invitation.txt").write_text(f"\n  {PASTED}\n\n")
    for source in (PASTED, f" {PASTED}\n", "invitation.txt", "-"):
        device.enrolment.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASTED}\n"))
        code, out, err = run(source, "--json")
        assert (code, err, out.count("\n")) == (0, "", 1)
        device_id = SigningKey.load(device.key).device_id
        assert json.loads(out) == {"device_id": device_id, "federation": HERE.federation}
        assert stored(device).invitation == HERE
        assert opened_token(device, HERE) == HERE.token
        assert device.enrolment.stat().st_mode & 0o777 == 0o600


def test_the_text_names_device_federation_broker_and_what_comes_next(run, device) -> None:
    code, out, err = run(PASTED)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"device      {SigningKey.load(device.key).device_id}",
        f"federation  {HERE.federation} at localhost:1883",
        f"next        fedclient --config {device.path.parent / 'c.toml'} --state {device.path} run"
        "  (it asks the gateway)",
    ]


def test_a_device_that_is_enrolled_already_is_told_so(run, device) -> None:
    run(PASTED)
    judged(device, Enrolment.DONE)
    assert run(PASTED)[1].endswith("next        enrolled\n")


def test_a_path_that_leads_nowhere_is_named(run, device) -> None:
    assert run("nosuch/invitation") == (2, "", "fedclient: nosuch/invitation: there is no such file\n")


def test_the_owners_broker_is_named_where_it_differs(run, device) -> None:
    (device.path.parent / "c.toml").write_text('[broker]\nhost = "mine"\nport = 7\n')
    assert f"federation  {HERE.federation} at mine:7\n" in run(PASTED)[1]


@pytest.mark.parametrize(
    "text",
    [
        PASTED[:-1],
        PASTED[:40],
        PASTED.replace(PASTED[30], "A" if PASTED[30] != "A" else "B", 1),
        f"{PASTED}A",
    ],
)
def test_rule_7_a_damaged_invitation_is_refused_and_nothing_is_stored(run, device, text: str) -> None:
    code, out, err = run(text)
    assert (code, out) == (1, "")
    assert err == "fedclient: the invitation is damaged: copy it again, whole and on one line\n"
    assert not device.enrolment.exists()


@pytest.mark.parametrize("text", ["hello", "", "missing.txt", ".", "x" * 5000, PASTED + " " * 3 + "A" * 5000])
def test_what_is_no_invitation_is_called_so(run, device, text: str) -> None:
    code, out, err = run(text)
    assert (code, out) == (1, "")
    assert err.startswith("fedclient: this is no invitation: one starts with ")
    assert err.count("\n") == 1
    assert not device.enrolment.exists()


def test_files_and_input_that_are_no_text_are_one_sentence(run, device, monkeypatch) -> None:
    (device.path.parent / "binary").write_bytes(b"\xff\x00" * 100)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00" * 100), encoding="utf-8"))
    for source in ("binary", "-"):
        code, out, err = run(source)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"fedclient: {source}: the invitation cannot be read: ")


def test_endless_input_is_not_read_to_its_end(run, monkeypatch) -> None:
    class Endless(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            assert size is not None
            assert 0 < size < 100_000
            return "x" * size

    monkeypatch.setattr(sys, "stdin", Endless())
    assert "this is no invitation" in run("-")[2]


def test_rule_7_the_same_invitation_again_keeps_the_same_request(run, device) -> None:
    run(PASTED)
    before = device.enrolment.read_bytes()
    for answer in (Enrolment.PENDING, Enrolment.DONE):
        judged(device, answer)
        assert run(PASTED)[0] == 0
        assert device.enrolment.read_bytes() == before


@pytest.mark.parametrize("answer", [Enrolment.NONE, Enrolment.PENDING, Enrolment.REFUSED])
def test_rule_7_another_invitation_replaces_one_that_did_not_do(run, device, answer: Enrolment) -> None:
    run(PASTED)
    judged(device, answer, Reason.INVITATION_EXPIRED if answer is Enrolment.REFUSED else Reason.NONE)
    assert run(encode_invitation(OTHER))[0] == 0
    assert stored(device).invitation == OTHER
    assert opened_token(device, OTHER) == OTHER.token


@pytest.mark.parametrize("other", [OTHER, NEWER])
def test_an_enrolled_device_stays_where_it_is(run, device, other: Invitation) -> None:
    run(PASTED)
    judged(device, Enrolment.DONE)
    before = device.enrolment.read_bytes()
    code, out, err = run(encode_invitation(other))
    assert (code, out) == (1, "")
    assert err == (
        f"fedclient: this device is enrolled in {HERE.federation} already: set up another state folder "
        "with `fedclient --state DIR init` for another federation\n"
    )
    assert device.enrolment.read_bytes() == before


def test_rule_7_an_invitation_that_was_refused_is_not_accepted_again(run, device) -> None:
    """The agent does not ask twice with it, so `next: fedclient run` would be a lie."""
    run(PASTED)
    judged(device, Enrolment.REFUSED, Reason.INVITATION_USED)
    for words in ((), ("--wait", "0")):
        assert run(PASTED, *words) == (
            1, "", "fedclient: the gateway refused this device: invitation used; ask for a new invitation\n",
        )  # fmt: skip
    judged(device, Enrolment.REFUSED, Reason.REVOKED)  # it may be reinstated, and the agent goes on asking
    assert run(PASTED)[0] == 0


def test_a_damaged_enrolment_says_what_to_do(run, device) -> None:
    run(PASTED)
    device.enrolment.write_bytes(device.enrolment.read_bytes()[:-20])
    code, _, err = run(PASTED)
    assert (code, err) == (1, f"fedclient: {device.enrolment} is damaged: delete it and enrol again\n")
    device.enrolment.unlink()
    assert run(PASTED)[0] == 0


def test_without_a_device_there_is_nothing_to_enrol(run, device) -> None:
    device.key.unlink()
    code, _, err = run(PASTED)
    assert (code, err) == (
        1,
        f"fedclient: no device is set up in {device.path}: "
        "run `fedclient init` first, or name another --state DIR\n",
    )


# --- --wait -------------------------------------------------------------------------------------------
@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept: nobody waits for real."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 1000, "it waits for ever"

    monkeypatch.setattr("fedclient.cli.enroll.time.sleep", sleep)
    monkeypatch.setattr("fedclient.cli.enroll.time.monotonic", lambda: 1000.0 + sum(slept))
    return slept


def test_wait_ends_when_the_time_is_over(run, device, clock) -> None:
    code, out, err = run(PASTED, "--wait", "3", "--json")
    assert (code, out) == (75, "")
    assert err.startswith("fedclient: no answer within 3 s: is `fedclient run` running here")
    assert 3 <= sum(clock) < 3.5
    assert stored(device).invitation == HERE


def test_rule_7_wait_ends_with_the_answer(run, device, clock, monkeypatch) -> None:
    def sleep(seconds: float) -> None:
        clock.append(seconds)
        if len(clock) == 3:
            judged(device, Enrolment.DONE)

    monkeypatch.setattr("fedclient.cli.enroll.time.sleep", sleep)
    code, out, err = run(PASTED, "--wait", "30")
    assert (code, err, len(clock)) == (0, "", 3)
    assert out.endswith("next        enrolled\n")


def test_rule_7_wait_ends_with_a_refusal(run, device, clock, monkeypatch) -> None:
    monkeypatch.setattr(
        "fedclient.cli.enroll.time.sleep",
        lambda _: judged(device, Enrolment.REFUSED, Reason.INVITATION_EXPIRED),
    )
    code, _, err = run(PASTED, "--wait", "30")
    said = "fedclient: the gateway refused this device: invitation expired; ask for a new invitation\n"
    assert (code, err) == (1, said)


def test_rule_7_wait_is_not_answered_by_the_word_on_an_earlier_request(run, device, clock) -> None:
    run(PASTED)
    judged(device, Enrolment.REFUSED, Reason.INVITATION_EXPIRED)
    assert run(encode_invitation(NEWER), "--wait", "1")[0] == 75


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_wait_that_is_none_is_usage(run, device, clock, seconds: str) -> None:
    code, out, err = run(PASTED, f"--wait={seconds}")
    assert (code, out) == (2, "")
    assert "--wait" in err
    assert not device.enrolment.exists()
