"""A small MQTT 3.1.1 client: QoS 0 and 1, last will, keep-alive; called like umqtt.simple.

Other than there, no wait is without an end, a message larger than `limit` is skipped before anything
is allocated for it (and acknowledged, or the broker would send it for ever), and a broker that no longer
answers pings is noticed.  Any OSError means: connect again.
"""

import select
import socket
import time
from struct import pack, unpack_from


class MQTTException(Exception):
    """The broker refused the connection; the argument is its return code."""


class MQTTClient:
    """One connection; `check_msg` calls what `set_callback` was given with (topic, message).

    Looking up a name and TLS's handshake have no bound of ours; each other wait for the network is of
    `timeout` seconds at most.
    """

    def __init__(self, client_id, server, port=0, user=None, password=None, keepalive=0, ssl=None):
        self.limit = 65536  # bytes of a message that comes
        self.patience = 60000  # ms that a call may take, whatever the broker sends meanwhile
        self.skipped = 0  # messages above it, or above what there is memory for
        self.keepalive = keepalive  # seconds
        self.sock = None
        self._address = (server, port or (8883 if ssl else 1883))
        self._ssl = ssl
        self._id = client_id
        self._login = (user, password)
        self._will = None
        self._callback = None
        self._packet_id = 0
        self._pinged = False
        self._poll = None
        self._began = 0  # when the call that is under way did
        self._timeout = 0  # ms
        self._out = bytearray()  # the packet that goes out; kept, so that it takes its memory once
        self._few = bytearray(4)  # of the one that comes in
        self._one, self._two = memoryview(self._few)[:1], memoryview(self._few)[:2]

    def set_callback(self, f):
        self._callback = f

    def set_last_will(self, topic, msg, retain=False, qos=0):
        self._will = (topic, msg, retain, qos)

    def connect(self, clean_session=True, timeout=15):
        """Return whether the broker kept a session."""
        self.close()
        self._began = time.ticks_ms()
        self._timeout = int(timeout * 1000)
        self.sock = socket.socket()
        self.sock.settimeout(timeout)
        self.sock.connect(socket.getaddrinfo(*self._address)[0][-1])
        if self._ssl:
            self.sock = self._ssl.wrap_socket(self.sock, server_hostname=self._address[0])
        self.sock.setblocking(False)  # else `readinto` waits for all of its bytes, and anew for each
        self._pinged = False
        self._poll = select.poll()
        self._poll.register(self.sock, select.POLLIN)
        flags, texts = self._said_of_itself(clean_session)
        self._begin(0x10, 10 + sum(2 + len(text) for text in texts))
        self._out.extend(b"\0\4MQTT\4")
        self._out.append(flags)
        self._out.extend(pack(">H", self.keepalive))
        for text in texts:
            self._put(text)
        self._send()
        self._fill(self._few)
        if self._few[:2] != b"\x20\x02":
            raise OSError("not an MQTT broker")
        if self._few[3]:
            raise MQTTException(self._few[3])
        return bool(self._few[2] & 1)

    def disconnect(self):
        self._began = time.ticks_ms()
        try:
            self._begin(0xE0, 0)
            self._send()
        finally:
            self.close()

    def close(self):
        """End the connection without a word: the broker publishes the last will."""
        if self.sock:
            self.sock.close()
            self.sock = None

    def ping(self):
        if self._pinged:
            raise OSError("no answer to a ping")
        self._pinged = True
        self._began = time.ticks_ms()
        self._begin(0xC0, 0)
        self._send()

    def publish(self, topic, msg, retain=False, qos=0):
        """Send; with QoS 1 return when the broker has it."""
        self._began = time.ticks_ms()
        topic = _bytes(topic)
        self._begin(0x30 | qos << 1 | retain, 2 + len(topic) + (2 if qos else 0) + len(msg))
        self._put(topic)
        if qos:
            self._put_next_id()
        self._out.extend(msg)
        self._send()
        if qos:
            self._until(0x40)

    def subscribe(self, topic, qos=0):
        self._began = time.ticks_ms()
        topic = _bytes(topic)
        self._begin(0x82, 2 + 2 + len(topic) + 1)
        self._put_next_id()
        self._put(topic)
        self._out.append(qos)
        self._send()
        self._until(0x90)

    def wait_msg(self):
        """Handle the one packet that comes next."""
        self._began = time.ticks_ms()
        return self._packet()[0]

    def check_msg(self):
        """Handle one packet if there is one."""
        for _ in self._poll.ipoll(0):
            return self.wait_msg()
        return None

    def _said_of_itself(self, clean_session):
        """Return the flags and the texts of the first packet."""
        flags = clean_session << 1
        texts = [_bytes(self._id)]
        if self._will:
            topic, msg, retain, qos = self._will
            flags |= 4 | qos << 3 | retain << 5
            texts += [_bytes(topic), _bytes(msg)]
        user, password = self._login
        if user is not None:
            flags |= 0x80
            texts.append(_bytes(user))
        if password is not None:
            flags |= 0x40
            texts.append(_bytes(password))
        return flags, texts

    def _until(self, kind):
        """Handle packets until the last one of ours is answered."""
        while self._packet() != (kind, self._packet_id):
            pass

    def _packet(self):
        """Read one packet; return its first byte and the packet id that it answers, or 0."""
        kind = self._byte()
        size = shift = 0
        while True:
            byte = self._byte()
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift == 28:
                raise OSError("not MQTT")
        if kind & 0xF0 == 0x30:
            self._message(kind, size)
            return kind, 0
        if size > 3:
            raise OSError("an answer of the wrong length")
        answers = self._short() if size > 1 else 0
        code = self._byte() if size & 1 else 0
        if kind == 0xD0:
            self._pinged = False
        if kind == 0x90 and code == 0x80:
            raise OSError("the broker refused the subscription")
        return kind, answers

    def _message(self, kind, size):
        qos = kind >> 1 & 3
        length = self._short()
        rest = size - 2 - length - (2 if qos else 0)
        if qos > 1 or rest < 0:
            raise OSError("not MQTT")
        fits = size <= self.limit
        topic = self._exactly(length) if fits else self._skip(length)
        packet_id = self._short() if qos else 0
        msg = _room(rest) if fits else None
        if msg is None:
            self._skip(rest)
            self.skipped += 1
        else:
            self._fill(msg)
        if msg is not None and self._callback:
            self._callback(topic, msg)
        if qos:
            self._begin(0x40, 2)
            self._out.extend(pack(">H", packet_id))
            self._send()

    def _skip(self, size):
        while size > 0:
            self._exactly(min(size, 64))
            size -= 64

    def _byte(self):
        self._fill(self._one)
        return self._few[0]

    def _short(self):
        self._fill(self._two)
        return unpack_from(">H", self._few)[0]

    def _exactly(self, size):
        data = bytearray(size)
        self._fill(data)
        return data

    def _fill(self, data):
        """Read until these bytes are full."""
        at = 0
        while at < len(data):
            self._left()
            got = self.sock.readinto(memoryview(data)[at:] if at else data)
            if got is None:
                self._wait(select.POLLIN)
            elif got:
                at += got
            else:
                raise OSError("the broker is gone")

    def _left(self):
        """Return how many ms of patience are left."""
        left = self.patience - time.ticks_diff(time.ticks_ms(), self._began)
        if not 0 < left <= self.patience:
            raise OSError("the broker does not come to an end")
        return left

    def _wait(self, event):
        """Wait until the socket may be read, or written."""
        left = self._left()
        self._poll.modify(self.sock, event)
        ready = False
        for _ in self._poll.ipoll(min(self._timeout, left)):
            ready = True
        self._poll.modify(self.sock, select.POLLIN)
        if not ready and self._timeout <= left:
            raise OSError("no answer in time")

    def _begin(self, kind, size):
        """Begin a packet with so many bytes behind its length."""
        self._out[:] = b""
        self._out.append(kind)
        while size > 127:
            self._out.append(size & 127 | 128)
            size >>= 7
        self._out.append(size)

    def _put(self, text):
        self._out.extend(pack(">H", len(text)))
        self._out.extend(text)

    def _put_next_id(self):
        self._packet_id = self._packet_id % 65535 + 1
        self._out.extend(pack(">H", self._packet_id))

    def _send(self):
        at = 0  # in one piece: two segments would wait for each other
        while at < len(self._out):
            sent = self.sock.write(memoryview(self._out)[at:] if at else self._out)
            if sent is None:
                self._wait(select.POLLOUT)
            elif sent:
                at += sent
            else:
                raise OSError("the broker is gone")


def _room(size):
    """Return so many bytes, or None where the heap has no room: a retained message would come for ever."""
    try:
        return bytearray(size)
    except MemoryError:
        return None


def _bytes(text):
    return text.encode() if isinstance(text, str) else text
