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
from struct import pack

from . import cbor
from .counters import Counters
from .head import Head, number
from .hmac import equal, hmac
from .ring import Ring

_CONTEXT = b"fedclient node 1"
_TAG = 16
_WINDOW = 1024
_AFRESH = 1 << 20  # above all that an earlier life may have used
_ACK_BYTES = 1536
_LIST = 64  # ranges, or counters gone, in an ack
_BURST = 16  # messages sent in one poll
_MOST = 1 << 53


def typed(values: object, scale: object = None) -> tuple:
    """Return tag, bytes and scale of an array of b, h (with a scale) or f (without)."""
    data = bytes(values)
    size = len(data) // len(values)
    if scale is None:
        if size != 4:
            raise ValueError("integers need a scale")
        for at in range(0, len(data), 4):
            number(data, at)
        return cbor.FLOAT32, data, None
    if size > 2:
        raise ValueError("a scale goes with an array of b or h")
    if not isinstance(scale, bytes):
        scale = pack("<f", scale)
    mantissa, exponent = number(scale)
    if mantissa <= 0 or exponent > 88:
        raise ValueError("a scale is above 0 and below 2^112")
    return (cbor.INT8 if size == 1 else cbor.INT16), data, scale


def _label(label: object) -> object:
    if isinstance(label, str):
        if not 0 < len(label.encode()) <= 64:
            raise ValueError("a label has 1 to 64 bytes")
        for one in label:
            if not (" " <= one <= "~" or ("\xa0" < one < "\u2000" and one != "\xad")):
                raise ValueError("a label prints in one line")
    elif label is not None and not 0 <= label <= _MOST:
        raise ValueError("a label is 0 to 2^53")
    return label


class Node:
    """Needs a client called like umqtt.simple's, and a folder for what must outlive a power cut."""

    def __init__(self, settings, client, folder="", capacity=64, keep=False):
        generation = settings["generation"]
        secret = bytes.fromhex(settings["secret"])
        self._up = hmac(secret, _CONTEXT, b" up", pack(">I", generation))
        self._down = hmac(secret, _CONTEXT, b" down", pack(">I", generation))
        self._prefix = "fl/v1/%s/node/%s/" % (settings["federation"], settings["node"])
        self.nonce = os.urandom(8)
        self.client = client
        self.head_limit = getattr(client, "limit", 65536)
        self.counters = Counters(folder, generation)
        self.ring = Ring(capacity, folder + "ring" if keep else "")
        self.connected = False
        self.error = None  # why it is not
        self.refused = 0  # messages that were not for us, not genuine or not sound
        self.keepalive = 60  # seconds, as the client was told
        self.retry = (2000, 300000)  # ms between two times that something is sent: first, most
        self._wait = self.retry[0]
        self._wait_connect = 0
        self._due = self._connect_due = self._spoke = time.ticks_ms()
        self._answered = False  # whether an ack of this boot has come
        self._number = 0
        self._head_path = folder + "head"
        client.set_callback(self._incoming)
        if self.counters.base is not None:
            self.ring.begin(self.counters.base)
        self.head = self._load(self._head_path) or self._load(self._head_path + ".old")

    def sample(self, values, scale=None, label=None) -> int:
        """Queue a reading; return its number, good until the next boot."""
        tag, data, scale = typed(values, scale)
        tail = cbor.put(bytearray(), (tag, data))
        cbor.put(tail, scale)
        return self._push(0, cbor.put(tail, _label(label)))

    def label(self, of: int, label) -> int:
        """Queue the label of a sample, or with None that it has none."""
        if not 0 < of <= self._number:
            raise ValueError("no such sample")
        return self._push(of, cbor.put(bytearray(), _label(label)))

    def predict(self, values, scale=None):
        """Return the name of the class, or its number where the head has no names; None without a head."""
        if not self.head:
            return None
        which = self.head.predict(*typed(values, scale))
        return self.head.labels[which] if self.head.labels else which

    def poll(self) -> bool:
        """Do what is due; return whether the broker is there."""
        try:
            if not self.connected:
                if not self._is(self._connect_due):
                    return False
                self._connect()
            for _ in range(_BURST):
                if self.client.check_msg() is None:
                    break
            if time.ticks_diff(time.ticks_ms(), self._spoke) > self.keepalive * 500:
                self._spoke = time.ticks_ms()
                self.client.ping()
            self._send()
        except Exception as error:  # clients fail in many ways: OSError, assert, None[0]
            self._lost(error)
        return self.connected

    def _push(self, of: int, tail: bytearray) -> int:
        if self.counters.base is not None:
            self.counters.reserve(self.counters.base + self._number + 1)
        self._number += 1
        self.ring.push(self._number, of, bytes(tail))
        return self._number

    def _connect(self) -> None:
        self.client.connect()
        self.connected = True
        self._spoke = time.ticks_ms()
        self.client.subscribe(self._prefix + "ack", 1)
        self.client.subscribe(self._prefix + "head", 1)
        self.error = None
        self._wait_connect = 0
        self._wait = self.retry[0]
        self._due = time.ticks_ms()
        self.ring.unsent()  # what was on its way may be lost

    def _lost(self, error: Exception) -> None:
        self.error = error
        self.connected = False
        self._wait_connect = min(self._wait_connect * 2 or 1000, 60000)
        self._connect_due = self._after(self._wait_connect)
        try:
            self.client.sock.close()
        except Exception:  # there was none
            pass

    def _is(self, due: int) -> bool:
        return time.ticks_diff(time.ticks_ms(), due) >= 0

    def _after(self, wait: int) -> int:
        # Up to a quarter more, or all nodes of a house would come at once.
        return time.ticks_add(time.ticks_ms(), wait + wait * os.urandom(1)[0] // 1024)

    def _send(self) -> None:
        if not self._answered:
            if self._is(self._due):
                self._back_off()
                self._publish("label", cbor.put(bytearray(), [self.nonce, 0, 0, None]))
            return
        if self.ring.entries and self._is(self._due):
            self._back_off()
            self.ring.unsent()
        for _ in range(_BURST):
            entry = self._next()  # looked up anew: answers come while we send
            if not entry:
                return
            entry[3] = True
            self._publish("label" if entry[1] else "sample", self._body(entry))

    def _next(self):
        counter = self.ring.counter
        oldest = counter(self.ring.entries[0][0]) if self.ring.entries else 0
        for entry in self.ring.entries:
            if not entry[3] and counter(entry[0]) - oldest < _WINDOW:
                return entry
        return None

    def _body(self, entry: list) -> bytearray:
        which, of, tail, _ = entry
        body = bytearray(b"\x84" if of else b"\x85")
        cbor.put(body, self.nonce)
        cbor.put(body, self.ring.counter(which))
        if of:
            cbor.put(body, self.ring.counter(of))
        body.extend(tail)
        return body

    def _back_off(self) -> None:
        self._due = self._after(self._wait)
        self._wait = min(self._wait * 2, self.retry[1])

    def _publish(self, kind: str, body: bytearray) -> None:
        topic = self._prefix + kind
        body.extend(self._tag(self._up, topic, body))
        self._spoke = time.ticks_ms()
        self.client.publish(topic, body, False, 1)

    def _tag(self, key: bytes, topic: str, body: bytes) -> bytes:
        return hmac(key, _CONTEXT, b"\0", topic.encode(), b"\0", body)[:_TAG]

    def _open(self, kind: str, message: bytes, most: int) -> memoryview:
        """Return the body of a genuine message; raises ValueError."""
        if not _TAG < len(message) <= most:
            raise ValueError("a length that cannot be")
        view = memoryview(message)
        if not equal(self._tag(self._down, self._prefix + kind, view[:-_TAG]), view[-_TAG:]):
            raise ValueError("not genuine")
        return view[:-_TAG]

    def _incoming(self, topic: bytes, message: bytes) -> None:
        try:
            if topic == (self._prefix + "ack").encode():
                self._on_ack(cbor.read(self._open("ack", message, _ACK_BYTES)))
            elif topic == (self._prefix + "head").encode():
                if message:  # empty: the retained one was cleared
                    self._on_head(message)
            else:
                raise ValueError("another topic")
        except (ValueError, MemoryError):
            self.refused += 1

    def _on_ack(self, body: object) -> None:
        nonce, below, top, settled = _ack(body)
        if nonce != self.nonce:
            raise ValueError("for another boot")
        base = self.counters.base
        if base is None or top > (self.counters.end if self._answered else base + 1):
            # We do not know what we sent in an earlier life; what that life kept has its counters still.
            self.ring.settle(below, settled, earlier=True)
            self.counters.begin(top + _AFRESH - 1)
            self.counters.reserve(self.counters.base + self._number)
            self.ring.begin(self.counters.base)
            self.ring.unsent()
        elif not self.ring.settle(below, settled) and self._answered:
            return
        self._answered = True
        self._wait = self.retry[0]
        self._due = self._after(self._wait)

    def _on_head(self, message: bytes) -> None:
        gc.collect()
        head = Head(self._open("head", message, self.head_limit))
        if head.version < self.counters.floor:
            raise ValueError("below the floor")
        if self.head and head.version <= self.head.version:
            return  # the same again, at every connection
        self._keep(message)
        self.counters.raise_floor(head.version)
        self.head = head

    def _keep(self, message: bytes) -> None:
        path = self._head_path
        with open(path + ".new", "wb") as file:
            file.write(message)
            file.flush()
        if self._load(path):
            os.rename(path, path + ".old")
        os.rename(path + ".new", path)

    def _load(self, path: str):
        try:
            if os.stat(path)[6] > self.head_limit:
                return None
            with open(path, "rb") as file:
                return Head(self._open("head", file.read(), self.head_limit))
        except (OSError, ValueError):  # none, damaged, or of an earlier secret
            return None


def _ack(body: object) -> tuple:
    """Return nonce, `next`, the counter after the last taken and all that is settled; raises ValueError."""
    if not isinstance(body, list) or len(body) != 4:
        raise ValueError("not an ack")
    nonce, below, ranges, gone = body
    if not isinstance(nonce, memoryview) or not isinstance(ranges, list) or not isinstance(gone, list):
        raise ValueError("not an ack")
    if len(nonce) != 8 or len(ranges) > _LIST or len(gone) > _LIST:
        raise ValueError("too many")
    top = _counter(below, 1)
    for pair in ranges:
        if not isinstance(pair, list) or len(pair) != 2 or _counter(pair[1], 1) > _WINDOW:
            raise ValueError("not a range")
        top = _counter(pair[0], top + 1) + pair[1]
    last = 0
    for one in gone:
        last = _counter(one, last + 1)
    return bytes(nonce), below, top, ranges + [[one, 1] for one in gone]


def _counter(one: object, least: int) -> int:
    if not isinstance(one, int) or not least <= one <= _MOST + 1:
        raise ValueError("not a counter")
    return one
