from __future__ import annotations

import os
import resource
import signal

import pytest

from fedclient.errors import ModelError
from fedclient.runtime import child

HERE = "tests.runtime.test_child"


def reverse(data: bytes) -> bytes:
    return data[::-1]


def crash(_data: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def hang(_data: bytes) -> bytes:
    signal.pause()
    return b""


def fail(data: bytes) -> bytes:
    raise RuntimeError(data.decode())


def bound(_data: bytes) -> bytes:
    return str(resource.getrlimit(resource.RLIMIT_AS)[0]).encode()


def test_bytes_go_in_and_out():
    assert child.run(HERE, "reverse", b"\0\xffabc", timeout_s=30) == b"cba\xff\0"
    assert child.ask(HERE, "reverse", b"]2,1[", timeout_s=30) == [1, 2]


def test_memory_is_bounded_there_and_not_here():
    assert 0 < int(child.run(HERE, "bound", b"", timeout_s=30)) <= child.MAX_MEMORY_BYTES
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("function", "timeout_s", "sentence"),
    [("crash", 30, "crashed on it .SIGSEGV"), ("hang", 0.5, "did not finish"), ("fail", 30, "why it failed")],
)
def test_whatever_happens_there_is_a_sentence_here(function, timeout_s, sentence):
    with pytest.raises(ModelError, match=sentence) as caught:
        child.run(HERE, function, b"why it failed", timeout_s=timeout_s)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_blamed_on_the_runtime():
    with pytest.raises(ModelError, match="damaged the process"):
        child.ask(HERE, "reverse", b"\0not JSON", timeout_s=30)
