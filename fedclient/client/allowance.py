"""How many bytes an update may have: the plan's bounds and the owner's, of one and of a day.  Pure."""

from __future__ import annotations

from dataclasses import replace

from fedclient.config import LimitSettings
from fedclient.errors import ConfigError
from fedclient.limits import UPDATE_BYTES, UPDATE_OVERHEAD_BYTES
from fedclient.scheduler.schedule import Policy
from fedclient.values import Manifest, Plan, fixed_body_bytes


def per_update(limits: LimitSettings, plan: Plan) -> int | None:
    """Return the bound on one update, as a message; None: there is none."""
    return _least(limits.max_update_bytes, plan.max_update_bytes or None)


def per_day(limits: LimitSettings, plan: Plan | None) -> int | None:
    """Return the bound on the updates of any 24 hours; None: there is none."""
    return _least(limits.max_update_bytes_per_day, (plan.max_bytes_per_day or None) if plan else None)


def of_next(limits: LimitSettings, plan: Plan, spent: float) -> int | None:
    """Return the bound on an update that begins now, when `spent` bytes were sent in the last 24 hours."""
    day = per_day(limits, plan)
    return _least(per_update(limits, plan), None if day is None else max(0, day - int(spent)))


def applied(policy: Policy, limits: LimitSettings, manifest: Manifest | None) -> Policy:
    """Return the owner's policy, with the plan's bound of a day where that is less."""
    bound = per_day(limits, None if manifest is None else manifest.plan)
    return replace(policy, max_update_bytes_per_day=bound)


def needed(manifest: Manifest | None) -> int:
    """Return how few bytes an update on this head can be made to have, as a message."""
    if manifest is None:
        return UPDATE_BYTES[0]
    body = fixed_body_bytes(manifest.plan, manifest.tensors)
    return UPDATE_BYTES[0] if body is None else body + UPDATE_OVERHEAD_BYTES


def check(limits: LimitSettings, manifest: Manifest) -> None:
    """Refuse a plan whose updates cannot be made small enough; raises ConfigError."""
    plan, takes = manifest.plan, needed(manifest)
    for bound, keys in (
        (per_update(limits, plan), "max_update_bytes"),
        (per_day(limits, plan), "max_update_bytes_per_day, or the plan's max_bytes_per_day,"),
    ):
        if bound is not None and takes > bound:
            kind = "feature statistics" if plan.statistics else "dense updates"
            raise ConfigError(
                f"the plan of head {manifest.head_version} asks for {kind}, which take up to {takes} bytes: "
                f"[limits] {keys} allows {bound}: raise it, or have another plan published"
            )


def _least(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)
