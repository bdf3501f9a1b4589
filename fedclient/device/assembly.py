"""What the agent tells a child that puts a head together, and nothing more: it opens no database."""

from __future__ import annotations

from dataclasses import dataclass

from fedclient.values import BlobRef, TensorSpec

Named = tuple[str, int]  # a blob: its hash in hex, its size


@dataclass(frozen=True, kw_only=True, slots=True)
class AssembleArguments:
    """Which blobs lead to which head; all of them are stored.  Plain values: they travel as JSON."""

    parent: int  # process id of the agent
    blobs: str  # the folder
    head: Named  # float32, as the manifest names it
    base: Named | None  # the head that the first step is added to; None: the only step is the whole head
    steps: tuple[Named, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    nice: int
    idle: bool
    memory_mib: int | None
    verbose: bool  # say how far it is, on the agent's standard error

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The head's tensors."""
        return tuple(TensorSpec(name=name, shape=tuple(shape)) for name, shape in self.tensors)


def named(ref: BlobRef) -> Named:
    """Name a blob in plain values."""
    return ref.hash.hex(), ref.size


def ref_of(name: Named) -> BlobRef:
    """Return the blob that `named` has named."""
    return BlobRef(hash=bytes.fromhex(name[0]), size=name[1])
