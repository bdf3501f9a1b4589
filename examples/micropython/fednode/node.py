"""A node: queues samples and labels, sends them until they are settled, takes heads, predicts.

    node = Node(settings, client)        settings: what `fedclient nodes export-secrets` printed
    number = node.sample(array("h", [...]), scale=0.01)
    node.label(number, "warm")
    node.predict(array("h", [...]), scale=0.01)
    while True:
        node.poll()                      often; a broker that is away is not an error

docs/wire-format.md, section 14, has the rules.
"""

import gc
import os
import time

from micropython import const

from . import cbor
from .channel import channels
from .counters import Counters
from .headfile import HeadFile
from .messages import WINDOW, checked_label, read_ack, typed
from .ring import Ring
from .timer import Timer

_AFRESH = 1 << 20  # above all that an earlier life may have used
_ACK_BYTES = const(1536)
_HEAD_BYTES = const(65536)
_BURST = const(16)  # messages read, and messages sent, in one poll
_FLASH_MS = const(60000)  # between two tries to write to a flash that took nothing


class Node:
    """Needs a client called like umqtt.simple's, and a folder for what must outlive a power cut.

    `capacity` samples and labels wait in RAM; with keep=True in a file as well, with keep="flush" what
    `flush` could not send.  Broker and flash may fail at any time: nothing raises for that, `error` has it.
    """

    def __init__(self, settings, client, folder="", capacity=64, keep=False):
        self.client = client
        self.connected = False
        self.refused = 0  # messages that were not for us, not genuine or not sound
        self.keepalive = getattr(client, "keepalive", 60)  # seconds; 0: no pings
        self.retry = (2000, 300000)  # ms between two times that something is sent, or connected: first, most
        self.nonce = os.urandom(8)
        self._samples, self._labels, self._acks, self._heads = channels(settings)
        self._body = bytearray()  # of what goes out; kept, so that it takes its memory once
        self._number = 0  # of the newest sample or label
        self._answered = False  # whether an ack of this boot has come: before, we only ask
        self._resend, self._reconnect, self._quiet, self._flash = Timer(), Timer(), Timer(), Timer()
        self._wait = self.retry[0]
        self._wait_connect = 0
        self._in_vain = False  # whether the longest wait has been waited
        self._network_error = self._flash_error = None
        self._lazy = keep == "flush"
        self.counters = Counters(folder, settings["generation"])
        self.ring = _ring(capacity, folder + "ring" if keep else None)
        if self.counters.base is not None:
            self.ring.begin(self.counters.base)
        self._head_file = HeadFile(folder + "head", self._heads, getattr(client, "limit", _HEAD_BYTES))
        self.head = self._head_file.load()
        client.set_callback(self._incoming)

    @property
    def error(self) -> Exception | None:
        """What is wrong with the broker, or else with the flash."""
        return self._network_error or self._flash_error

    def sample(self, values, scale=None, label=None) -> int:
        """Queue a reading: an array of b or h with a scale, or of f without.

        Return its number, good until the next boot; raises ValueError for what no sample is, and MemoryError.
        """
        tag, data, scale = typed(values, scale)
        label = checked_label(label)
        tail = cbor.put(self._emptied(), (tag, data))
        cbor.put(tail, scale)
        return self._queue(0, cbor.put(tail, label))

    def label(self, of: int, label) -> int:
        """Queue the label of a sample, or with None that it has none; raises ValueError."""
        if not 0 < of <= self._number:
            raise ValueError("no such sample")
        label = checked_label(label)
        return self._queue(of, cbor.put(self._emptied(), label))

    def predict(self, values, scale=None):
        """Return the name of the class, or its number where the head has no names.

        None without a head, or where it is one for another number of values: other nodes have other sensors.
        Raises ValueError for what no sample is, and MemoryError.
        """
        if not self.head or self.head.columns != len(values):
            return None
        which = self.head.predict(*typed(values, scale))
        return self.head.labels[which] if self.head.labels else which

    def poll(self) -> bool:
        """Do what is due; return whether the broker is there.  The client says how long that may take."""
        try:
            if not self.connected:
                if not self._reconnect.is_over():
                    return False
                self._connect()
            for _ in range(_BURST):
                if self.client.check_msg() is None:
                    break
            if self.keepalive and self._quiet.is_over():
                self._speak()
                self.client.ping()
            self._send()
        except Exception as error:  # clients fail in many ways: OSError, assert, None[0]
            self._lost(error)
        return self.connected

    def flush(self, timeout_ms: int = 20000) -> bool:
        """Poll until all is settled or the time is over, then disconnect; return whether all is.

        For nodes that sleep: what is left goes to the file, if there is one.
        """
        time_left = Timer()
        time_left.start(timeout_ms)
        while len(self.ring) and not time_left.is_over():
            self.poll()
            time.sleep_ms(10)
        if self.ring.durable:
            self._on_flash(self._store)
        if self.connected:
            self.connected = False
            try:
                self.client.disconnect()
            except Exception:  # it was gone already
                pass
        return not len(self.ring)

    def _emptied(self) -> bytearray:
        self._body[:] = b""
        return self._body

    def _queue(self, of: int, tail: bytearray) -> int:
        self.ring.push(self._number + 1, of, tail)
        self._number += 1
        self._save()
        return self._number

    def _save(self) -> None:
        if self.ring.durable and not self._lazy:
            self._on_flash(self._store)

    def _store(self) -> None:
        if self.counters.base is not None:
            self.counters.reserve(self.counters.base + self._number)  # before the file has it
        self.ring.save()

    def _on_flash(self, write, *arguments) -> bool:
        """Return whether a write succeeded; after one that did not, flash is left alone for a while."""
        if not self._flash.is_over():
            return False
        try:
            write(*arguments)
            self._flash_error = None
        except OSError as error:
            self._flash_error = error
            self._flash.start(_FLASH_MS)
        return not self._flash_error

    def _connect(self) -> None:
        self.client.connect()
        self.connected = True
        self._speak()
        self.client.subscribe(self._acks.topic, 1)
        self.client.subscribe(self._heads.topic, 1)
        self._network_error = None
        if not self._in_vain:
            self._wait = self.retry[0]
        self._in_vain = False
        self._resend.start(0)
        self.ring.sent = 0  # what was on its way may be lost

    def _lost(self, error: Exception) -> None:
        self._network_error = error
        self.connected = False
        self._wait_connect = min(self._wait_connect * 2 or self.retry[0] // 2, self.retry[1] // 5)
        self._reconnect.start_about(self._wait_connect)
        try:
            self.client.sock.close()
        except Exception:  # there was none
            pass

    def _speak(self) -> None:
        self._quiet.start(int(self.keepalive * 500))

    def _send(self) -> None:
        if not self._answered:
            if self._resend.is_over():
                self._back_off()
                self._publish(self._labels, cbor.put(self._emptied(), [self.nonce, 0, 0, None]))
            return
        if len(self.ring) and self._resend.is_over():
            self._back_off()
            self.ring.sent = 0
        for _ in range(_BURST):
            if not self._send_next():
                return

    def _send_next(self) -> bool:
        place = self.ring.sent
        if place == len(self.ring):
            return False
        counter = self.ring.counter_at(place)
        if counter - self.ring.oldest() >= WINDOW:
            return False
        if counter >= self.counters.end and not self._on_flash(self.counters.reserve, counter):
            return False
        label, body = self._message(place)
        self.ring.sent = place + 1  # before an answer comes that moves the entries
        self._publish(self._labels if label else self._samples, body)
        return True

    def _message(self, place: int) -> tuple:
        """Return whether the entry at a place is a label, and the body that says it."""
        number, of, tail = self.ring.entry(place)
        body = self._emptied()
        body.append(0x84 if of else 0x85)  # an array of so many
        cbor.put(body, self.nonce)
        cbor.put(body, self.ring.counter(number))
        if of:
            cbor.put(body, self.ring.counter(of))
        body.extend(tail)
        return of != 0, body

    def _back_off(self) -> None:
        if self._in_vain:
            # The broker may have forgotten what we subscribed to, or the connection may end somewhere else.
            raise OSError("no answer")
        self._in_vain = self._wait >= self.retry[1]
        self._resend.start_about(self._wait)
        self._wait = min(self._wait * 2, self.retry[1])

    def _publish(self, channel: object, body: bytearray) -> None:
        self._speak()
        self.client.publish(channel.topic, channel.seal(body), False, 1)

    def _incoming(self, topic: bytes, message: bytes) -> None:
        try:
            if topic == self._acks.topic:
                self._on_ack(cbor.read(self._acks.open(message, _ACK_BYTES)))
            elif topic == self._heads.topic:
                if message:  # empty: the retained one was cleared
                    self._on_head(message)
            else:
                raise ValueError("another topic")
        except (ValueError, MemoryError):
            self.refused += 1

    def _on_ack(self, body: object) -> None:
        nonce, below, top, ranges = read_ack(body)
        if nonce != self.nonce:
            raise ValueError("for another boot")
        base = self.counters.base
        oldest = 0
        if base is None or top > (self.counters.end if self._answered else base + 1):
            # We never sent those: an earlier life did, of which our flash knows nothing.
            if not self._begin_above(top, below, ranges):
                return
        else:
            oldest = self.ring.oldest()
            if not self.ring.settle(below, ranges) and self._answered:
                return  # nothing new: waits go on
        self._wait = self.retry[0]
        if not self._answered or self.ring.oldest() != oldest:
            # One that is lost is sent again in time, whatever is settled behind it.
            self._resend.start_about(self._wait)
        self._answered = True
        self._in_vain = False
        self._wait_connect = 0
        self._save()

    def _begin_above(self, top: int, below: int, ranges: list) -> bool:
        """Give what this boot queued counters far above `top`; return False where flash did not take it."""
        self._answered = False  # send nothing until it did
        # What an earlier life kept has its counters still, and the ack may settle it.
        self.ring.settle(below, ranges, this_boot=False)
        if not self._on_flash(self.counters.begin, top + _AFRESH - 1):
            return False
        self.ring.begin(self.counters.base)
        self.ring.sent = 0
        return True

    def _on_head(self, message: bytes) -> None:
        gc.collect()
        head = self._head_file.read(message)
        if head.version < self.counters.floor:
            raise ValueError("below the floor")
        if self.head and head.version <= self.head.version:
            return  # the same again, at every connection
        if self._on_flash(self._keep_head, message, head.version):
            self.head = head

    def _keep_head(self, message: bytes, version: list) -> None:
        self._head_file.keep(message)
        self.counters.raise_floor(version)


def _ring(capacity: int, path: str | None) -> Ring:
    if path is None:
        return Ring(capacity)
    from .ringfile import FileRing  # takes memory where it is needed

    return FileRing(capacity, path)
