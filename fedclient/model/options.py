"""What a head can be asked for when it is written: optimiser, normalised input, personal layer.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

ADAM_FIRST: Final = 0.9  # beta 1 and 2, and epsilon, of Kingma and Ba 2015
ADAM_SECOND: Final = 0.999
ADAM_EPSILON: Final = 1e-7
# The least variance that a feature is divided by the root of: scales down to 1e-6 become 1.  A feature that
# was constant where the statistics come from is given a variance by the gateway (gateway/aggregate.py).
VARIANCE_FLOOR: Final = 1e-12


class Optimizer(str, Enum):
    """What turns a gradient into a step."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAM = "adam"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOptions:
    """`normalize`: the input is standardised by federated statistics; `personal`: a layer never sent."""

    optimizer: Optimizer = Optimizer.SGD
    normalize: bool = False
    personal: bool = False
