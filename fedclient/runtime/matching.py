"""Which input is which: by name first, then by type and rank; ModelError where that is ambiguous.  Pure.

Other people's models call their inputs what they like, have labels as float or one-hot, have the
learning rate built in, or a fixed batch.  Nothing is guessed: two candidates are a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient import limits
from fedclient.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedclient.runtime.interpreter import Port, Signature

REQUIRED: Final = ("train", "infer", "get_weights", "set_weights")
LEARNING_RATE: Final = "learning_rate"
_RATE_NAMES: Final = (LEARNING_RATE, "lr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """The ports of a trainable model by what they are for; `hyper` by the name a plan uses."""

    x: Port  # of train
    y: Port
    hyper: dict[str, Port]
    loss: str
    infer_x: Port
    logits: str


def match(signatures: Mapping[str, Signature]) -> Roles:
    """Find each port's role.

    Raises ModelError when a port has no clear role, or a shape that cannot have it.
    """
    train, infer = signatures["train"], signatures["infer"]
    infer_x = _only("input", infer, infer.inputs, "x")
    rest = list(train.inputs)
    x = _take(train, rest, "x", lambda port: port.dtype == infer_x.dtype and _row(port) == _row(infer_x))
    y = _take(train, rest, "y", _label_test(rest))
    for port in (infer_x, x):
        _check_x(port)
    if x.shape[1:] != infer_x.shape[1:]:
        raise ModelError(f"'train' takes x as {x}, but 'infer' as {infer_x}: they must agree")
    return Roles(
        x=x,
        y=y,
        hyper=_hyper(rest),
        loss=_only("output", train, train.outputs, "loss").name,
        infer_x=infer_x,
        logits=_only("output", infer, infer.outputs, "logits").name,
    )


def features_ports(signature: Signature) -> tuple[Port, str]:
    """Return the raw input of a `features` signature and the name of its output."""
    x = _only("input", signature, signature.inputs, "x")
    _check_x(x, raw=True)
    return x, _only("output", signature, signature.outputs, "features").name


def _take(signature: Signature, rest: list[Port], name: str, fits: Callable[[Port], bool]) -> Port:
    """Remove the port called `name`, else the only one that `fits`, from `rest`."""
    found = [port for port in rest if port.name == name] or [port for port in rest if fits(port)]
    if len(found) != 1:
        candidates = ", ".join(map(str, found or rest)) or "none"
        raise ModelError(
            f"signature {signature.name!r}: which input is {name!r} is unclear ({candidates}): name one so"
        )
    rest.remove(found[0])
    return found[0]


def _label_test(rest: list[Port]) -> Callable[[Port], bool]:
    """Labels are the integers where there are any, else the batch of floats."""
    if any(np.issubdtype(port.dtype, np.integer) for port in rest):
        return lambda port: np.issubdtype(port.dtype, np.integer)
    return lambda port: port.dtype == np.float32 and not _is_number(port)


def _only(kind: str, signature: Signature, ports: tuple[Port, ...], name: str) -> Port:
    named = [port for port in ports if port.name == name]
    if not named and len(ports) != 1:
        names = ", ".join(map(str, ports)) or "none"
        raise ModelError(
            f"signature {signature.name!r} must have one {kind}, or one called {name!r}; it has {names}"
        )
    if kind == "input" and len(ports) != 1:
        raise ModelError(f"signature {signature.name!r} must take nothing but {name!r}")
    return (named or list(ports))[0]


def _hyper(ports: list[Port]) -> dict[str, Port]:
    for port in ports:
        if port.dtype != np.float32 or not _is_number(port):
            raise ModelError(
                f"signature 'train': input {port} is neither x, y nor a hyper-parameter of shape [1]"
            )
    found = {LEARNING_RATE if port.name in _RATE_NAMES else port.name: port for port in ports}
    if len(found) != len(ports):
        raise ModelError("signature 'train' has two learning rates: keep 'learning_rate'")
    return found


def _check_x(port: Port, *, raw: bool = False) -> None:
    if len(port.shape) < 2 or len(port.shape) > limits.MAX_TENSOR_RANK or not all(s > 0 for s in _row(port)):
        raise ModelError(f"input {port} must be a batch of rows: only the first dimension may be dynamic")
    if not raw and port.dtype != np.float32:
        raise ModelError(f"input {port} must be float32")


def _row(port: Port) -> tuple[Any, ...]:
    return port.shape[1:]


def _is_number(port: Port) -> bool:
    return port.shape in {(), (1,)}
