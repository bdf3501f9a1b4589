"""A cable between one device and the broker, that can be cut, and that can lose one direction."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Cable:
    """Forwards connections to `port`.

    `deaf`: what the broker says is swallowed, what the device says arrives.
    `cut`: there is no connection, and no new one.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._devices: set[socket.socket] = set()  # the ends that devices opened
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.deaf = self.cut = self._over = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.notice()
        self._thread.join()

    def notice(self) -> None:
        """Act on a change of `cut` now."""
        self._waker.send(b".")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._over:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fileobj is self._wake:
                        self._wake.recv(64)
                    elif key.fileobj in self._peers:
                        self._forward(selector, key.fileobj)
                if self.cut:
                    for end in list(self._peers):
                        self._close(selector, end)
            for end in list(self._peers):
                self._close(selector, end)
        for one in (self._listener, self._wake, self._waker):
            one.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        device, _ = self._listener.accept()
        try:
            broker = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            device.close()
            return
        self._peers.update({device: broker, broker: device})
        self._devices.add(device)
        for end in (device, broker):
            selector.register(end, selectors.EVENT_READ)

    def _forward(self, selector: selectors.BaseSelector, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            if data and (end in self._devices or not self.deaf):
                self._peers[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(selector, end)

    def _close(self, selector: selectors.BaseSelector, end: socket.socket) -> None:
        other = self._peers.pop(end, None)
        if other is None:
            return
        self._peers.pop(other)
        for one in (end, other):
            self._devices.discard(one)
            with suppress(KeyError):
                selector.unregister(one)
            one.close()
