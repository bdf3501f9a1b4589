"""Who may do what on one device: its owner, root, an app in the folder's group, and everybody else."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedclient.testing.broker import EmbeddedBroker
from tests.system.commands import Setup, environment, python_for

OWNER, GROUP, MEMBER, STRANGER = 12345, 12346, 22222, 33333

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root can become other users")

RECORD = "fedclient.SampleStore(state / 'samples' / 'samples.db').append([1.0, 2.0, 3.0, 4.0], 1)"
PREDICT = "print(fedclient.load_model(state).predict(numpy.ones(4, 'f4')).shape)"


class Home:
    """A device and a gateway whose folders belong to OWNER, as systemd would have made them."""

    def __init__(self, path: Path, broker: EmbeddedBroker) -> None:
        self.device, self.gateway = Setup(path / "device"), Setup(path / "gateway")
        for one in (self.device, self.gateway):
            one.python = python_for(OWNER, GROUP)  # run by root: it becomes the owner by itself
            one.path.mkdir()
            os.chown(one.path, OWNER, GROUP)
            one.path.chmod(0o750)
        rng = np.random.default_rng(0)
        np.savez(path / "data.npz", x=rng.normal(size=(64, 4)).astype(np.float32), y=np.arange(64) % 2)
        model = path / "head.tflite"
        self.gateway.ok("model", "new-head", "--features", 4, "--classes", 2, "-o", model)
        self.gateway.ok("gateway", "init", "--federation", "farm", "--broker", f"localhost:{broker.port}")
        self.gateway.ok("gateway", "publish", model)
        self.device.ok("init")
        self.device.ok("enroll", "-", stdin=self.gateway.ok("gateway", "invite"))
        self.device.ok("samples", "import", "--data", path / "data.npz")
        with self.gateway.daemon("gateway", "run") as running:
            running.expect("connected")
            self.device.ok("run", "--once")
            assert running.stop() == 0
        self.device.ok("status")
        self.gateway.ok("gateway", "devices")

    def app(self, code: str, user: int, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        """Run an app of `user`; a FedClientError ends it with one line."""
        script = f"""
import sys, pathlib, numpy, fedclient
state = pathlib.Path({str(self.device.path)!r})
try:
    {code}
except fedclient.FedClientError as error:
    sys.exit(f"app: {{error}}")
"""
        return subprocess.run(
            [self.device.python, "-c", script], env=environment(), cwd="/", capture_output=True, text=True,
            check=False, user=user, group=user, extra_groups=[GROUP] if user == MEMBER else [], umask=umask,
        )  # fmt: skip


@pytest.fixture(scope="module")
def home(amqtt) -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        Path(folder).chmod(0o755)
        yield Home(Path(folder), broker)


def test_commands_of_root_leave_everything_to_the_owner(home: Home) -> None:
    for folder in (home.device.path, home.gateway.path):
        found = [folder, *folder.rglob("*")]
        assert len(found) > 4
        assert {(one.stat().st_uid, one.stat().st_gid) for one in found} == {(OWNER, GROUP)}


def test_only_two_folders_are_shared(home: Home) -> None:
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in home.device.path.iterdir()}
    folders = {"keys": 0o700, "blobs": 0o700, "samples": 0o2770, "current": 0o2770}
    assert modes.items() >= folders.items()
    assert {mode for name, mode in modes.items() if name not in folders} == {0o600}
    for name in ("samples", "current"):
        shared = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (home.device.path / name).iterdir()}
        assert shared
        assert {mode for name, mode in shared.items() if not name.startswith("features")} == {0o660}
    everything = [one for one in home.gateway.path.rglob("*") if one.is_file()]
    assert {stat.S_IMODE(one.stat().st_mode) for one in everything} == {0o600}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_an_app_in_the_group_records_and_predicts(home: Home, umask: int) -> None:
    before = home.device.ok("samples", "stats").split()[1]
    done = home.app(RECORD, MEMBER, umask)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = home.app(PREDICT, MEMBER, umask)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2,)\n", "")
    assert int(home.device.ok("samples", "stats").split()[1]) == int(before) + 1


TUNE = """
    import hashlib
    from fedclient.device.slots import Slots
    from fedclient.device.tuned import Tuned, TunedHead
    slot, _, head = Slots(state / "current").read()
    tuned = Tuned(
        generation=slot.version.generation, version=slot.version.version, adopted_sha256=slot.head_sha256,
        head_sha256=hashlib.sha256(head).hexdigest(), samples_epoch=0, holdout=20, accuracy=1.0,
        adopted_accuracy=1.0,
    )
    TunedHead(state / "current").save(tuned, head)
"""
PERSONAL = "print(fedclient.load_model(state).personal)"


def test_a_head_that_the_owner_tuned_is_for_apps_in_the_group(home: Home) -> None:
    done = home.app(TUNE, OWNER, 0o077)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = (home.device.path / "current" / "personal").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OWNER, GROUP, 0o660)
    done = home.app(PERSONAL, MEMBER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    done = home.app(PERSONAL, STRANGER)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "permission denied" in done.stderr


def test_an_app_in_the_group_may_be_the_first_to_record(home: Home) -> None:
    for one in (home.device.path / "samples").iterdir():
        one.unlink()
    assert home.app(RECORD, MEMBER, 0o077).returncode == 0
    found = (home.device.path / "samples" / "samples.db").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (MEMBER, GROUP, 0o660)
    home.device.ok(
        "samples", "import", "--data", home.device.path.parent / "data.npz"
    )  # and the owner goes on
    assert "samples      65 " in home.device.ok("samples", "stats")


@pytest.mark.parametrize("code", [RECORD, PREDICT])
def test_an_app_outside_the_group_can_do_neither_and_is_told_why(home: Home, code: str) -> None:
    done = home.app(code, STRANGER)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("app: ")
    assert done.stderr.count("\n") == 1
    assert "permission denied" in done.stderr


@pytest.mark.parametrize("user", [MEMBER, STRANGER])
@pytest.mark.parametrize(
    "verb",
    [
        "init",
        "status",
        "run",
        "enroll x",
        "samples purge --yes",
        "gateway devices",
        "gateway init --federation f --broker localhost:1",
    ],
)
def test_the_commands_of_others_end_in_one_line(home: Home, user: int, verb: str) -> None:
    setup = Setup(home.gateway.path if verb.startswith("gateway") else home.device.path)
    setup.python, setup.user, setup.group = home.device.python, user, GROUP if user == MEMBER else user
    said = setup.refused(*verb.split())
    assert "permission denied" in said or "run as root or as the folder's owner" in said, said
