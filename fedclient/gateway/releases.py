"""New generations: what an operator publishes, rolls back to, or recovers with.

Each is one commit.  A running gateway in another process notices the new version and publishes it;
the updates still in its buffer belong to a generation that has ended.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.errors import CodecError, ModelError, UsageError
from fedclient.gateway import canonical
from fedclient.gateway.desk import Desk, manifest_of
from fedclient.limits import UPDATE_OVERHEAD_BYTES
from fedclient.training.schedule import hyper_parameters
from fedclient.values import HeadVersion, Manifest, Plan, TensorSpec, fixed_body_bytes
from fedclient.wire import messages
from fedclient.wire.blobs import Blob, split


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Content:
    """What devices shall train: a model, the head to begin with, and how."""

    model: bytes
    head: NDArray[np.float32]  # [P], in the order of `tensors`
    tensors: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    plan: Plan
    takes: frozenset[str] | None = None  # hyper-parameters of the model's step; None: not known


def publish(desk: Desk, content: Content) -> HeadVersion:
    """Begin a generation with new content and return its first version.

    The head begins on a grid, near what the content says (`canonical.py`).
    Raises UsageError while stopped, ModelError for a plan that the model cannot follow, WireError for content
    that no device would accept.
    """
    _refuse_what_does_not_fit(content)
    model, (head, full) = split(content.model), _encoded(content.head, content.tensors)
    # Read back as a device will: what none would accept is never signed; and 1 becomes 1.0.
    plan = messages.decode_plan(messages.encode_plan(content.plan))
    with desk.store.transaction():
        _refuse_if_stopped(desk)
        for blob in (model, head, full):
            desk.store.add_blob(blob.ref.hash, b"".join(blob.chunks))
        manifest = Manifest(
            head_version=_following(desk),
            model=model.ref,
            head=head.ref,
            full=full.ref,
            tensors=content.tensors,
            labels=content.labels,
            plan=plan,
            plan_hash=hashlib.sha256(messages.encode_plan(plan)).digest(),
        )
        messages.decode_manifest(messages.encode_manifest(manifest))
        desk.store.add_release(desk.release(manifest))
    return manifest.head_version


def rollback(desk: Desk, version: int) -> HeadVersion:
    """Make the content of an older version current again, as a higher one; UsageError if there is none."""
    with desk.store.transaction():
        _refuse_if_stopped(desk)
        release = desk.store.release_of_version(version)
        if release is None:
            raise UsageError(f"there is no version {version}: `fedclient gateway rounds` lists them")
        return _again(desk, manifest_of(release))


def recover(desk: Desk, *, force: bool = False) -> HeadVersion:
    """Jump beyond every head version that was seen anywhere, with the current content.

    It ends all work on the last generation: UsageError where nothing newer was seen, unless `force`.
    """
    with desk.store.transaction():
        newest = desk.store.releases(1)
        if not newest:
            raise UsageError("there is no head to recover with: `fedclient gateway publish` one")
        if not force and desk.store.seen() <= desk.store.current():
            raise UsageError(
                f"nobody has shown a head above {desk.store.current()}: there is nothing to recover from; "
                "after a restore let `fedclient gateway run` look first, or add --force"
            )
        return _again(desk, manifest_of(newest[0]))


def _refuse_what_does_not_fit(content: Content) -> None:
    """Raise ModelError for a plan that would fail on every device."""
    if content.plan.statistics:
        try:
            codec.statistics_of(content.tensors)
        except CodecError as error:
            raise ModelError(
                f"the plan says statistics = true, but {error}; write one with --normalize"
            ) from None
    if content.takes is not None:
        hyper_parameters(content.plan, content.takes)
    _refuse_what_bytes_cannot_hold(content)


def _refuse_what_bytes_cannot_hold(content: Content) -> None:
    """As a device would refuse the manifest: such a plan ends all training until the next one."""
    plan, body = content.plan, fixed_body_bytes(content.plan, content.tensors)
    kind = "statistics = true" if plan.statistics else f"mode = {plan.codec.mode.name.lower()!r}"
    for key in ("max_update_bytes", "max_bytes_per_day"):
        bound = getattr(plan, key)
        if body is not None and 0 < bound < body + UPDATE_OVERHEAD_BYTES:
            raise ModelError(
                f"the plan's {key} is {bound}, but with {kind} an update of this head takes up to "
                f"{body + UPDATE_OVERHEAD_BYTES} bytes: allow as many, or change that"
            )


def _again(desk: Desk, manifest: Manifest) -> HeadVersion:
    following = _following(desk)
    if manifest.full == manifest.head:  # made before heads were encoded
        values = np.frombuffer(desk.store.blob(manifest.head.hash), dtype="<f4").astype(np.float32)
        head, full = _encoded(values, manifest.tensors)
        for blob in (head, full):
            desk.store.add_blob(blob.ref.hash, b"".join(blob.chunks))
        manifest = replace(manifest, head=head.ref, full=full.ref)
    desk.store.add_release(desk.release(replace(manifest, head_version=following, deltas=())))
    return following


def _encoded(head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> tuple[Blob, Blob]:
    """Return a head as devices will have it, near the one given, and encoded."""
    start = canonical.begin(head, tensors)
    return split(start.head.astype("<f4").tobytes()), split(start.full)


def _following(desk: Desk) -> HeadVersion:
    """Return the first version of the next generation: above all of ours, and all that was seen."""
    current, seen = desk.store.current(), desk.store.seen()
    return HeadVersion(max(current.generation, seen.generation) + 1, max(current.version, seen.version) + 1)


def _refuse_if_stopped(desk: Desk) -> None:
    current, seen = desk.store.current(), desk.store.seen()
    if current.version and seen > current:
        raise UsageError(
            f"devices or the broker have head {seen}, this database ends at {current}: it was restored "
            "from a backup; run `fedclient gateway recover` first"
        )
