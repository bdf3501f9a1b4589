"""The shortest way to a head: deltas from one that is here, or the whole head.  Pure.

The agent fetches along it, and who reads the head first puts it together along it; both find it from what
is stored, so it is nowhere written down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedclient.values import BlobRef, HeadVersion, Manifest
from fedclient.wire.blobs import chunk_count

ASKING_BYTES = 200  # SUBSCRIBE, UNSUBSCRIBE, their answers and the topic, for each chunk that is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Blobs that lead to a head, in the order in which they are decoded."""

    base: BlobRef | None  # the head that the first step is added to; None: the only step is the whole head
    steps: tuple[BlobRef, ...]


def whole(manifest: Manifest) -> Route:
    """Return the route that needs nothing else."""
    return Route(base=None, steps=(manifest.full,))


def shortest(
    manifest: Manifest,
    manifest_of: Callable[[HeadVersion], Manifest | None],
    is_here: Callable[[BlobRef], bool],
) -> Route:
    """Return what costs the least to fetch: what is here already costs nothing.

    The newest head that is here is the best one to begin from: its deltas are the last of any other's.
    """
    version, full = manifest.head_version, whole(manifest)
    for back in range(1, len(manifest.deltas) + 1):
        before = manifest_of(HeadVersion(version.generation, version.version - back))
        if before is None or before.tensors != manifest.tensors or not is_here(before.head):
            continue
        chain = Route(base=before.head, steps=manifest.deltas[back - 1 :: -1])
        return chain if cost(chain, is_here) < cost(full, is_here) else full
    return full


def is_complete(route: Route, is_here: Callable[[BlobRef], bool]) -> bool:
    """Whether nothing of a route has to be fetched any more."""
    return all(is_here(step) for step in route.steps)


def cost(route: Route, is_here: Callable[[BlobRef], bool]) -> int:
    """Return about how many bytes it takes to fetch what is missing of a route."""
    return sum(step.size + ASKING_BYTES * _messages(step) for step in route.steps if not is_here(step))


def _messages(ref: BlobRef) -> int:
    chunks = chunk_count(ref)
    return chunks if chunks == 1 else chunks + 1  # with the list of their hashes
