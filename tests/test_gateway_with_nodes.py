"""examples/gateway_with_nodes: every command of its README in order, what they show, the nodes' broker."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedclient import limits
from fedclient.testing.broker import Mosquitto, _free_port
from fedclient.transport.base import Connected, Disconnected, Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.wire.topics import NodeTopics
from tests.micropython.conftest import tool
from tests.test_docs import ROOT, blocks, home, run_in  # noqa: F401  a fixture
from tests.transport.certificates import password_lines
from tests.transport.drive import drive, drive_one, now_s, settings

pytestmark = pytest.mark.mosquitto
EXAMPLE = ROOT / "examples" / "gateway_with_nodes"
README = (EXAMPLE / "README.md").read_text()
TRIED = re.compile(r"^(hall|porch): head 1\.(\d+) .*?  (\d+)% right .*8:(\d+)% 9:(\d+)%$", re.MULTILINE)
DEADLINE_S = 150  # a run takes 25 s
PORTS = ("21883", "21884")  # the federation's broker, and the nodes'


@pytest.fixture
def house(home, mosquitto: str, tmp_path: Path) -> dict[str, str]:  # noqa: F811
    """An environment with all that the README asks for."""
    if not shutil.which("mosquitto_passwd"):
        pytest.skip("LEFT OUT: mosquitto_passwd is not installed (it comes with mosquitto)")
    folders = dict.fromkeys(str(Path(tool(name)).parent) for name in ("micropython", "mpy-cross"))
    return {**home, "PATH": os.pathsep.join([*folders, home["PATH"], str(Path(mosquitto).parent)])}


def free_ports() -> dict[str, str]:
    found: set[int] = set()
    while len(found) < len(PORTS):
        found.add(_free_port())
    return dict(zip(PORTS, map(str, found), strict=True))


def as_here(script: str) -> str:
    """Only the ports differ; and mosquitto, started by root, would become a user who cannot read ~."""
    ports = free_ports()
    edits = [f"sed -i s/{there}/{here}/ nodes_broker.conf pi.toml" for there, here in ports.items()]
    if os.geteuid() == 0:
        edits.append("sed -i '1i user root' nodes_broker.conf")
    for there, here in ports.items():
        script = script.replace(there, here)
    begin = "cd ~/fed/house\n"
    assert script.count(begin) == 1
    return script.replace(begin, begin + "\n".join(edits) + "\n")


def tell(folder: Path) -> None:
    """Print what everybody logged, for whoever looks at a failure."""
    for path in sorted(folder.glob("*.log")):
        print(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:]))


def shape(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", line).strip()


def test_every_command_of_the_readme_runs_and_nodes_learn_what_only_others_have_seen(
    house, tmp_path: Path
) -> None:
    try:
        said = run_in(ROOT, house, as_here("\n".join(blocks(README, "sh"))), DEADLINE_S)
    finally:
        tell(tmp_path / "fed" / "house")
    print(said)
    told = {(node, version): figures for node, version, *figures in TRIED.findall(said)}
    for node in ("hall", "porch"):
        last = max(int(version) for name, version in told if name == node)
        right, eights, nines = map(int, told[node, str(last)])
        assert right >= 70
        assert eights + nines >= 40, "nobody in this house could teach it these: it would know none of them"
    both = {version for _, version in told if {("hall", version), ("porch", version)} <= told.keys()}
    assert all(told["hall", version] == told["porch", version] for version in both)
    assert re.search(r"^hall \(generation 1\) +240 samples, 240 labelled, the last", said, re.MULTILINE)
    shapes = {shape(line) for line in said.splitlines()}
    shown = [line for block in blocks(README, "text") for line in block.splitlines()]
    assert len(shown) > 10
    assert [line for line in shown if shape(line) not in shapes] == []


@pytest.fixture
def log_in(mosquitto: str, tmp_path: Path) -> Iterator[Callable[..., MqttTransport]]:
    """Log in at a broker that has our configuration, but for its address and its passwords."""
    lines = (EXAMPLE / "nodes_broker.conf").read_text().splitlines()
    own = [one for one in lines if not one.startswith(("#", "listener", "password_file", "acl_file"))]
    rights = (EXAMPLE / "nodes_broker.acl").read_text().splitlines()
    users = {name: f"{name}'s" for name in ("fedclient", "hall", "porch")}
    config = [*own, *password_lines(tmp_path, users, *rights)]
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(mosquitto, config=config))

        def connect(user: str | None, password: str | None) -> MqttTransport:
            made = MqttTransport(settings(broker.port, client_id=f"{user}", username=user, password=password))
            stack.callback(made.close)
            made.connect(now_s())
            return made

        yield connect


def test_at_the_nodes_broker_each_has_its_own_topics_and_no_others(log_in) -> None:
    topics = NodeTopics("local")
    agent, hall, porch = everybody = [log_in(user, f"{user}'s") for user in ("fedclient", "hall", "porch")]
    drive(everybody, lambda seen: all(Connected() in events for events in seen))
    for own in (topics.samples_up, topics.labels_up):
        agent.subscribe(own)
    for node in (hall, porch):
        node.subscribe("#")
    for topic in (topics.ack("porch"), topics.head("porch"), topics.sample("porch"), topics.label("porch")):
        hall.publish(topic, b"forged")
    for topic in (topics.sample("hall"), topics.label("hall")):
        hall.publish(topic, b"genuine")
    got = drive(everybody, lambda seen: topics.label("hall") in received(seen[0]))
    head = bytes(limits.MAX_NODE_HEAD_BYTES)
    for node in ("hall", "porch"):
        agent.publish(topics.head(node), head, retain=True)
    for node in (
        "hall",
        "porch",
    ):  # what a broker hands on keeps its order: nothing is on its way after these
        agent.publish(topics.ack(node), b"the last")
    late = drive(
        everybody,
        lambda seen: topics.ack("hall") in received(seen[1]) and topics.ack("porch") in received(seen[2]),
    )
    told = [before + after for before, after in zip(got, late, strict=True)]
    assert received(told[0]) == [topics.sample("hall"), topics.label("hall")]
    assert received(told[1]) == [topics.head("hall"), topics.ack("hall")]
    assert received(told[2]) == [topics.head("porch"), topics.ack("porch")]


def received(events: list) -> list[str]:
    return [event.topic for event in events if isinstance(event, Received)]


@pytest.mark.parametrize(("user", "password"), [("hall", "porch's"), ("hall", None), (None, None)])
def test_nobody_gets_into_the_nodes_broker_without_a_password(log_in, user, password) -> None:
    event = drive_one(log_in(user, password), Disconnected)[-1]
    assert isinstance(event, Disconnected)
    assert "does not admit" in event.reason
