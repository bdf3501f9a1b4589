"""A stranger on the broker: hears what is published, and publishes what it likes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from fedclient.downlink import DeviceDownlink
from fedclient.values import HeadVersion

if TYPE_CHECKING:
    from typing_extensions import Self


class Stranger:
    """A client without keys, connected for as long as the broker lives, and again after."""

    def __init__(self, port: int, *topics: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._topics = topics
        self._ready = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Self:
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Client, *_: object) -> None:
        for topic in self._topics:
            client.subscribe(topic, 1)
        self._ready.set()

    def _message(self, _c: Client, _d: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(60)

    def publish_all(self, topic: str, payloads: list[bytes]) -> None:
        """Publish in order, without waiting for each."""
        for payload in payloads:
            self._client.publish(topic, payload, qos=1)

    def on(self, topic: str) -> list[bytes]:
        return [payload for where, payload in list(self.heard) if where == topic]


def heads(stranger: Stranger, topic: str, federation: str, gateway_key: bytes) -> list[HeadVersion]:
    """Return the versions that were published, in order; fails on two manifests of one version."""
    downlink = DeviceDownlink(federation=federation, gateway_key=gateway_key)
    payloads: dict[HeadVersion, bytes] = {}
    found = []
    for payload in filter(None, stranger.on(topic)):
        version = downlink.open_manifest(payload).head_version
        assert payloads.setdefault(version, payload) == payload, f"two manifests of {version}"
        found.append(version)
    return found
