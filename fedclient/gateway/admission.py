"""Who gets an answer now: token buckets, per device and for all together (PROTOCOL 3).  Pure.

Anybody can publish garbage in an enrolled device's name, so answers to what is not verified (and
repetitions of stored ones) have a bucket of their own: exhausting it never keeps a device's
authentic update out.  What finds no token gets silence; devices offer again.
"""

from __future__ import annotations

from dataclasses import dataclass

STRANGERS = ""  # they share one bucket: ids cost nothing to make up
_BURST_S = 5.0  # of the rate for all: a fleet that comes back after an outage
_SWEEP_AT = 100_000  # buckets; full ones carry no information and are forgotten


@dataclass(slots=True)
class Bucket:
    """`tokens` as of `at_s`; refilled with `rate_per_s` up to `burst`."""

    rate_per_s: float
    burst: float
    tokens: float
    at_s: float

    def refill(self, now_s: float) -> None:
        """Add what has come in since the last time; a clock that stands or goes back adds nothing."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s


class Admission:
    """All buckets of a gateway."""

    def __init__(self, per_device_per_minute: float, per_s: float, now_s: float) -> None:
        self._per_device_per_minute = per_device_per_minute
        burst = _BURST_S * per_s
        self._all = {verified: Bucket(per_s, burst, burst, now_s) for verified in (False, True)}
        self._each: dict[tuple[str, bool], Bucket] = {}

    def admit(self, device_id: str, now_s: float, *, verified: bool) -> bool:
        """Take a token for an answer to `device_id`, and one of all devices'; False if either is missing."""
        bucket = self._each.get((device_id, verified))
        if bucket is None:
            self._sweep(now_s)
            burst = self._per_device_per_minute
            bucket = self._each[device_id, verified] = Bucket(burst / 60, burst, burst, now_s)
        everybody = self._all[verified]
        bucket.refill(now_s)
        everybody.refill(now_s)
        if bucket.tokens < 1 or everybody.tokens < 1:
            return False
        bucket.tokens -= 1
        everybody.tokens -= 1
        return True

    def _sweep(self, now_s: float) -> None:
        if len(self._each) < _SWEEP_AT:
            return
        for bucket in self._each.values():
            bucket.refill(now_s)
        self._each = {key: bucket for key, bucket in self._each.items() if bucket.tokens < bucket.burst}
