"""Put a head together out of what was fetched: the first thing that a trainer or a judge does with it.

Deltas are added to a head that is stored, or the whole head is decoded.  Either way the result has to be
the blob that the manifest names, or nothing is written.  Every step is a pure function of stored blobs, so
this may be killed at any moment and done again; and it is over before a runtime is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.device.blobs import Blobs
from fedclient.device.routes import Route, is_complete, shortest
from fedclient.errors import AstrayHead, StorageDamaged, WireError
from fedclient.training import process
from fedclient.values import HeadVersion, Manifest

log = logging.getLogger(__name__)

_MIB = 1 << 20
_MORE_MIB, _HEADS = 16, 32  # memory that it takes: so many times the head (measured: 28), and a little


def put_together(
    blobs: Blobs, manifest: Manifest, manifest_of: Callable[[HeadVersion], Manifest | None]
) -> None:
    """Store the head of a manifest, unless it is here.

    Raises AstrayHead where what was fetched leads to another one, StorageDamaged for a blob that is not here
    as it was fetched, StorageFull where there is no room.
    """
    if blobs.has(manifest.head):
        return
    route = shortest(manifest, manifest_of, blobs.has)
    if not is_complete(route, blobs.has):
        raise StorageDamaged(f"head {manifest.head_version} is gone: it will be fetched again")
    enough_mib = _MORE_MIB + _HEADS * manifest.head.size // _MIB
    try:
        with process.memory_grows_by(enough_mib):
            blobs.put(manifest.head, _decoded(route, blobs, manifest).astype("<f4").tobytes())
    except MemoryError:
        raise WireError(f"head {manifest.head_version} does not fit into {enough_mib} MiB") from None
    except WireError as error:  # CodecError too
        version = manifest.head_version
        raise AstrayHead(f"what was fetched does not lead to head {version}: {error}") from error
    log.info("put head %s together steps=%d", manifest.head_version, len(route.steps))


def _decoded(route: Route, blobs: Blobs, manifest: Manifest) -> NDArray[np.float32]:
    """Follow the route: flat float32 [P]."""
    if route.base is None:
        return codec.head_from(blobs.read(route.steps[0]), manifest.tensors)
    head = np.frombuffer(blobs.read(route.base), "<f4").astype(np.float32)
    for step in route.steps:
        head = codec.head_after(head, blobs.read(step), manifest.tensors)
    return head
