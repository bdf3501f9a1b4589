"""The head on flash, and the one before it, as the messages they came in: their tags vouch for them."""

import os

from .channel import Channel
from .head import Head


class HeadFile:
    """At `path`, the head before at `.old`, one on its way at `.new`; `most` bounds what is read (bytes)."""

    def __init__(self, path: str, channel: Channel, most: int) -> None:
        self._path = path
        self._channel = channel
        self._most = most

    def load(self) -> Head | None:
        """Return the newest that is whole and genuine, if there is one."""
        for path in (self._path, self._path + ".new", self._path + ".old"):
            head = self._read(path)
            if head:
                return head
        return None

    def read(self, message: bytes) -> Head:
        """Return the head that a message brings; raises ValueError."""
        return Head(self._channel.open(message, self._most))

    def keep(self, message: bytes) -> None:
        """Store the message of a new head; raises OSError, and nothing has changed then."""
        new = self._path + ".new"
        try:
            with open(new, "wb") as file:
                file.write(message)
        except OSError:
            _remove(new)  # a full flash needs the room
            raise
        if self._read(self._path):
            os.rename(self._path, self._path + ".old")
        os.rename(new, self._path)

    def _read(self, path: str) -> Head | None:
        try:
            if os.stat(path)[6] > self._most:
                return None
            with open(path, "rb") as file:
                return self.read(file.read())
        except (OSError, ValueError):  # none, damaged, or of an earlier secret
            return None


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
