"""The owner's line: who may call, what may be asked, and that nobody on it can hold the agent up."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from fedclient.client import console as module
from fedclient.client.console import NAME, PATIENCE_S, PLACES, Console, ask, parse
from fedclient.errors import FinalError, StorageFull, StorageReadOnly, Unreachable
from fedclient.limits import MAX_CONSOLE_REQUEST_BYTES, MAX_PAUSE_S

GOOD = b'{"ask": "why"}\n'


class Loop:
    """A console, turned by hand as the agent's loop does: only what is ready is served."""

    def __init__(self, folder: Path, answer=None) -> None:
        self.now_s = 100.0
        self.asked: list[dict] = []
        self.answer = answer or (lambda request: {"you asked": request["ask"]})
        self.console = Console(folder, self._answer, clock=lambda: self.now_s)
        self.folder = folder

    def _answer(self, request):
        self.asked.append(request)
        return self.answer(request)

    def turn(self, timeout_s: float = 0.0) -> bool:
        """Wait as `daemon.run` does, and serve; returns whether anything was ready."""
        poll = select.poll()
        for number, events in self.console.interests().items():
            poll.register(number, select.POLLIN if events & 1 else select.POLLOUT)
        ready = {number for number, _ in poll.poll(timeout_s * 1000)}
        self.console.service(ready)
        return bool(ready)

    def settle(self) -> None:
        """Turn until nothing is ready; a loop that spins fails."""
        for _ in range(1000):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    def call(self, data: bytes = b"") -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(5)
        with module._address(self.folder) as address:
            line.connect(address)
        line.sendall(data)
        return line

    def works(self) -> None:
        """A well-behaved caller is answered, and at rest the loop sleeps."""
        with self.call(GOOD) as line:
            self.settle()
            assert json.loads(heard(line)) == {"you asked": "why"}
        self.settle()


def heard(line: socket.socket) -> bytes:
    """All that comes until the other end hangs up, which is a reset where it did not hear us out."""
    found = b""
    with suppress(ConnectionResetError):
        while received := line.recv(1 << 16):
            found += received
    return found


@pytest.fixture
def loop(tmp_path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.console.close()


def test_a_question_is_answered_and_the_line_is_free_again(loop) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with loop.call(b'{"ask": "pause", "seconds": 90}\n') as line:
        loop.settle()
        assert heard(line) == b'{"you asked": "pause"}\n'
    loop.settle()
    assert loop.asked == [{"ask": "pause", "seconds": 90}]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_who_has_spoken_already_is_answered_in_the_turn_that_takes_the_call(loop) -> None:
    with loop.call(GOOD) as line:
        assert loop.turn()
        assert heard(line) == b'{"you asked": "why"}\n'
        assert not loop.turn()


def test_ask_is_the_other_end(loop) -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(ask, loop.folder, {"ask": "status"})
        while not found.done():
            loop.turn(0.01)
        assert found.result() == {"you asked": "status"}


def test_a_request_may_come_in_pieces(loop) -> None:
    with loop.call() as line:
        for piece in (b'{"as', b'k": "res', b'ume"}'):
            line.sendall(piece)
            loop.settle()
        assert not loop.asked
        line.sendall(b"\n")
        loop.settle()
        assert heard(line) == b'{"you asked": "resume"}\n'


BAD = [
    b"",
    b"why",
    b"[]",
    b'"why"',
    b"null",
    b"{}",
    b'{"ask": null}',
    b'{"ask": ["why"]}',
    b'{"ask": "Why"}',
    b'{"ask": "why", "seconds": 1}',
    b'{"ask": "resume", "more": 1}',
    b'{"ask": "pause"}',
    b'{"ask": "pause", "seconds": "90"}',
    b'{"ask": "pause", "seconds": true}',
    b'{"ask": "pause", "seconds": null}',
    b'{"ask": "pause", "seconds": -1}',
    b'{"ask": "pause", "seconds": NaN}',
    b'{"ask": "pause", "seconds": Infinity}',
    b'{"ask": "pause", "seconds": 1e400}',
    b'{"ask": "pause", "seconds": 1' + b"0" * 900 + b"}",
    b'{"ask": "pause", "seconds": %d}' % (MAX_PAUSE_S + 1),
    b'{"ask": "why"}{"ask": "why"}',
    b"[" * MAX_CONSOLE_REQUEST_BYTES,  # deeper than a parser goes
    b"[" * (MAX_CONSOLE_REQUEST_BYTES + 1),
    b'{"ask": "w\xff"}',
    b'{"ask": "why"' + b" " * MAX_CONSOLE_REQUEST_BYTES + b"}",
]


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:40].decode(errors="replace"))
def test_what_is_no_request_gets_a_sentence_and_goes_no_further(loop, line: bytes) -> None:
    with loop.call() as caller:
        caller.sendall(line + b"\n")
        loop.settle()
        answer = json.loads(heard(caller))
    assert list(answer) == ["error"]
    assert len(answer["error"]) > 15
    assert (f"at most {MAX_CONSOLE_REQUEST_BYTES} bytes" in answer["error"]) is (len(line) > 1024)
    assert not loop.asked
    loop.works()


@pytest.mark.parametrize("seconds", [0, 0.5, MAX_PAUSE_S])
def test_every_length_of_a_pause_within_its_bounds(seconds) -> None:
    assert parse(json.dumps({"ask": "pause", "seconds": seconds}).encode())["seconds"] == seconds


def test_an_error_of_ours_is_an_answer(tmp_path) -> None:
    def full(_: object) -> dict:
        raise StorageFull("no room: delete files")

    loop = Loop(tmp_path, full)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(ask, tmp_path, {"ask": "pause", "seconds": 0})
        while not found.done():
            loop.turn(0.01)
        with pytest.raises(FinalError, match=r"^no room: delete files$"):
            found.result()
    loop.console.close()


# --- those who do not behave ---------------------------------------------------------------------------
def test_who_leaves_in_the_middle_leaves_nothing_behind(loop) -> None:
    for data in (b"", b'{"ask', GOOD, b"x" * 4 * MAX_CONSOLE_REQUEST_BYTES):
        line = loop.call(data)
        loop.turn()
        line.close()
        loop.settle()
        early = loop.call(data)
        early.close()
        loop.settle()
        assert len(loop.console.interests()) == 1
    loop.works()


def test_a_silent_caller_wakes_nobody_and_is_let_go_when_there_is_another_turn(loop) -> None:
    with loop.call(b'{"ask"') as line:
        loop.settle()
        assert len(loop.console.interests()) == 2
        loop.now_s += PATIENCE_S - 1
        assert not loop.turn()
        assert len(loop.console.interests()) == 2
        loop.now_s += 1
        assert not loop.turn()
        assert len(loop.console.interests()) == 1
        assert heard(line) == b""


def test_silent_callers_make_room_for_who_comes_next(loop) -> None:
    silent = []
    for _ in range(3 * PLACES):
        silent.append(loop.call(b"{"))
        loop.settle()
        assert len(loop.console.interests()) <= PLACES + 1
    loop.works()
    assert [heard(line) for line in silent[: 2 * PLACES]] == [b""] * 2 * PLACES
    for line in silent:
        line.close()


def test_who_does_not_read_holds_nobody_up(tmp_path) -> None:
    long = {"much": "x" * 900_000}
    loop = Loop(tmp_path, lambda request: long if request["ask"] == "status" else {"you asked": "why"})
    with loop.call(b'{"ask": "status"}\n') as deaf:
        loop.settle()
        loop.works()
        with ThreadPoolExecutor(1) as pool:  # who reads late still gets all of it
            found = pool.submit(heard, deaf)
            while not found.done():
                loop.turn(0.01)
        assert json.loads(found.result()) == long
    with loop.call(b'{"ask": "status"}\n'):
        loop.settle()
        loop.now_s += PATIENCE_S
        loop.settle()
        assert len(loop.console.interests()) == 1
    loop.console.close()


def test_whatever_is_said_the_agent_goes_on(loop) -> None:
    """Random bytes, half lines, long lines, hang-ups in any order."""
    chance = random.Random(7)
    open_lines: list[socket.socket] = []
    for _ in range(400):
        data = chance.choice(
            [
                chance.randbytes(chance.randrange(2000)),
                GOOD[: chance.randrange(len(GOOD) + 1)],
                GOOD * chance.randrange(1, 4),
                bytes(chance.choice(GOOD) for _ in range(20)) + b"\n",
            ]
        )
        open_lines.append(loop.call(data))
        loop.turn()
        if chance.random() < 0.7:
            open_lines.pop(chance.randrange(len(open_lines))).close()
        if chance.random() < 0.1:
            loop.now_s += PATIENCE_S
    for line in open_lines:
        line.close()
    loop.settle()
    assert len(loop.console.interests()) == 1
    assert all(request == {"ask": "why"} for request in loop.asked)
    loop.works()


def test_without_descriptors_the_loop_does_not_spin(loop, caplog, monkeypatch) -> None:
    class Refusing(socket.socket):
        def accept(self):
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(loop.console, "_listener", Refusing(fileno=loop.console._listener.detach()))
    with loop.call(GOOD) as line:
        loop.settle()
        assert loop.console.interests() == {}
        assert "a caller cannot be answered: Too many open files" in caplog.text
        monkeypatch.setattr(loop.console, "_listener", socket.socket(fileno=loop.console._listener.detach()))
        loop.now_s += PATIENCE_S
        loop.settle()
        assert json.loads(heard(line)) == {"you asked": "why"}


# --- the socket's file ----------------------------------------------------------------------------------
def test_only_the_owner_may_open_it_whatever_the_umask(tmp_path) -> None:
    before = os.umask(0)
    try:
        loop = Loop(tmp_path)
    finally:
        os.umask(before)
    found = (tmp_path / NAME).stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    loop.console.close()
    assert not (tmp_path / NAME).exists()


def test_a_killed_agents_socket_is_no_agent_and_is_replaced(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / NAME))
    assert (tmp_path / NAME).exists()
    assert ask(tmp_path, {"ask": "why"}) is None
    loop = Loop(tmp_path)
    loop.works()
    loop.console.close()
    assert ask(tmp_path, {"ask": "why"}) is None


def test_a_long_path_works(tmp_path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    loop = Loop(folder)
    loop.works()
    loop.console.close()
    assert not list(folder.iterdir())


def test_a_folder_that_takes_no_socket_is_tried_again(tmp_path, caplog) -> None:
    (tmp_path / NAME).mkdir()
    loop = Loop(tmp_path)
    assert loop.console.interests() == {}
    assert f"no socket in {tmp_path}, so `fedclient why` and `pause` do not reach it" in caplog.text
    (tmp_path / NAME).rmdir()
    loop.turn()
    assert not (tmp_path / NAME).exists()
    loop.now_s += PATIENCE_S
    loop.turn()
    loop.works()
    loop.console.close()


def test_a_trainer_does_not_inherit_it(loop) -> None:
    with loop.call():
        loop.turn()
        assert len(loop.console.interests()) == 2
        assert not any(os.get_inheritable(number) for number in loop.console.interests())


def test_another_user_gets_no_answer(loop, monkeypatch) -> None:
    monkeypatch.setattr(module, "_user_of", lambda _: os.geteuid() + 1)
    with loop.call(GOOD) as line:
        loop.settle()
        assert heard(line) == b""
    assert not loop.asked


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root can become other users")
@pytest.mark.parametrize(("user", "code"), [(33333, 1), (0, 0)])
def test_the_kernel_names_the_caller(tmp_path, user: int, code: int) -> None:
    """Even where the modes let everybody in."""
    folder = tmp_path / "state"
    folder.mkdir()
    for path in (folder, *folder.parents):
        if path.stat().st_mode & 0o005 != 0o005 and path != Path("/"):
            path.chmod(0o755)
    loop = Loop(folder)
    (folder / NAME).chmod(0o666)
    script = (
        "import os, socket, sys; line = socket.socket(socket.AF_UNIX);"
        "os.setuid(int(sys.argv[2])); line.connect(sys.argv[1]);"
        f"line.sendall({GOOD!r}); sys.exit(not line.recv(10))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / NAME), str(user)], stderr=subprocess.DEVNULL
    )
    while child.poll() is None:
        loop.turn(0.01)
    assert child.returncode == code
    assert len(loop.asked) == (0 if code else 1)
    loop.console.close()


# --- an agent that does not answer ------------------------------------------------------------------------
def test_no_agent_is_none_and_no_folder_either(tmp_path) -> None:
    assert ask(tmp_path, {"ask": "why"}) is None
    assert ask(tmp_path / "absent", {"ask": "why"}) is None


def test_an_agent_that_hangs_is_unreachable(loop) -> None:
    with pytest.raises(Unreachable, match="the agent does not answer: timed out"):
        ask(loop.folder, {"ask": "why"}, timeout_s=0.05)


@pytest.mark.parametrize("said", [b"", b"{", b"[]\n", b"\xff\n"])
def test_an_agent_that_ends_meanwhile_is_unreachable(tmp_path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / NAME))
        listener.listen()

        def answer() -> None:
            line, _ = listener.accept()
            line.recv(100)
            line.sendall(said)
            line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="hung up without an answer"):
            ask(tmp_path, {"ask": "why"})
        thread.join()


def test_a_folder_of_somebody_elses_is_named(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(StorageReadOnly, match="run as root or as the folder's owner"):
        ask(tmp_path, {"ask": "why"})


def test_a_socket_that_cannot_be_made_for_days_is_said_once(tmp_path: Path, caplog) -> None:
    (tmp_path / NAME).mkdir()
    loop = Loop(tmp_path)
    for _ in range(100):
        loop.now_s += PATIENCE_S
        loop.turn()
    assert len(caplog.records) == 1
    (tmp_path / NAME).rmdir()
    loop.now_s += PATIENCE_S
    loop.turn()
    loop.works()
    (tmp_path / NAME).unlink()
