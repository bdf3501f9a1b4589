"""The owner's line to a running agent: a Unix socket in its state folder, `<state>/agent.sock`.

A request is one line of JSON, the answer is another; then the connection ends.

    {"ask": "status"}                    the last decision, and what the agent does
    {"ask": "why"}                       a fresh decision
    {"ask": "pause", "seconds": 1800}    train not for so long; 0: until resumed
    {"ask": "resume"}                    take back the owner's pause

Each answer is a `standing.report` of the time after what was asked for, or {"error": sentence}.  Only the
folder's owner and root get one: the socket has mode 0600, and the kernel tells who is calling.

`Console` is a part of the agent's own loop.  It never blocks, and never wakes the loop by itself: who
says nothing, or does not read, is let go at the first turn after PATIENCE_S, or for whoever comes next.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fedclient.errors import FedClientError, FinalError, StorageReadOnly, Unreachable
from fedclient.limits import MAX_CONSOLE_ANSWER_BYTES, MAX_CONSOLE_REQUEST_BYTES, MAX_PAUSE_S

log = logging.getLogger(__name__)

NAME: Final = "agent.sock"
PLACES: Final = 4  # callers at a time; an answer takes one turn of the loop, a person asks once
PATIENCE_S: Final = 5.0  # with a caller, and between two tries to open a socket that could not be
ASKS: Final = {"status": (), "why": (), "pause": ("seconds",), "resume": ()}
_NOT_YET = (BlockingIOError, InterruptedError)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7)

Request = dict[str, Any]
Answer = Callable[[Request], Mapping[str, object]]


class _Caller:
    """One connection: first its request comes in, then its answer goes out."""

    def __init__(self, connection: socket.socket, since_s: float) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the library's signature
        self.connection = connection
        self.since_s = since_s
        self.heard = b""
        self.to_say = b""

    @property
    def waits_for(self) -> int:
        return selectors.EVENT_WRITE if self.to_say else selectors.EVENT_READ

    def hear(self) -> bytes | None:
        """Read on; returns a line that is whole, or too long to be one.  Raises OSError: it has gone."""
        try:
            received = self.connection.recv(MAX_CONSOLE_REQUEST_BYTES + 1 - len(self.heard))
        except _NOT_YET:
            return None
        if not received:
            raise ConnectionResetError
        self.heard += received
        line, end, _ = self.heard.partition(b"\n")
        return line if end or len(line) > MAX_CONSOLE_REQUEST_BYTES else None

    def say(self) -> None:
        """Send as much as the other end takes now.  Raises OSError: it has gone."""
        with suppress(*_NOT_YET):
            self.to_say = self.to_say[self.connection.send(self.to_say) :]


class Console:
    """The agent's end.  Open it while the folder's lock is held: a socket that is there is a dead agent's."""

    def __init__(self, folder: Path, answer: Answer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._answer = answer
        self._clock = clock
        self._callers: dict[int, _Caller] = {}
        self._listener: socket.socket | None = None
        self._again_s = 0.0  # not before, after the kernel refused a socket
        self._trouble = ""
        self._open()

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        found = {number: caller.waits_for for number, caller in self._callers.items()}
        if self._listener is not None and self._clock() >= self._again_s:
            found[self._listener.fileno()] = selectors.EVENT_READ
        return found

    def service(self, ready: Collection[int]) -> None:
        """Serve who is ready, and let go of who has had time enough."""
        for number in [one for one in self._callers if one in ready]:
            self._serve(number)
        late_s = self._clock() - PATIENCE_S
        for number in [one for one, caller in self._callers.items() if caller.since_s <= late_s]:
            self._let_go(number)
        if self._listener is None:
            if self._clock() >= self._again_s:
                self._open()
        elif self._listener.fileno() in ready:
            self._welcome(self._listener)

    def close(self) -> None:
        """Remove the socket, and hang up."""
        for number in list(self._callers):
            self._let_go(number)
        if self._listener is not None:
            with suppress(OSError):
                (self._folder / NAME).unlink()
            self._listener.close()
            self._listener = None

    # --- connections ----------------------------------------------------------------------------------
    def _open(self) -> None:
        """Listen; a disk without room for a socket's name does not keep a device from training."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: bind(2) takes this mode
            listener.setblocking(False)  # noqa: FBT003 - the library's signature
            with _address(self._folder) as address:
                with suppress(FileNotFoundError):
                    (self._folder / NAME).unlink()
                listener.bind(address)
            listener.listen(2 * PLACES)
        except OSError as error:
            listener.close()
            self._pause(f"no socket in {self._folder}, so `fedclient why` and `pause` do not reach it", error)
        else:
            self._listener = listener

    def _pause(self, what: str, error: OSError) -> None:
        trouble = f"{what}: {error.strerror}"
        if trouble != self._trouble:  # once per change
            log.error("%s", trouble)
        self._trouble = trouble
        self._again_s = self._clock() + PATIENCE_S

    def _welcome(self, listener: socket.socket) -> None:
        """Take new callers, as many as there are places; the oldest ones make room."""
        for _ in range(PLACES):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: it would stay readable, and the loop spin
                self._pause("a caller cannot be answered", error)
                return
            if _user_of(connection) not in {0, os.geteuid()}:
                connection.close()
                continue
            if len(self._callers) >= PLACES:
                self._let_go(next(iter(self._callers)))
            self._callers[connection.fileno()] = _Caller(connection, self._clock())
            self._trouble = ""
            self._serve(connection.fileno())  # who has spoken already is answered in this turn

    def _let_go(self, number: int) -> None:
        self._callers.pop(number).connection.close()

    def _serve(self, number: int) -> None:
        caller = self._callers[number]
        try:
            line = None if caller.to_say else caller.hear()
        except OSError:
            self._let_go(number)
            return
        if line is not None:
            caller.to_say = _line(self._reply(line))
        if not caller.to_say:
            return  # the rest of the line will come
        with suppress(OSError):
            caller.say()
            if caller.to_say:
                return  # the rest goes out when there is room
        self._let_go(number)

    def _reply(self, line: bytes) -> Mapping[str, object]:
        try:
            return self._answer(parse(line))
        except FedClientError as error:
            return {"error": str(error)}


def parse(line: bytes) -> Request:
    """Return a request that is one of ASKS and whole.  Raises FinalError for anything else."""
    if len(line) > MAX_CONSOLE_REQUEST_BYTES:
        raise FinalError(f"a request has at most {MAX_CONSOLE_REQUEST_BYTES} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise FinalError("a request is one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("ask"), str):
        raise FinalError('a request is an object with "ask"')
    if request["ask"] not in ASKS:
        raise FinalError(f"nobody can ask for that: there are {', '.join(ASKS)}")
    if set(request) != {"ask", *ASKS[request["ask"]]}:
        raise FinalError(f"{request['ask']} takes {' and '.join(ASKS[request['ask']]) or 'nothing else'}")
    seconds = request.get("seconds", 0)
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_PAUSE_S:
        raise FinalError(f"seconds is a number from 0 to {MAX_PAUSE_S}")
    return request


def ask(folder: Path, request: Request, timeout_s: float = 10.0) -> dict[str, Any] | None:
    """Ask the agent that has this folder; None when there is none.

    Raises Unreachable when it does not answer in time, StorageReadOnly for a folder of somebody
    else's, and FinalError with the agent's own words.
    """
    until_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(timeout_s)
        try:
            with _address(folder) as address:
                line.connect(address)
            line.sendall(_line(request))
            received = b"".join(_until_end(line, until_s))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise StorageReadOnly(f"no access to {folder}: run as root or as the folder's owner") from None
        except OSError as error:
            raise Unreachable(f"the agent does not answer: {error.strerror or error}; try again") from error
    try:
        answer = json.loads(received)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Unreachable("the agent hung up without an answer: try again")
    if "error" in answer:
        raise FinalError(str(answer["error"]))
    return answer


def _until_end(line: socket.socket, until_s: float) -> Iterator[bytes]:
    """Read until the other end hangs up."""
    left = MAX_CONSOLE_ANSWER_BYTES
    while left > 0:
        line.settimeout(max(0.001, until_s - time.monotonic()))
        received = line.recv(left)
        if not received:
            return
        left -= len(received)
        yield received


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Name the socket through its folder's descriptor: an address has room for 108 bytes only."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def _user_of(connection: socket.socket) -> int:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def _line(found: Mapping[str, object]) -> bytes:
    return json.dumps(found).encode() + b"\n"
