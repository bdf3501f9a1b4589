"""A TFLite model behind its signatures: the only home of both runtimes.

`load(model)` gives a `TrainableModel`; every array is checked before it enters the runtime, because
`set_weights` there takes wrong shapes and NaN without a word.
"""

from __future__ import annotations

from fedclient.runtime.interpreter import RUNTIME_NAME
from fedclient.runtime.trainable import TrainableModel, load

__all__ = ["RUNTIME_NAME", "TrainableModel", "load"]
