"""What a head consists of: the names, shapes and first values of its tensors and of its training state.

| tensor          | shape  | starts as |
|-----------------|--------|-----------|
| `output/kernel` | [C, D] or [C, H], one row per class | zeros; with a hidden layer Glorot uniform |
| `output/bias`   | [C]    | zeros |
| `hidden/kernel` | [H, D] | He uniform |
| `hidden/bias`   | [H]    | zeros |
| `personal/kernel`, `personal/bias` | as of `output` | zeros |
| `normalize/mean`, `normalize/mean_square` | [D] | zeros, ones |

D features, C classes, H hidden units.  The state is no part of the head: per trained tensor the slots of
its optimiser, `momentum/NAME` or `first/NAME` and `second/NAME`, zeros at first, with Adam also the two
counts `first` and `second` [1]; and `anchor/NAME`, the value that `set_weights` gave it last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fedclient import limits
from fedclient.errors import UsageError
from fedclient.model.options import HeadOptions, Optimizer
from fedclient.values import MEAN, MEAN_SQUARE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_SEED: Final = 2**63 - 1
SLOTS: Final[dict[Optimizer, tuple[str, ...]]] = {
    Optimizer.SGD: (),
    Optimizer.MOMENTUM: ("momentum",),
    Optimizer.ADAM: ("first", "second"),
}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A dense layer; its tensors are in the order of their names."""

    name: str
    inputs: int
    outputs: int
    first: NDArray[np.float32] | None = None  # of the kernel; None: zeros

    @property
    def bias(self) -> str:
        return f"{self.name}/bias"

    @property
    def kernel(self) -> str:
        return f"{self.name}/kernel"

    @property
    def tensors(self) -> Shapes:
        return {self.bias: (self.outputs,), self.kernel: (self.outputs, self.inputs)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """All of a head; `layers` from its input to its logits, `personal` beside the last one."""

    layers: tuple[Layer, ...]
    personal: Layer | None
    options: HeadOptions
    given: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # first values from elsewhere

    @property
    def features(self) -> int:
        return self.layers[0].inputs

    @property
    def classes(self) -> int:
        return self.layers[-1].outputs

    @property
    def anchored(self) -> Shapes:
        """What FedProx holds to the head that came last: all that is trained and sent."""
        return {name: shape for layer in self.layers for name, shape in layer.tensors.items()}

    @property
    def trained(self) -> Shapes:
        return self.anchored | (self.personal.tensors if self.personal else {})

    @property
    def tensors(self) -> Shapes:
        """What `get_weights` returns."""
        shape = (self.features,)
        return self.trained | ({MEAN: shape, MEAN_SQUARE: shape} if self.options.normalize else {})

    @property
    def slots(self) -> Shapes:
        """What the optimiser remembers: zeros when a job starts."""
        kinds = SLOTS[self.options.optimizer]
        slots: Shapes = {f"{kind}/{name}": shape for kind in kinds for name, shape in self.trained.items()}
        return slots | (dict.fromkeys(kinds, (1,)) if self.options.optimizer is Optimizer.ADAM else {})

    @property
    def state(self) -> Shapes:
        """What `get_state` returns."""
        return self.slots | {anchor(name): shape for name, shape in self.anchored.items()}

    def first(self, name: str) -> NDArray[np.float32] | float:
        """Return what tensor `name` starts as; a number stands for all its elements."""
        kernels = {layer.kernel: layer.first for layer in self.layers if layer.first is not None}
        return {**kernels, **self.given}.get(name, 1.0 if name == MEAN_SQUARE else 0.0)

    def starting_with(self, given: Mapping[str, NDArray[np.float32]]) -> Head:
        """Return this head with first values that were trained elsewhere, for the tensors that `given` names.

        Raises UsageError for one that the head does not have, or not with these values.
        """
        for name, value in given.items():
            if value.shape != self.tensors.get(name) or value.dtype != np.float32:
                raise UsageError(f"{value.dtype} {list(value.shape)} cannot be the first value of {name!r}")
            if not np.isfinite(value).all():
                raise UsageError(f"the first value of {name!r} holds NaN or infinity")
        return replace(self, given={**self.given, **given})


def anchor(name: str) -> str:
    """Return the name of a tensor's anchor."""
    return f"anchor/{name}"


def head_of(features: int, classes: int, hidden: int | None, seed: int, options: HeadOptions) -> Head:
    """Return the head; `seed` matters to a hidden one only.

    Raises UsageError for a number out of its bounds.
    """
    _check(features, classes, hidden, seed, personal=options.personal)
    layers = _layers(features, classes, hidden, seed)
    width = layers[-1].inputs
    personal = Layer(name="personal", inputs=width, outputs=classes) if options.personal else None
    return Head(layers=layers, personal=personal, options=options)


def _check(features: int, classes: int, hidden: int | None, seed: int, *, personal: bool) -> None:
    bounds = {
        "features": (features, 1, limits.MAX_HEAD_PARAMETERS),
        "classes": (classes, 2, limits.MAX_LABELS),
        "hidden": (1 if hidden is None else hidden, 1, limits.MAX_HEAD_PARAMETERS),
        "seed": (seed, 0, MAX_SEED),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise UsageError(f"{name} must be between {low} and {high}, not {value}")
    size = (features + 1) * classes if hidden is None else (features + 1 + classes) * hidden + classes
    size += personal * ((features if hidden is None else hidden) + 1) * classes
    if size > limits.MAX_HEAD_PARAMETERS:
        bound = limits.MAX_HEAD_PARAMETERS
        raise UsageError(
            f"a head of {size} parameters is above the bound of {bound}: fewer features or units"
        )


def _layers(features: int, classes: int, hidden: int | None, seed: int) -> tuple[Layer, ...]:
    if hidden is None:
        return (Layer(name="output", inputs=features, outputs=classes),)
    he, glorot = np.sqrt(6 / features), np.sqrt(6 / (hidden + classes))
    # NEP 19: a bit generator's raw stream never changes, the distributions drawn from it may.
    raw = np.random.PCG64(seed).random_raw(hidden * (features + classes))
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)  # [-1, 1)
    first, second = np.split(unit, [hidden * features])
    below = (first * np.float32(he)).reshape(hidden, features)
    above = (second * np.float32(glorot)).reshape(classes, hidden)
    return (
        Layer(name="hidden", inputs=features, outputs=hidden, first=below),
        Layer(name="output", inputs=hidden, outputs=classes, first=above),
    )
