"""How much memory a call takes, at its highest."""

import tracemalloc
from collections.abc import Callable

import pytest

from fedclient.errors import CodecError


def peak_of(action: Callable[[], object]) -> int:
    """Return the bytes that `action` had at once, of Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peak_of_refusal(action: Callable[[], object]) -> int:
    """Return the same of an `action` that has to end in a CodecError."""

    def refused() -> None:
        with pytest.raises(CodecError):
            action()

    return peak_of(refused)
