"""A small MQTT 3.1.1 client: QoS 0 and 1, last will, keep-alive; called like umqtt.simple.

Other than there, no wait is without an end, a message larger than `limit` is skipped before anything
is allocated for it (and acknowledged, or the broker would send it for ever), and a broker that no longer
answers pings is noticed.  Any OSError means: connect again.
"""

import select
import socket
from struct import pack, unpack

_QOS1 = 2


class MQTTException(Exception):
    """The broker refused the connection; the argument is its return code."""


class MQTTClient:
    """One connection; `check_msg` calls what `set_callback` was given with (topic, message)."""

    def __init__(self, client_id, server, port=0, user=None, password=None, keepalive=0, ssl=None):
        self.limit = 65536  # bytes of a message that comes
        self.skipped = 0  # messages above it
        self.sock = None
        self._address = (server, port or (8883 if ssl else 1883))
        self._ssl = ssl
        self._id = client_id
        self._login = (user, password)
        self._keepalive = keepalive
        self._will = None
        self._callback = None
        self._packet_id = 0
        self._pinged = False
        self._poll = None

    def set_callback(self, f):
        self._callback = f

    def set_last_will(self, topic, msg, retain=False, qos=0):
        self._will = (topic, msg, retain, qos)

    def connect(self, clean_session=True, timeout=15):
        """Return whether the broker kept a session."""
        self.sock = socket.socket()
        self.sock.settimeout(timeout)
        self.sock.connect(socket.getaddrinfo(*self._address)[0][-1])
        if self._ssl:
            self.sock = self._ssl.wrap_socket(self.sock, server_hostname=self._address[0])
        self._pinged = False
        self._poll = select.poll()
        self._poll.register(self.sock, select.POLLIN)
        flags = clean_session << 1
        texts = [self._id]
        if self._will:
            topic, msg, retain, qos = self._will
            flags |= 4 | qos << 3 | retain << 5
            texts += [topic, msg]
        user, password = self._login
        if user is not None:
            flags |= 0x80
            texts.append(user)
        if password is not None:
            flags |= 0x40
            texts.append(password)
        body = bytearray(b"\0\4MQTT\4" + bytes([flags]) + pack(">H", self._keepalive))
        for text in texts:
            _put(body, text)
        self._send(0x10, body)
        if self._exactly(2) != b"\x20\x02":
            raise OSError("not an MQTT broker")
        present, code = self._exactly(2)
        if code:
            raise MQTTException(code)
        return bool(present & 1)

    def disconnect(self):
        try:
            self._send(0xE0, b"")
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
        self._send(0xC0, b"")

    def publish(self, topic, msg, retain=False, qos=0):
        """Send; with QoS 1 return when the broker has it."""
        body = bytearray()
        _put(body, topic)
        if qos:
            body.extend(self._next_id())
        body.extend(msg)
        self._send(0x30 | qos << 1 | retain, body)
        if qos:
            self._until(0x40, self._packet_id)

    def subscribe(self, topic, qos=0):
        body = bytearray(self._next_id())
        _put(body, topic)
        body.append(qos)
        self._send(0x82, body)
        self._until(0x90, self._packet_id)

    def wait_msg(self):
        """Handle the one packet that comes next."""
        return self._packet()[0]

    def check_msg(self):
        """Handle one packet if there is one."""
        if self._poll.poll(0):
            return self.wait_msg()
        return None

    def _next_id(self):
        self._packet_id = self._packet_id % 65535 + 1
        return pack(">H", self._packet_id)

    def _until(self, kind, packet_id):
        while self._packet() != (kind, packet_id):
            pass

    def _packet(self):
        """Read one packet; return its first byte and the packet id that it answers, or 0."""
        kind = self._exactly(1)[0]
        size = shift = 0
        while True:
            byte = self._exactly(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift == 28:
                raise OSError("not MQTT")
        if kind & 0xF0 == 0x30:
            self._message(kind, size)
            return (kind, 0)
        if size > 3:
            raise OSError("an answer of the wrong length")
        body = self._exactly(size)
        if kind == 0xD0:
            self._pinged = False
        if kind == 0x90 and body[2:] == b"\x80":
            raise OSError("the broker refused the subscription")
        return (kind, unpack(">H", body)[0] if size > 1 else 0)

    def _message(self, kind, size):
        qos = kind >> 1 & 3
        length = unpack(">H", self._exactly(2))[0]
        rest = size - 2 - length - (2 if qos else 0)
        if qos > 1 or rest < 0:
            raise OSError("not MQTT")
        fits = size <= self.limit
        topic = self._exactly(length) if fits else self._skip(length)
        answer = self._exactly(2) if qos else None
        msg = self._exactly(rest) if fits else self._skip(rest)
        if not fits:
            self.skipped += 1
        elif self._callback:
            self._callback(topic, msg)
        if answer:
            self._send(0x40, answer)

    def _skip(self, size):
        while size > 0:
            self._exactly(min(size, 64))
            size -= 64

    def _exactly(self, size):
        data = bytearray(size)
        view = memoryview(data)
        at = 0
        while at < size:
            got = self.sock.readinto(view[at:])
            if not got:  # None: nothing in time
                raise OSError("the broker is gone")
            at += got
        return data

    def _send(self, kind, body):
        packet = bytearray([kind])
        size = len(body)
        while size > 127:
            packet.append(size & 127 | 128)
            size >>= 7
        packet.append(size)
        packet.extend(body)  # one segment: two would wait for each other
        view = memoryview(packet)
        while len(view) > 0:
            sent = self.sock.write(view)
            if not sent:
                raise OSError("the broker is gone")
            view = view[sent:]


def _put(body, text):
    if isinstance(text, str):
        text = text.encode()
    body.extend(pack(">H", len(text)))
    body.extend(text)
