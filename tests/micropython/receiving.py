"""A device's end for one node: the receiver and the intake of fedclient/nodes behind paho, on a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import paho.mqtt.client as mqtt

from fedclient.config import NodeSettings
from fedclient.nodes.intake import Intake
from fedclient.nodes.keys import Node
from fedclient.nodes.messages import NodeHead, encode_ack, encode_head
from fedclient.nodes.receiver import Receiver
from fedclient.samples.store import SampleStore

NODE = Node(name="shed-1", generation=1, secret=bytes(range(100, 132)))
WAIT_S = 30


class Device:
    """Takes what comes, commits it, and answers afterwards."""

    def __init__(self, port: int, folder: Path) -> None:
        self.receiver = Receiver("local")
        self.receiver.know({NODE.name: NODE})
        self.store = SampleStore(folder / "samples.db")
        self.answers: list[tuple[str, bytes]] = []
        self._inbox: Queue[tuple[str, bytes]] = Queue()
        self._end = threading.Event()
        self._subscribed = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="device", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _c, _u, m: self._inbox.put((m.topic, m.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._subscribed.wait(WAIT_S)
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _connected(self, *_: object) -> None:
        self.client.subscribe([(self.receiver.topics.samples_up, 1), (self.receiver.topics.labels_up, 1)])

    def _take(self) -> None:
        with self.store:
            intake = Intake(self.store, NodeSettings(enabled=True, max_per_second=10_000.0))
            while not self._end.is_set():
                try:
                    heard = [self.receiver.open(*self._inbox.get(timeout=0.05))]
                except Empty:
                    continue
                while not self._inbox.empty():
                    heard.append(self.receiver.open(*self._inbox.get()))
                for node, ack in intake.commit([one for one in heard if one], 0.0):
                    self.say("ack", encode_ack(ack))
                    assert node == NODE.name

    def say(self, kind: str, body: bytes, *, retain: bool = False) -> None:
        topic = getattr(self.receiver.topics, kind)(NODE.name)
        message = self.receiver.keys(NODE.name).down.seal(topic, body)
        self.answers.append((topic, message))
        self.client.publish(topic, message, 1, retain)

    def head(self, head: NodeHead) -> None:
        self.say("head", encode_head(head), retain=True)

    def stop(self) -> None:
        """As a kill would: what is in the inbox is lost, what is committed stays."""
        self._end.set()
        self._thread.join(WAIT_S)
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def device(port: int, folder: Path) -> Iterator[Device]:
    made = Device(port, folder)
    try:
        yield made
    finally:
        made.stop()


def stored(folder: Path) -> list[tuple[int, int, object]]:
    """Return life, number and label of every sample in the store."""
    with SampleStore(folder / "samples.db") as store:
        found = []
        for one in store.read(range(1, store.stats().newest_id + 1)):
            life, number = memoryview(one.array.data).cast("f").tolist()
            found.append((int(life * 2), int(number * 2), one.label))
        return found
