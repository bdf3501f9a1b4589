"""The agent's second link: to the nodes' broker, and what goes over it.

It is a part of the agent's own loop, beside the link to the gateway, and never touches that.  What nodes
say is gathered for a moment, committed as one, and answered after the commit.  It wakes the loop for the
keep-alive, and while something is under way.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from selectors import EVENT_WRITE
from typing import Final

from fedclient.client.node_heads import HeldBack, NodeHeads
from fedclient.client.timers import Backoff
from fedclient.config import Config
from fedclient.device import enrolment
from fedclient.device.folder import DeviceFolder
from fedclient.errors import ConfigError, FedClientError, StorageDamaged, Unreachable
from fedclient.limits import MAX_NODE_SAMPLE_BYTES
from fedclient.nodes.intake import Intake
from fedclient.nodes.messages import Ack, encode_ack
from fedclient.nodes.receiver import Receiver
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.transport.base import Connected, Delivered, Disconnected, Event, Received, Transport
from fedclient.transport.settings import is_loopback
from fedclient.values import Broker

log = logging.getLogger(__name__)

GROUP_S: Final = 0.2  # between two commits: at most 5 a second, however many samples come
PAUSE_S: Final = 0.01  # between two turns that read for one group: each costs as much as a message
FULL: Final = 16  # messages in one turn after which there is no pause: mosquitto leaves 20 unacknowledged
GROUP: Final = 256  # messages in one commit, which must stay short
UNACKNOWLEDGED: Final = 4096  # acks that the broker may hold: one of each node there may be
RETRY_S: Final = (1.0, 60.0)  # pauses between attempts to connect, or after a disk that failed


class NodeLink:
    """Listens to nodes; `open_transport(client id)` gives the way to their broker."""

    def __init__(
        self,
        folder: DeviceFolder,
        config: Config,
        open_transport: Callable[[str], Transport],
        client_id: str,
        *,
        seed: int | None = None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._open_transport = partial(open_transport, client_id)
        self._transport = self._open_transport()  # what cannot work is refused at the start
        self._registry = Registry(folder.nodes)
        self._receiver = Receiver(config.nodes.federation)
        self._store: SampleStore | None = None
        self._intake: Intake | None = None
        self._retrying = Backoff(*RETRY_S, random.Random(seed))  # noqa: S311 - spreads retries
        self._heads = NodeHeads(folder, config)
        self._unacknowledged: set[int] = set()  # acks that the broker has not taken yet, by message id
        self._connected_s = 0.0
        self._connect_s: float | None = 0.0  # when to try; None: it is connected, or being so
        self._pending: list[Received] = []
        self._read_again_s: float | None = None  # until when messages wait in the socket
        self._committed_s = 0.0
        self._now_s = 0.0
        self._revoked: list[str] = []
        self._unreadable = ""  # why nobody knows who the nodes are
        self.reason = ""  # why nothing can be heard or stored just now

    # --- the loop's side --------------------------------------------------------------------------------
    def start(self, now_s: float) -> None:
        """Raises ConfigError for a broker that raw samples must not go to."""
        self._now_s = self._connect_s = now_s
        refuse_federation(self._folder, self._config)
        self.look()

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        link = self._transport.interests()
        if self._read_again_s is not None:
            link = {number: EVENT_WRITE for number, events in link.items() if events & EVENT_WRITE}
        return {**link, **self._heads.interests()}

    def deadline_s(self) -> float | None:
        """When to be served at the latest."""
        due = [self._connect_s, self._transport.deadline_s(), self._heads.deadline_s(), self._read_again_s]
        if self._pending:
            due.append(self._due_s)
        return min((at_s for at_s in due if at_s is not None), default=None)

    def service(self, ready: Collection[int], now_s: float, held_back: HeldBack) -> None:
        """Do what is due; `held_back` says why a child of ours may not work now."""
        self._now_s = now_s
        if self._connect_s is not None and now_s >= self._connect_s:
            self._connect()
        events = self._events(ready, now_s)
        self._heed(events)
        if self._pending and now_s >= self._due_s:
            self._commit()
        if self._pending and 0 < len(events) < FULL:
            self._read_again_s = now_s + PAUSE_S
        if self._pending and not self._heads.interests():
            return  # heads can wait for the commit
        if self._heads.service(ready, self._receiver.active, now_s, held_back):
            self._send_heads()

    def _events(self, ready: Collection[int], now_s: float) -> list[Event]:
        """Return what the transport tells; while samples are gathered it is asked now and then."""
        if self._read_again_s is not None and now_s >= self._read_again_s:
            ready, self._read_again_s = {*ready, *self._transport.interests()}, None
        return self._transport.service(ready, now_s)

    def _heed(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Connected):
                self._greet()
            elif isinstance(event, Disconnected):
                self._lost(event.reason)
            elif isinstance(event, Delivered):
                self._unacknowledged.discard(event.message_id)
            elif isinstance(event, Received):
                self._hear(event)

    def stop(self) -> None:
        """Store what was heard, and say goodbye."""
        if self._pending:
            self._commit()
        self.flush()
        self._heads.stop()
        self._transport.close()
        if self._store is not None:
            self._store.close()

    # --- who is asked -----------------------------------------------------------------------------------
    def asked(self) -> None:
        """Somebody looks: what was counted is written, and what `fedclient nodes` changed is seen."""
        if self._registry.has_changed():
            self.look()
        self.flush()

    @property
    def notes(self) -> list[str]:
        """What is wrong, in sentences."""
        return [f"nodes: {one}" for one in (self.reason, self._unreadable, self._heads.why) if one]

    def look(self) -> None:
        """Read who the nodes are; one that was revoked or renewed is spoken to no more as before."""
        try:
            nodes = self._registry.load()
        except FedClientError as error:
            log.error("no node is listened to: %s", error)
            self._unreadable, nodes = str(error), {}
        else:
            self._unreadable = ""
            self._heads.remove_others({node.name for node in nodes.values() if not node.revoked})
        self._receiver.know(nodes)
        self._revoked = [node.name for node in nodes.values() if node.revoked]
        self._send_heads()

    def flush(self) -> None:
        """Write what was counted."""
        with suppress(FedClientError):  # figures only
            intake = self._open()
            intake.refused(self._receiver.take_refused())
            intake.flush()

    # --- the connection ---------------------------------------------------------------------------------
    def _connect(self) -> None:
        self._connect_s = None
        try:
            refuse_federation(self._folder, self._config)  # it may have joined one since
            self._transport = self._open_transport()  # with the password that the file has by now
            self._transport.connect(self._now_s)
        except ConfigError as error:
            self._lost(str(error))

    def _lost(self, reason: str) -> None:
        if reason != self.reason:  # once per change
            log.warning("no connection to the nodes' broker: %s", reason)
        self.reason = reason
        if self._now_s - self._connected_s >= RETRY_S[1]:  # it was a good one
            self._retrying.reset()
        self._connect_s = self._now_s + self._retrying.next_s()

    def _greet(self) -> None:
        self.reason, self._connected_s = "", self._now_s
        self._unacknowledged.clear()
        log.info("listening to nodes at %s:%d", self._config.nodes.host, self._config.nodes.broker.port)
        with suppress(Unreachable):  # its Disconnected is on the way
            for topic in (self._receiver.topics.samples_up, self._receiver.topics.labels_up):
                self._transport.subscribe(topic)
        self._send_heads()

    def _say(self, topic: str, message: bytes, *, retain: bool = False) -> int | None:
        try:
            return self._transport.publish(topic, message, retain=retain)
        except Unreachable:
            pass  # nodes send again
        except ConfigError as error:  # what a broker says of itself is no reason to end
            log.error("%s", error)
        return None

    def _send_heads(self) -> None:
        """Leave its head on the broker for each node, and none where it gets none or was revoked."""
        if not self._transport.connected:
            return
        for node in self._receiver.active:
            keys, body = self._receiver.keys(node), self._heads.body(node)
            if keys is not None and body is not None:
                topic = self._receiver.topics.head(node)
                self._say(topic, keys.down.seal(topic, body) if body else b"", retain=True)
        for node in self._revoked:
            self._say(self._receiver.topics.head(node), b"", retain=True)

    # --- samples ----------------------------------------------------------------------------------------
    @property
    def _due_s(self) -> float:
        """When what was heard is committed: at once after a silence."""
        return self._committed_s + GROUP_S

    def _hear(self, event: Received) -> None:
        """Keep a message until the commit: many are opened in a row in half the time."""
        if len(event.payload) > MAX_NODE_SAMPLE_BYTES:
            self._receiver.open(event.topic, event.payload)  # which refuses it
            return
        self._pending.append(event)
        if len(self._pending) >= GROUP:
            self._commit()

    def _commit(self) -> None:
        pending, self._pending = self._pending, []
        self._committed_s = self._now_s
        if self._registry.has_changed():
            self.look()
        opened = (self._receiver.open(one.topic, one.payload) for one in pending)
        heard = [one for one in opened if one is not None]
        if not heard:
            return  # what is refused is no reason to write
        try:
            intake = self._open()
            intake.refused(self._receiver.take_refused())
            answers = intake.commit(heard, self._now_s)
            with self._transport.together():
                for node, ack in answers:
                    self._answer(node, ack)
            if len(self._unacknowledged) > UNACKNOWLEDGED:
                raise Unreachable(f"it left {UNACKNOWLEDGED} answers to nodes without acknowledgement")
            self._retrying.reset()
            self._heads.committed(intake.labels, self._now_s)
        except FedClientError as error:
            self._stumble(error)

    def _answer(self, node: str, ack: Ack) -> None:
        keys = self._receiver.keys(node)
        if keys is not None:
            topic = self._receiver.topics.ack(node)
            message_id = self._say(topic, keys.down.seal(topic, encode_ack(ack)))
            if message_id is not None:
                self._unacknowledged.add(message_id)

    def _open(self) -> Intake:
        if self._store is None:
            limits = self._config.limits
            self._store = SampleStore(
                self._folder.samples,
                max_rows=limits.samples_max_rows,
                max_bytes=limits.samples_max_mib << 20,
                holdout=self._config.adoption.holdout,
            )
        if self._intake is None:
            self._intake = Intake(self._store, self._config.nodes)
        return self._intake

    def _stumble(self, error: FedClientError) -> None:
        """Let go of the connection for a while: nodes keep what they saw no answer to."""
        if self._store is not None:
            if isinstance(error, StorageDamaged):
                with suppress(FedClientError):
                    self._store.recheck()
            self._store.close()
        self._store = self._intake = None  # opened and read anew: somebody may have removed the file
        self._transport.close()
        self._lost(str(error))


def refuse_federation(folder: DeviceFolder, config: Config) -> None:
    """Raise ConfigError when the nodes' broker is the federation's: what nodes send is raw data."""
    stored = enrolment.load(folder.enrolment)
    if stored is None and config.broker.host is None:
        return
    ours = config.nodes.broker
    theirs = config.broker.resolve(None if stored is None else stored.invitation.broker)
    if _is_same(ours, theirs):
        raise ConfigError(
            f"[nodes] host {ours.host}:{ours.port} is the federation's broker, and samples must not leave "
            "for it: give the nodes a broker of their own"
        )


def _is_same(ours: Broker, theirs: Broker) -> bool:
    """Whether two addresses lead to one broker: on this machine ports tell brokers apart, elsewhere hosts.

    Names are resolved only where it matters, for a resolver without a network keeps the loop waiting.
    """
    if is_loopback(ours.host):
        return ours.port == theirs.port and _is_here(theirs)
    return ours.host.casefold() == theirs.host.casefold() or bool(_addresses(ours) & _addresses(theirs))


def _is_here(broker: Broker) -> bool:
    return is_loopback(broker.host) or any(map(is_loopback, _addresses(broker)))


def _addresses(broker: Broker) -> set[str]:
    try:
        found = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()  # then nobody connects to it either
    return {str(address[0]) for *_, address in found}
