"""The doctor's checks of this device: folder, key, database, federation, broker, agent, service."""

from __future__ import annotations

import os
import re
import selectors
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedclient.cli import doctor_device as device
from fedclient.cli.doctor_finding import Finding, Verdict
from fedclient.config import BrokerSettings, Config, MetricsSettings, TraceSettings
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.errors import FedClientError, StorageDamaged, Unreachable
from fedclient.samples.store import SampleStore
from fedclient.scheduler.readings import Reading, unknown
from fedclient.session import Enrolment, State
from fedclient.testing.broker import EmbeddedBroker
from fedclient.transport.base import Connected, Disconnected
from fedclient.values import Broker, HeadVersion, Invitation, Reason
from fedclient.wire.invitation import encode_invitation
from tests.cli.patients import patient
from tests.cli.running import Answers, running

OK, WARNING, FAIL = Verdict.OK, Verdict.WARNING, Verdict.FAIL


@pytest.fixture
def folder(tmp_path: Path) -> folders.DeviceFolder:
    return folders.create(tmp_path / "state")


def invite(folder: folders.DeviceFolder, port: int = 1883) -> None:
    invitation = Invitation(
        broker=Broker(host="localhost", port=port),
        federation="farm",
        signing_key=SigningKey(b"g" * 32).public,
        sealing_key=b"s" * 32,
        token=b"t" * 16,
        expires_unix_s=0,
        floor=HeadVersion(0, 0),
    )
    enrolment.save(folder.enrolment, encode_invitation(invitation), b"request")


def enrolled(folder: folders.DeviceFolder, how: Enrolment, refusal: Reason = Reason.NONE) -> None:
    database = open_database(folder)
    Journal(database).save_state(State(enrolment=how, refusal=refusal))
    database.close()


# --- settings --------------------------------------------------------------------------------------


def test_settings_are_named_by_their_files(tmp_path: Path) -> None:
    assert "the defaults hold" in device.settings(patient(tmp_path)).found
    file = tmp_path / "config.toml"
    file.touch()
    found = device.settings(patient(tmp_path, config=Config(state=tmp_path, files=(file,))))
    assert (found.verdict, found.found) == (OK, str(file))


def test_bad_settings_are_a_failure(tmp_path: Path) -> None:
    found = device.settings(patient(tmp_path, config_error="a.toml, line 3: no"))
    assert (found.verdict, found.found) == (FAIL, "a.toml, line 3: no")


def test_settings_that_the_agent_may_not_read_are_a_failure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(device.os, "access", lambda *_args, **_options: False)
    found = device.settings(patient(tmp_path, config=Config(state=tmp_path, files=(tmp_path / "a.toml",))))
    assert found.verdict is FAIL
    assert "a.toml" in found.remedy


def test_a_gate_of_ones_own_that_fails_is_a_failure(tmp_path: Path) -> None:
    policy, broken = {"gate": "mine:gate"}, {"own_gate": unknown("no module named mine")}
    found = device.settings(patient(tmp_path, policy=policy, readings=broken))
    assert (found.verdict, found.found) == (FAIL, "no module named mine")
    closed = {"own_gate": Reading(value=False, source="mine:gate")}
    assert device.settings(patient(tmp_path, policy=policy, readings=closed)).verdict is OK


@pytest.mark.parametrize(("section", "settings"), [("trace", TraceSettings), ("metrics", MetricsSettings)])
def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch, section, settings) -> None:
    def look(path: Path) -> Finding:
        config = Config(state=tmp_path, **{section: settings(file=path)})
        return device.settings(patient(tmp_path, config=config))

    lost = tmp_path / "none" / "a.prom"
    assert look(lost).found == f"[{section}] file {lost}: there is no folder {lost.parent}"
    assert look(lost).verdict is WARNING
    (tmp_path / "b.prom").mkdir()
    assert "this is a folder" in look(tmp_path / "b.prom").found
    assert look(tmp_path / "a.prom").verdict is OK
    monkeypatch.setattr(device.os, "access", lambda *_args, **_options: False)
    assert f"may not write in {tmp_path}" in look(tmp_path / "a.prom").found


# --- state folder and key --------------------------------------------------------------------------


def test_without_a_state_folder_init_is_the_remedy(tmp_path: Path) -> None:
    one = patient(tmp_path / "none", options=" --state x")
    for check in (device.state, device.key):
        found = check(one)
        assert found.verdict is WARNING
        assert "`fedclient --state x init` makes it" in found.remedy
    assert device.database(one).verdict is OK
    assert device.membership(one).verdict is WARNING
    assert device.broker(one).verdict is WARNING
    assert not (tmp_path / "none").exists()


def test_a_folder_as_init_makes_it_is_fine(folder) -> None:
    found = device.state(patient(folder.path))
    assert found.verdict is OK
    assert "mode 0750" in found.found
    assert device.key(patient(folder.path)).verdict is OK


@pytest.mark.parametrize(
    ("name", "mode", "remedy"),
    [(".", 0o755, "chmod 750"), ("keys", 0o750, "chmod 700"), ("blobs", 0o701, "chmod 700")],
)
def test_a_folder_that_others_may_look_into_is_a_failure(folder, name, mode, remedy) -> None:
    (folder.path / name).chmod(mode)
    found = device.state(patient(folder.path))
    assert found.verdict is FAIL
    assert found.remedy.startswith(remedy)


def test_a_gateways_folder_is_refused(folder) -> None:
    (folder.path / "gateway.db").touch()
    found = device.state(patient(folder.path))
    assert found.verdict is FAIL
    assert "is a gateway's" in found.found


def test_a_folder_that_may_not_be_written_is_a_failure(folder, monkeypatch) -> None:
    allowed = os.access
    monkeypatch.setattr(device.os, "access", lambda path, how: path != folder.current and allowed(path, how))
    found = device.state(patient(folder.path))
    assert found.verdict is FAIL
    assert str(folder.current) in found.found


def test_a_folder_that_may_not_be_looked_into_is_a_failure(folder, monkeypatch) -> None:
    def denied(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", denied)
    found = device.state(patient(folder.path))
    assert found.verdict is FAIL
    assert "may not look into it" in found.found


def test_a_disk_that_cannot_be_written_is_a_failure(folder, monkeypatch) -> None:
    monkeypatch.setattr(device.os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    found = device.state(patient(folder.path))
    assert found.verdict is FAIL
    assert "mounted read-only" in found.found


def test_little_room_is_a_warning_by_the_owners_limit(tmp_path: Path) -> None:
    little = {"free_disk_mib": Reading(80.0, "statvfs")}
    assert device.room(patient(tmp_path, readings=little)).verdict is WARNING
    assert device.room(patient(tmp_path, readings=little, policy={"min_free_disk_mib": 80.0})).verdict is OK
    assert device.room(patient(tmp_path, readings=little, policy={"min_free_disk_mib": 50.0})).verdict is OK
    assert device.room(patient(tmp_path, readings={"free_disk_mib": unknown("EIO")})).verdict is WARNING


def test_a_key_that_others_may_read_is_a_failure(folder) -> None:
    folder.key.chmod(0o640)
    found = device.key(patient(folder.path))
    assert found.verdict is FAIL
    assert "chmod 600" in found.found


def test_a_damaged_key_is_a_failure(folder) -> None:
    folder.key.write_bytes(folder.key.read_bytes()[:-3] + b"xx\n")
    assert "damaged" in device.key(patient(folder.path)).found


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: giving a file to somebody else takes root")
def test_a_key_of_somebody_else_is_a_failure(folder) -> None:
    os.chown(folder.key, 65534, 65534)
    found = device.key(patient(folder.path))
    assert found.verdict is FAIL
    assert found.remedy.startswith("chown root ")


# --- database and federation -----------------------------------------------------------------------


def test_databases_are_read_whole(folder) -> None:
    assert "there is none yet" in device.database(patient(folder.path)).found
    enrolled(folder, Enrolment.DONE)
    with SampleStore(folder.samples) as store:
        store.append([1.0], 0)
    found = device.database(patient(folder.path))
    assert found.verdict is OK
    assert re.search(r"device.db \d+ KiB, samples.db \d+ KiB", found.found)


def test_damage_in_a_database_is_found(folder) -> None:
    enrolled(folder, Enrolment.DONE)
    data = bytearray(folder.database.read_bytes())
    data[4096:4200] = bytes(range(104))
    folder.database.write_bytes(data)
    with pytest.raises(StorageDamaged):
        device.database(patient(folder.path))


def test_a_log_without_its_index_is_left_alone(folder) -> None:
    enrolled(folder, Enrolment.DONE)
    Path(f"{folder.database}-wal").write_bytes(b"")
    invite(folder)
    for check in (device.database, device.membership):
        assert check(patient(folder.path)).verdict is WARNING
    assert not Path(f"{folder.database}-shm").exists()


@pytest.mark.parametrize(
    ("how", "refusal", "verdict", "words"),
    [
        (None, Reason.NONE, WARNING, "invited to farm, no answer"),
        (Enrolment.PENDING, Reason.NONE, WARNING, "invited to farm, no answer"),
        (Enrolment.DONE, Reason.NONE, OK, "enrolled in farm"),
        (Enrolment.REFUSED, Reason.REVOKED, FAIL, Reason.REVOKED.words),
    ],
)
def test_how_far_a_device_is_with_its_federation(folder, how, refusal, verdict, words) -> None:
    invite(folder)
    if how is not None:
        enrolled(folder, how, refusal)
    found = device.membership(patient(folder.path))
    assert found.verdict is verdict
    assert words in found.found


# --- broker ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    pytest.importorskip("amqtt", reason="LEFT OUT: amqtt is not installed (pip install 'fedclient[test]')")
    with EmbeddedBroker() as made:
        yield made


def at(port: int, **settings: object) -> BrokerSettings:
    return BrokerSettings(host="127.0.0.1", port=port, tls="off", **settings)


def test_a_broker_of_the_settings_is_reached_without_a_device(broker, tmp_path: Path) -> None:
    found = device.broker(patient(tmp_path, config=Config(state=tmp_path, broker=at(broker.port))))
    assert found.verdict is OK
    assert f"127.0.0.1:{broker.port} took the connection (without TLS" in found.found


def test_the_invitations_broker_is_reached(broker, folder) -> None:
    invite(folder, broker.port)
    plain = BrokerSettings(tls="off")
    found = device.broker(patient(folder.path, config=Config(state=folder.path, broker=plain)))
    assert found.found.startswith(f"localhost:{broker.port} took")


def test_nobody_there_is_a_failure_with_its_remedy(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = device.broker(patient(tmp_path, config=Config(state=tmp_path, broker=at(port))))
    assert found.verdict is FAIL
    assert found.found == f"nothing listens at 127.0.0.1:{port}"
    assert found.remedy.startswith("start the broker")


def test_settings_that_cannot_work_are_a_failure(tmp_path: Path) -> None:
    far = BrokerSettings(host="broker.example", port=1883, tls="off")
    found = device.broker(patient(tmp_path, config=Config(state=tmp_path, broker=far)))
    assert found.verdict is FAIL
    assert "would not be encrypted" in found.found


class Silent:
    """A transport on which nothing happens."""

    def __init__(self, *events: object) -> None:
        self.events = list(events)
        self.closed = False

    def connect(self, now_s: float) -> None:
        self.now_s = now_s

    def service(self, _ready: object, _now_s: float) -> list[object]:
        return [self.events.pop(0)] if self.events else []

    def interests(self) -> dict[int, int]:
        return {}

    def deadline_s(self) -> float | None:
        return None

    def close(self) -> None:
        self.closed = True


def test_a_broker_that_never_answers_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(device, "ANSWER_S", 0.1)
    transport = Silent()
    found = device.attempt(transport, Broker(host="h", port=1))
    assert found.verdict is FAIL
    assert "no answer from h:1" in found.found
    assert transport.closed


def test_the_attempt_ends_with_its_first_event() -> None:
    broken = Disconnected(reason="the broker at h:1 does not admit anybody: check the password")
    for event, verdict in ((Connected(), OK), (broken, FAIL)):
        transport = Silent(event)
        assert device.attempt(transport, Broker(host="h", port=1)).verdict is verdict
        assert transport.closed


def test_waiting_tells_who_can_be_read_and_written() -> None:
    here, there = socket.socketpair()
    transport = Silent()
    transport.deadline_s = lambda: 0.0  # at once
    with here, there:
        for wanted, said, ready in (
            (selectors.EVENT_READ, b"", []),
            (selectors.EVENT_READ | selectors.EVENT_WRITE, b"", [here.fileno()]),
            (selectors.EVENT_READ, b"!", [here.fileno()]),
        ):
            there.sendall(said)
            transport.interests = lambda wanted=wanted: {here.fileno(): wanted}
            assert device._wait(transport) == ready


def test_a_running_agent_keeps_its_connection(folder) -> None:
    own = SigningKey.load(folder.key).device_id
    assert device.client_id(patient(folder.path)) == own
    lock = folder.lock()
    assert device.client_id(patient(folder.path)) == f"{own}-doctor"
    os.close(lock)


# --- agent, service and installation ---------------------------------------------------------------


def test_an_agent_that_runs_is_quoted(folder) -> None:
    with running(folder, Answers()):
        found = device.agent(patient(folder.path))
    assert found.verdict is OK
    assert found.found.startswith("running; ")


def test_an_agent_without_a_socket_is_just_running(folder) -> None:
    lock = folder.lock()
    assert device.agent(patient(folder.path)).found == "running"
    os.close(lock)


def test_an_agent_that_does_not_answer_is_a_warning(folder, monkeypatch) -> None:
    def silent(*_args: object) -> object:
        raise Unreachable("no answer within 5 s")

    monkeypatch.setattr(device.console, "ask", silent)
    lock = folder.lock()
    found = device.agent(patient(folder.path))
    os.close(lock)
    assert (found.verdict, found.found) == (WARNING, "running, and does not answer: no answer within 5 s")


def test_no_agent_is_a_warning_once_there_is_something_to_do(folder, tmp_path: Path) -> None:
    assert device.agent(patient(folder.path)).verdict is OK
    invite(folder)
    assert device.agent(patient(folder.path)).remedy == "`fedclient run`"
    unit(tmp_path, "/opt/fedclient/bin/fedclient run")
    found = device.agent(patient(folder.path, root=tmp_path))
    assert (found.verdict, found.remedy) == (WARNING, "sudo systemctl start fedclient")


def unit(root: Path, start: str) -> None:
    path = root / "etc/systemd/system/fedclient.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[Service]\nExecStart={start}\n")


def test_the_service_is_followed_to_its_program(tmp_path: Path) -> None:
    one = patient(tmp_path, root=tmp_path)
    assert device.service(one).verdict is OK  # no systemd
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert device.service(one).remedy == "sudo fedclient service install"
    unit(tmp_path, "/opt/bin/fedclient --config /c run")
    assert device.service(one).verdict is FAIL
    program = tmp_path / "opt/bin/fedclient"
    program.parent.mkdir(parents=True)
    program.touch()
    assert device.service(one).remedy == "sudo systemctl enable fedclient.service"
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants/fedclient.service"
    wants.parent.mkdir()
    wants.symlink_to("/etc/systemd/system/fedclient.service")
    found = device.service(one)
    assert found.verdict is OK
    assert found.found == "fedclient.service starts /opt/bin/fedclient with the system"
    unit(tmp_path, "")
    assert device.service(one).verdict is FAIL


def test_a_program_that_cannot_be_read_is_a_failure(tmp_path: Path, monkeypatch) -> None:
    assert device.installation(patient(tmp_path, root=tmp_path)).verdict is OK
    monkeypatch.setattr(device.os, "access", lambda *_args, **_options: False)
    assert device.installation(patient(tmp_path, root=tmp_path)).verdict is FAIL


def test_a_program_that_the_service_does_not_see_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(device.units, "unreachable", lambda _: ("/home/me: hidden", "elsewhere"))
    assert device.installation(patient(tmp_path, root=tmp_path)).verdict is OK  # no systemd: no service
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    found = device.installation(patient(tmp_path, root=tmp_path))
    assert (found.verdict, found.remedy) == (WARNING, "elsewhere")
    unit(tmp_path, "/opt/bin/fedclient run")
    assert device.installation(patient(tmp_path, root=tmp_path)).verdict is FAIL


def test_ids_without_a_name_are_numbers() -> None:
    assert device._name(54321) == "54321"


def test_a_key_that_may_not_be_looked_for_is_an_error(folder, monkeypatch) -> None:
    def denied(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(FedClientError, match="may not look for it"):
        device.key(replace(patient(folder.path)))
