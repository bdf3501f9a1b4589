"""Write a file with a new head only if it is proved; prove one that is there.

The proof runs in a child process, because a damaged file may crash the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fedclient import limits
from fedclient.errors import ModelError
from fedclient.model.attach import Attached, NewHead, attach
from fedclient.model.attach_proof import Proved, pack
from fedclient.runtime import child

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Proved", "attach_proved", "check_attached"]

TIMEOUT_S: Final = 120.0  # a MobileNet runs some fifty times, each in a second on a Pi Zero 2 W
MAX_SAMPLES: Final = 8


def attach_proved(
    parent: bytes, head: NewHead, samples: NDArray[Any] | None = None
) -> tuple[Attached, Proved]:
    """Return a trainable file made of the model `parent`, and what its proof found.

    It takes any number of samples at a time where that proves right, else as many as the parent.

    Raises ModelError when the model cannot be cut, run or proved, UsageError for a head that cannot be.
    """
    for free_batch in (True, False):
        attached = attach(parent, head, free_batch=free_batch)
        found = check_attached(attached.data, parent, samples)
        if not found.batch_fails:
            break
    if not found.ok:
        raise ModelError(f"nothing is written, as this is not proved: {found.reason}")
    return attached, found


def check_attached(file: bytes, parent: bytes = b"", samples: NDArray[Any] | None = None) -> Proved:
    """Return what is known of a file that attach-head wrote; nothing is raised, whatever the bytes are.

    `parent`: the model that it was made of, b"" when that is not at hand.
    """
    if max(len(file), len(parent)) > limits.MAX_MODEL_BYTES:
        return Proved(ok=False, reason=f"the model has more than {limits.MAX_MODEL_BYTES} bytes")
    packed = pack(file, parent, None if samples is None else spread(samples))
    try:
        told = child.ask("fedclient.model.attach_proof", "prove_json", packed, timeout_s=TIMEOUT_S)
    except ModelError as error:
        return Proved(ok=False, reason=str(error))
    return Proved(**told)


def spread(samples: NDArray[Any]) -> NDArray[Any]:
    """Return some of the samples, from all over."""
    return samples[:: -(-len(samples) // MAX_SAMPLES)]
