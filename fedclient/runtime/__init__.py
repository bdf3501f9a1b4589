"""A TFLite model behind its signatures: the only home of both runtimes.

`load(model)` gives a `TrainableModel`; every array is checked before it enters the runtime, because
`set_weights` there takes wrong shapes and NaN without a word.  Names load on first use (PEP 562):
`child` serves processes that must not load NumPy, which on a foreign processor can crash them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedclient.runtime.interpreter import RUNTIME_NAME
    from fedclient.runtime.trainable import TrainableModel, load

__all__ = ["RUNTIME_NAME", "TrainableModel", "load"]

_HOMES = {
    "RUNTIME_NAME": "fedclient.runtime.interpreter",
    "TrainableModel": "fedclient.runtime.trainable",
    "load": "fedclient.runtime.trainable",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedclient.runtime' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
