"""Put a head together out of what was fetched: `python -m fedclient.trainer assemble`.

Deltas are added to a head that is stored, or the whole head is decoded.  Either way the result has to be
the blob that the manifest names, or nothing is written: a route that leads elsewhere has its own exit code.
Every step is a pure function of stored blobs, so this may be killed at any moment and done again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.device.assembly import AssembleArguments, ref_of
from fedclient.device.blobs import Blobs
from fedclient.device.jobs import TrainerExit
from fedclient.errors import WireError

log = logging.getLogger(__name__)


def run(arguments: AssembleArguments) -> TrainerExit:
    """Store the head and end.

    Raises StorageDamaged for a blob that is not here as it was fetched, StorageFull where there is no room.
    """
    blobs = Blobs(Path(arguments.blobs))
    head = ref_of(arguments.head)
    try:
        blobs.put(head, _decoded(arguments, blobs).astype("<f4").tobytes())
    except WireError as error:  # CodecError too
        log.error("what was fetched does not lead to head %s: %s", head.hash.hex()[:12], error)
        return TrainerExit.ASTRAY
    except MemoryError:
        log.error("the head does not fit into %s MiB", arguments.memory_mib)
        return TrainerExit.CRASHED
    return TrainerExit.DONE


def _decoded(arguments: AssembleArguments, blobs: Blobs) -> NDArray[np.float32]:
    """Follow the route: flat float32 [P]."""
    steps = [ref_of(step) for step in arguments.steps]
    if arguments.base is None:
        return codec.head_from(blobs.read(steps[0]), arguments.specs)
    head = np.frombuffer(blobs.read(ref_of(arguments.base)), "<f4").astype(np.float32)
    for step in steps:
        head = codec.head_after(head, blobs.read(step), arguments.specs)
    return head
