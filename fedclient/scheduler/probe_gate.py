"""The owner's own gate: a function of the readings, in a module that this Python can import."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from fedclient.scheduler.readings import Reading, unknown

RETRY_S = 60.0  # a module that cannot be imported is not tried at each look
MAX_SENTENCE = 200


class OwnGate:
    """Calls it; whatever goes wrong there is a reason, and closes the gate."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._function: Callable[[dict[str, Any]], object] | None = None
        self._failed: tuple[float, str] | None = None

    def read(self, readings: dict[str, Any], now_s: float) -> Reading[bool]:
        """Return its answer: True or False, or one of them with a sentence."""
        if self._name is None:
            return unknown("no [schedule] gate is set")
        if self._failed is not None and 0 <= now_s - self._failed[0] < RETRY_S:
            return unknown(self._failed[1])
        try:
            if self._function is None:
                self._function = _find(self._name)
            return _answer(self._name, self._function(readings))
        except KeyboardInterrupt:
            raise  # is the owner's, at a terminal
        except BaseException as error:  # noqa: BLE001 - it is not our code, and must not end us
            reason = f"[schedule] gate {self._name} failed: {_sentence(error)}"
            if self._function is None:
                self._failed = now_s, reason
            return unknown(reason)


def _find(name: str) -> Callable[[dict[str, Any]], object]:
    module, _, attribute = name.partition(":")
    function = getattr(import_module(module), attribute)
    if not callable(function):
        raise TypeError(f"{attribute} is no function")
    found: Callable[[dict[str, Any]], object] = function
    return found


def _answer(name: str, said: object) -> Reading[bool]:
    if isinstance(said, bool):
        return Reading(said, name)
    if isinstance(said, tuple) and len(said) == 2 and isinstance(said[0], bool) and isinstance(said[1], str):
        return Reading(said[0], f"{name}: {_printable(said[1])}")
    kind = type(said).__name__
    return unknown(f"[schedule] gate {name} returned {kind}, not a bool or (bool, sentence)")


def _sentence(error: BaseException) -> str:
    try:
        return _printable(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 - not even its text is ours
        return type(error).__name__


def _printable(text: str) -> str:
    """Keep it to one line that any terminal and log can show."""
    return "".join(one if one.isprintable() else " " for one in text)[:MAX_SENTENCE]
