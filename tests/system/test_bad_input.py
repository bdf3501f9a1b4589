"""Bad input through the real command line: one clear line, the right exit code, nothing lost.

Daemons say it in their log, and go on by themselves when the cause is gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedclient.errors import StorageFull
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import EmbeddedBroker, Mosquitto, find_mosquitto
from tests.system.commands import SETTINGS, Setup

Broker = EmbeddedBroker | Mosquitto
FEATURES = 4


# --- what the tests stand on -------------------------------------------------------------------------
@pytest.fixture
def dev(tmp_path: Path) -> Setup:
    """A device that was set up and is in no federation."""
    dev = Setup(tmp_path / "dev")
    dev.ok("init")
    return dev


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad data, and a model."""
    folder = tmp_path_factory.mktemp("files")
    x = np.random.default_rng(0).normal(size=(64, FEATURES)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(int)
    broken = x.copy()
    broken[3, 2] = np.nan
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "few.npz", x=x[:20], y=y[:20])
    np.savez(folder / "nan.npz", x=broken, y=y)
    np.savez(folder / "empty.npz", x=x[:0], y=y[:0])
    np.savez(folder / "wide.npz", x=np.concatenate([x, x], axis=1), y=y)
    np.savez(folder / "labels.npz", x=x, y=y + 5)
    (folder / "empty.csv").touch()
    maker = Setup(folder / "maker")
    maker.ok("model", "new-head", "--features", FEATURES, "--classes", 2, "-o", folder / "head.tflite")
    maker.ok(
        "model",
        "new-head",
        "--features",
        FEATURES,
        "--classes",
        2,
        "--hidden",
        8,
        "-o",
        folder / "other.tflite",
    )
    (folder / "plan.toml").write_text("epochs = 2\n[codec]\ndensity = 0.5\n")
    return folder


class World:
    """A broker, a gateway that has published a head, and devices by name."""

    def __init__(self, path: Path, files: Path, broker: Broker) -> None:
        self.path, self.files, self.broker = path, files, broker
        self.gateway = Setup(path / "gateway")
        self.gateway.ok("gateway", "init", "--federation", "farm", "--broker", f"localhost:{broker.port}")
        self.gateway.ok("gateway", "publish", files / "head.tflite", "--plan", files / "plan.toml")

    def invitation(self, *options: object) -> str:
        return self.gateway.ok("gateway", "invite", *options).strip()

    def device(self, name: str, *, at: Path | None = None, data: str = "good.npz") -> Setup:
        """Set up a device with samples that has taken an invitation."""
        device = Setup((at or self.path) / name)
        device.ok("init")
        device.ok("samples", "import", "--data", self.files / data)
        device.ok("enroll", "-", stdin=self.invitation())
        return device

    def last_counter(self, device: Setup) -> int:
        """How many updates of this device the gateway has answered."""
        own = json.loads(device.ok("status", "--json"))["device_id"]
        known = json.loads(self.gateway.ok("gateway", "devices", "--json"))["devices"]
        return int(next(one["last_counter"] for one in known if one["id"] == own))


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Run mosquitto where it is installed, else the embedded broker."""
    path = find_mosquitto()
    with Mosquitto(path) if path else EmbeddedBroker() as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, files: Path, broker: Broker) -> World:
    return World(tmp_path, files, broker)


@contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """Mount a disk of `mib` MiB."""
    folder = tempfile.mkdtemp()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("LEFT OUT: a small disk needs the right to mount a tmpfs")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(2) as folder:
        yield folder


def fill(disk: Path, leave_kib: int = 0) -> Path:
    """Take all room but `leave_kib`; deleting the returned file gives it back."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free - leave_kib * 1024
    with filler.open("wb", buffering=0) as file:
        try:
            while free > 0:
                free -= file.write(bytes(min(free, 4096)))
        except OSError:
            pass
    return filler


def once(device: Setup) -> tuple[int, str]:
    """Run one round; return the exit code and everything it said."""
    done = device.run("run", "--once")
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


# --- settings and state folder -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        ("run", "[broker]\nhots = 'x'\n", ":2: unknown key in [broker]: hots, did you mean host?"),
        ("status", "[brokr]\n", ":1: unknown section brokr, did you mean broker?"),
        (
            "samples stats",
            "[broker]\nport = 'x'\n",
            ":2: [broker] port is 'x', but must be a whole number from ",
        ),
        ("gateway run", "[broker\n", ":1: not valid TOML: "),
        ("init", "[broker\n", ":1: not valid TOML: "),
        ("run", None, ": it cannot be read: No such file or directory"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path: Path, verb: str, text: str | None, said: str) -> None:
    dev = Setup(tmp_path / "dev", text or "")
    if text is None:
        dev.config.unlink()
    assert dev.refused(*verb.split()).startswith(f"{dev.config}{said}")
    assert not dev.path.exists()


@pytest.mark.parametrize(
    "verb", ["status", "run", "run --once", "enroll x", "samples stats", "samples purge --yes"]
)
def test_no_state_folder(tmp_path: Path, verb: str) -> None:
    dev = Setup(tmp_path / "dev")
    refused = dev.refused(*verb.split())
    assert refused.startswith(f"no device is set up in {dev.path}: run `fedclient init` first")
    assert not dev.path.exists()


def test_device_and_gateway_do_not_share_a_folder(dev: Setup, tmp_path: Path) -> None:
    mode = dev.path.stat().st_mode
    said = dev.refused("gateway", "init", "--federation", "f", "--broker", "localhost:1883", code=2)
    assert said == f"{dev.path} is a device's state folder: give the gateway its own with --state DIR"
    assert dev.path.stat().st_mode == mode
    assert "there is no gateway here" in dev.refused("gateway", "devices")
    gateway = Setup(tmp_path / "gateway")
    gateway.ok("gateway", "init", "--federation", "f", "--broker", "localhost:1883")
    assert (
        gateway.refused("init", code=2)
        == f"{gateway.path} is a gateway's state folder: give the device its own with --state DIR"
    )


def test_two_agents_on_one_state_folder(dev: Setup) -> None:
    with dev.daemon("run") as first:
        first.expect("agent starts")
        said = f"another agent is running on {dev.path}: stop it, or give this one its own --state"
        assert dev.refused("run") == said
        assert dev.refused("run", "--once") == said
        assert json.loads(dev.ok("status", "--json"))["agent_running"] is True
        assert first.stop() == 0


@pytest.mark.parametrize("name", ["device.db", "samples/samples.db", "gateway.db"])
def test_a_newer_database_schema(tmp_path: Path, files: Path, name: str) -> None:
    here = Setup(tmp_path / "here")
    if name == "gateway.db":
        here.ok("gateway", "init", "--federation", "f", "--broker", "localhost:1883")
        verbs = ["gateway devices", "gateway invite", "gateway run"]
    else:
        here.ok("init")
        here.ok("samples", "import", "--data", files / "good.npz")
        here.ok("status")
        verbs = ["status", "run", "samples purge --yes"]
    if name.startswith("samples"):
        verbs = ["status", "samples stats", "samples purge --yes"]
    database = here.path / name
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database.read_bytes()
    for verb in verbs:
        assert here.refused(*verb.split()) == f"{database}: a newer fedclient wrote it; upgrade this one"
    assert database.read_bytes() == before
    if name == "device.db":  # nothing was purged before it was found out
        assert json.loads(here.ok("samples", "stats", "--json"))["rows"] == 64


# --- models and data -------------------------------------------------------------------------------------
def test_a_model_that_cannot_be_trained(tmp_path: Path, files: Path, shared: Path) -> None:
    gateway = Setup(tmp_path / "gateway")
    gateway.ok("gateway", "init", "--federation", "f", "--broker", "localhost:1883")
    for model, why in {
        shared / "models/hello_world_float.tflite": "no signature train, infer, get_weights, set_weights",
        shared / "models/training_model_flex.tflite": "Flex ops (FlexRestoreV2, FlexSaveV2)",
        files / "good.npz": "this is not a .tflite file",
        files / "empty.csv": "this is not a .tflite file",
    }.items():
        for words in (("dry-run", "--data", files / "good.npz", "--model"), ("gateway", "publish")):
            said = gateway.refused(*words, model)
            assert said.startswith(f"{model}: "), said
            assert why in said
        done = gateway.run("model", "check", model, "--json")
        assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    assert json.loads(gateway.ok("gateway", "rounds", "--json"))["current"]["version"] == 0


def test_data_that_does_not_do(dev: Setup, files: Path) -> None:
    nan = f"{files}/nan.npz: row 3: it holds NaN, an infinity or a value beyond float32; leave it out"
    for name, said in {
        "nan.npz": nan,
        "empty.npz": f"{files}/empty.npz: there are no samples in it",
        "empty.csv": f"{files}/empty.csv: there are no samples in it",
        "absent.csv": f"{files}/absent.csv: No such file or directory",
    }.items():
        assert dev.refused("samples", "import", "--data", files / name) == said
        assert dev.refused("dry-run", "--model", files / "head.tflite", "--data", files / name) == said
    for name, said in {
        "wide.npz": f"{files}/wide.npz: a sample has shape [8], the model takes [4]: ",
        "labels.npz": f"{files}/labels.npz: row 0: label 6 is not one of the model's classes, 0 to 1",
    }.items():
        assert dev.refused("dry-run", "--model", files / "head.tflite", "--data", files / name).startswith(
            said
        )
    assert json.loads(dev.ok("samples", "stats", "--json"))["rows"] == 0


def test_samples_that_do_not_fit_are_kept_and_said(world: World, files: Path) -> None:
    """The agent cannot train on them; with samples that fit the next round goes through."""
    with world.gateway.daemon("gateway", "run") as gateway:
        gateway.expect("connected")
        device = world.device("dev", data="wide.npz")
        device.ok("samples", "import", "--data", files / "labels.npz")
        code, said = once(device)
        assert "trainer: no sample fits the model: 128 have another shape or type than [4] float32 (" in said
        assert said.splitlines()[-1] == (
            "fedclient: training failed: the samples are too few, or do not fit the model; "
            "the trainer's own line is above"
        )
        assert code == 1
        device.ok("samples", "import", "--data", files / "few.npz")
        code, said = once(device)
        assert "trainer: 20 distinct samples fit the model, the privacy floor is 32" in said
        assert code == 1
        device.ok("samples", "import", "--data", files / "good.npz")
        assert once(device)[0] == 0
        assert world.last_counter(device) == 1
        assert json.loads(device.ok("samples", "stats", "--json"))["rows"] == 64 + 64 + 20 + 64


def test_fewer_samples_than_the_privacy_floor(world: World, files: Path) -> None:
    with world.gateway.daemon("gateway", "run") as gateway:
        gateway.expect("connected")
        device = world.device("dev", data="few.npz")
        code, said = once(device)
        assert code == 75
        assert re.fullmatch(r"fedclient: not now: .* is 20, but must be at least 32", said.splitlines()[-1])
        with device.daemon("run") as agent:
            agent.expect("not training: ")
            device.ok("samples", "import", "--data", files / "good.npz")
            agent.expect("update 1: counted")
            assert agent.stop() == 0


# --- broker ------------------------------------------------------------------------------------------------
def enrolled(
    tmp_path: Path, files: Path, port: int, settings: str = SETTINGS, host: str = "localhost"
) -> Setup:
    """A device with an invitation to a broker at `host`:`port`."""
    gateway = Setup(tmp_path / "gateway")
    gateway.ok("gateway", "init", "--federation", "farm", "--broker", f"{host}:{port}")
    device = Setup(tmp_path / "dev", settings)
    device.ok("init")
    device.ok("enroll", "-", stdin=gateway.ok("gateway", "invite"))
    return device


class Impostor:
    """Listens where a broker should; answers every connection with `answer` and closes it."""

    def __init__(self, answer: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._answer = answer
        self.third = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for number in range(1, 1000):
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.recv(64)
                connection.sendall(self._answer)
            if number == 3:
                self.third.set()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n<p>what?",
            "is not MQTT 3.1.1: check host, port, tls and mqtt_version",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n" + b"<p>what?" * 18,
            "is not MQTT 3.1.1: check host, port, tls and mqtt_version",
        ),
        (b"", "closed the connection without an answer: check that it is MQTT, and with TLS or not"),
    ],
)
def test_what_listens_is_not_mqtt(tmp_path: Path, files: Path, answer: bytes, said: str, amqtt: None) -> None:
    impostor = Impostor(answer)
    device = enrolled(tmp_path, files, impostor.port)
    last = device.refused("run", "--once", code=75)
    assert last.startswith("no connection: ")
    assert last.endswith(said)
    with device.daemon("run") as agent:
        assert said in agent.expect("no connection: ")
        assert impostor.third.wait(30)
        impostor.close()
        assert "nothing listens" in agent.expect("no connection: ")  # another reason is said, once
        with EmbeddedBroker(port=impostor.port):
            agent.expect("connected")
        assert agent.stop() == 0
        assert agent.log.count(said) == 1


def test_a_broker_that_is_not_there(tmp_path: Path, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    device = enrolled(tmp_path, files, port)
    assert device.refused("run", "--once", code=75) == (
        f"no connection: nothing listens at localhost:{port}: start the broker, or correct its host and port"
    )
    gateway = Setup(tmp_path / "gateway")
    with gateway.daemon("gateway", "run") as running:
        assert f"nothing listens at localhost:{port}" in running.expect("disconnected: ")
        assert running.stop() == 0
    device.config.write_text(
        SETTINGS.replace("[broker]", "[broker]\nhost = 'no.such.host.invalid'\ntls = 'on'")
    )
    assert device.refused("run", "--once", code=75) == (
        "no connection: the host name 'no.such.host.invalid' is not known: check the spelling and the DNS"
    )
    device.config.write_text(
        SETTINGS.replace("[broker]", "[broker]\nhost = 'no.such.host.invalid'\ntls = 'off'")
    )
    assert device.refused("run", "--once") == (
        "the connection to no.such.host.invalid:1883 would not be encrypted: set tls, or allow_plaintext"
    )


def test_a_wrong_password(tmp_path: Path, files: Path, mosquitto: str) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", passwords, "pi", "right"], check=True, capture_output=True
    )
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("wrong\n")
    login = SETTINGS.replace("[broker]", f"[broker]\nusername = 'pi'\npassword_file = '{secret}'")
    config = ["allow_anonymous false", f"password_file {passwords}"]
    with Mosquitto(mosquitto, config=config) as broker:
        device = enrolled(tmp_path, files, broker.port, login)
        at = f"localhost:{broker.port}"
        said = f"the broker at {at} does not admit the user 'pi': check user name and password"
        assert device.refused("run", "--once", code=75) == f"no connection: {said}"
        secret.chmod(0o644)
        assert device.refused("run", "--once") == (
            f"{secret}: others may read this password (mode 0644): chmod 0600 it"
        )
        secret.chmod(0o600)
        gateway = Setup(tmp_path / "gateway")  # without a user name
        with gateway.daemon("gateway", "run") as running:
            assert "does not admit this client without a user name" in running.expect("disconnected: ")
            assert running.stop() == 0
        with device.daemon("run") as agent:
            assert said in agent.expect("no connection: ")
            secret.write_text("right\n")  # an agent reads it when it starts
            assert agent.stop() == 0
        with device.daemon("run") as agent:
            agent.expect("connected")
            assert agent.stop() == 0


# --- invitations ------------------------------------------------------------------------------------------
def test_invitations(world: World, tmp_path: Path) -> None:
    first, second = Setup(tmp_path / "first"), Setup(tmp_path / "second")
    for device in (first, second):
        device.ok("init")
    assert first.refused("enroll", "garbage") == "this is no invitation: one starts with 'fedclient1-'"
    assert first.refused("run", "--once") == "this device is not enrolled: run `fedclient enroll INVITATION`"
    expired, good = world.invitation("--expires-h", "1e-9"), world.invitation()
    waited = first.refused("enroll", expired, "--wait", "0.1", code=75)
    assert waited.startswith("no answer within 0.1 s: is `fedclient run` running here")
    with world.gateway.daemon("gateway", "run") as gateway:
        assert first.refused("run", "--once") == "the gateway refused this device: invitation expired"
        assert first.refused("enroll", expired, "--wait", "1") == (
            "the gateway refused this device: invitation expired; ask for a new invitation"
        )
        with first.daemon("run") as agent:
            agent.expect("agent starts")
            first.ok("enroll", good, "--wait", "60")  # a running agent takes it up by itself
            agent.expect("enrolled as")
            assert agent.stop() == 0
        first.ok("enroll", good, "--wait", "1")  # again, with the same key: fine
        second.ok("enroll", good)
        assert second.refused("run", "--once") == "the gateway refused this device: invitation used"
        second.ok("enroll", world.invitation())
        assert once(second)[0] == 75  # enrolled, without samples
        (first.path / "device.db").unlink()  # the same key, with nothing left but key and invitation
        code, said = once(first)
        assert "enrolled as" in said
        assert code == 75
        assert gateway.stop() == 0
    known = json.loads(world.gateway.ok("gateway", "devices", "--json"))
    assert [one["standing"] for one in known["devices"]] == ["active", "active"]
    assert ["another key" in alarm["sentence"] for alarm in known["alarms"]] == [True]


# --- disks ------------------------------------------------------------------------------------------------
def test_a_full_disk_under_the_agent(world: World, disk: Path, files: Path) -> None:
    with world.gateway.daemon("gateway", "run") as gateway:
        gateway.expect("connected")
        device = world.device("dev", at=disk)
        with device.daemon("run") as agent:
            agent.expect("update 1: counted")
            filler = fill(disk)
            world.gateway.ok("gateway", "publish", files / "head.tflite")
            assert "the disk is full; make room, then try again" in agent.expect(
                "nothing is lost, trying again in"
            )
            assert "the disk is full" in device.refused("samples", "import", "--data", files / "good.npz")
            filler.unlink()
            agent.expect("update 2: counted")
            assert agent.stop() == 0
        status = json.loads(device.ok("status", "--json"))
        assert [one["status"] for one in status["rounds"]] == ["counted", "counted"]
        assert status["samples"] == 64


def test_a_full_disk_under_the_trainer(world: World, disk: Path, files: Path) -> None:
    wide = world.path / "wide.npz"  # a head of 64 KiB: the agent's own commits fit, the trainer's do not
    x = np.random.default_rng(0).normal(size=(64, 16_000)).astype(np.float32)
    np.savez(wide, x=x.astype(np.int8), y=np.arange(64) % 2)
    world.gateway.ok(
        "model", "new-head", "--features", 16_000, "--classes", 2, "-o", world.path / "wide.tflite"
    )
    world.gateway.ok("gateway", "publish", world.path / "wide.tflite")
    with world.gateway.daemon("gateway", "run") as gateway, small_disk(4) as roomy:
        gateway.expect("connected")
        device = world.device("dev", at=roomy, data="few.npz")
        assert once(device)[0] == 75  # it has the head now, and too few samples
        device.ok("samples", "import", "--data", wide)
        filler = fill(roomy, leave_kib=140)
        code, said = once(device)
        assert "trainer: " in said
        assert said.splitlines()[-1] == (
            "fedclient: training failed: the disk is full or busy; the trainer's own line is above"
        )
        assert code == 1
        filler.unlink()
        assert once(device)[0] == 0
        assert world.last_counter(device) == 1


def test_a_full_disk_under_the_gateway(tmp_path: Path, files: Path, broker: Broker, disk: Path) -> None:
    world = World(disk, files, broker)
    device = world.device("dev", at=tmp_path)
    with world.gateway.daemon("gateway", "run") as gateway, device.daemon("run") as agent:
        agent.expect("update 1: counted")
        with agent.paused():
            world.gateway.ok("gateway", "publish", files / "head.tflite")
            filler = fill(disk)
        said = gateway.expect("nothing was counted or answered, trying again in 5 s")
        assert said.endswith("the disk is full; make room, then try again")
        assert "the disk is full" in world.gateway.refused("gateway", "invite", "--count", 200)
        assert "the disk is full" in world.gateway.refused("gateway", "publish", files / "head.tflite")
        filler.unlink()
        agent.expect("update 2: counted")
        assert agent.stop() == 0
        assert gateway.stop() == 0
    assert world.last_counter(device) == 2


def test_a_read_only_disk(disk: Path, files: Path) -> None:
    dev, gateway = Setup(disk / "dev"), Setup(disk / "gateway")
    dev.ok("init")
    dev.ok("samples", "import", "--data", files / "good.npz")
    gateway.ok("gateway", "init", "--federation", "f", "--broker", "localhost:1883")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    lock = f"cannot write {dev.path}/agent.lock: Read-only file system"
    said = "it cannot be written; check how it is mounted and who owns it"
    for verb in ("run", "run --once"):
        assert dev.refused(*verb.split()) == lock
    for verb in ("status", "samples stats", "samples purge --yes", f"samples import --data {files}/few.npz"):
        assert dev.refused(*verb.split()).endswith(said)
    for verb in ("gateway devices", "gateway run", "gateway invite"):
        assert gateway.refused(*verb.split()) == f"{gateway.path}/gateway.db: {said}"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert json.loads(dev.ok("status", "--json"))["samples"] == 64


def test_a_folder_that_may_not_be_written_for_a_while(files: Path, broker: Broker) -> None:
    """Somebody takes the agent's right to write into its folders, and gives it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        world = World(path, files, broker)
        device = world.device("dev", at=path)
        folders = [device.path, *(one for one in device.path.iterdir() if one.is_dir())]
        if os.geteuid() == 0:  # whom no permission holds
            device.give_to(12345, 12346)
        with world.gateway.daemon("gateway", "run") as gateway, device.daemon("run") as agent:
            agent.expect("update 1: counted")
            modes = {one: one.stat().st_mode & 0o7777 for one in folders}
            for one in folders:
                one.chmod(0o500)
            world.gateway.ok("gateway", "publish", files / "head.tflite", "--labels", "a,b")
            world.gateway.ok("gateway", "publish", files / "other.tflite")
            assert "permission denied" in agent.expect("nothing is lost, trying again in")
            for one, mode in modes.items():
                one.chmod(mode)
            agent.expect(": counted")  # update 2, or the next if it was for the head between the two
            assert agent.stop() == 0
            assert gateway.stop() == 0


def test_a_full_disk_under_the_sample_store(disk: Path) -> None:
    with SampleStore(disk / "samples" / "samples.db") as store:
        store.append([1.0, 2.0], 1)
        filler = fill(disk)
        with pytest.raises(StorageFull, match="the disk is full; make room, then try again"):
            store.append_many([[1.0] * 10_000] * 10, [1] * 10)
        assert len(store) == 1
        filler.unlink()
        store.append([1.0, 2.0], 1)
        assert len(store) == 2


# --- the clock ---------------------------------------------------------------------------------------------
@pytest.fixture
def in_1970() -> list[str]:
    """What to start a command with, so that its calendar (and no interval) says 1970."""
    if not (faketime := shutil.which("faketime")):
        pytest.skip("LEFT OUT: no false clock without faketime (apt-get install faketime)")
    # not by `faketime` itself, which stays as the parent: the test's signals have to reach the command
    said = subprocess.run([faketime, "1970-01-02", "env"], capture_output=True, text=True, check=True).stdout
    (preload,) = (line for line in said.splitlines() if line.startswith("LD_PRELOAD="))
    return ["env", preload, "FAKETIME=@1970-01-02 00:00:00", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


def test_a_device_whose_clock_says_1970(world: World, in_1970: list[str]) -> None:
    device = Setup(world.path / "dev")
    device.before = in_1970
    device.ok("init")
    device.ok("samples", "import", "--data", world.files / "good.npz")
    device.ok("enroll", "-", stdin=world.invitation())
    with world.gateway.daemon("gateway", "run") as gateway:
        assert once(device)[0] == 0
        device.before = []  # the time server answers
        world.gateway.ok("gateway", "publish", world.files / "head.tflite")
        with device.daemon("run") as agent:
            agent.expect("update 2: counted")
            assert agent.stop() == 0
        assert gateway.stop() == 0


def test_a_gateway_whose_clock_says_1970(world: World, in_1970: list[str]) -> None:
    world.gateway.before = in_1970
    early, late = world.device("early"), Setup(world.path / "late")
    late.ok("init")
    late.ok("enroll", world.invitation())
    with world.gateway.daemon("gateway", "run") as gateway:
        assert once(early)[0] == 0
        assert gateway.stop() == 0
    world.gateway.before = []  # the time server answers: 50 years have passed
    world.gateway.ok("gateway", "publish", world.files / "head.tflite")
    with world.gateway.daemon("gateway", "run") as gateway:
        assert late.refused("run", "--once") == "the gateway refused this device: invitation expired"
        with early.daemon("run") as agent:
            agent.expect("update 2: counted")
            assert agent.stop() == 0
        assert gateway.stop() == 0


def test_tls_names_the_clock(tmp_path: Path, files: Path, mosquitto: str, in_1970: list[str]) -> None:
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", *request, *names, "-keyout", "key.pem", "-out", "ca.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    lines = [f"certfile {tmp_path}/ca.pem", f"keyfile {tmp_path}/key.pem", "allow_anonymous true"]
    tls = SETTINGS.replace("[broker]", f"[broker]\ntls = 'on'\nca_file = '{tmp_path}/ca.pem'")
    with Mosquitto(mosquitto, config=lines) as broker:
        device = enrolled(tmp_path, files, broker.port, tls)
        device.before = in_1970
        assert device.refused("run", "--once", code=75) == (
            f"no connection: the certificate of localhost:{broker.port} is not valid today "
            "(certificate is not yet valid): check the clock"
        )
