"""What a policy would have done over a trace: readings, job -> when it would have trained.  Pure.

It does what the agent does: asks the policy at its pace, starts when eligible, looks again every few
seconds while it trains, stops when a gate closes and goes on with the same job later.  Between two
points readings hold.  A job is always wanted; `min_new_samples` makes it wait for samples in the trace.

    waiting --eligible--> training --its seconds are over--> waiting, for a new job
       ^                      |
       +-- a gate closed, or the agent ended: the job is kept

Budgets are charged as the agent charges them.  A job sends and writes what `Job` says, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedclient.scheduler import windows
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import Cost, History
from fedclient.scheduler.policy import Decision, decide, sleep_s
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Reading, Readings, SampleCounts
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.timing import JOB_FLASH_BYTES, watts
from fedclient.scheduler.trace import Point

LOOK_S = 5.0  # between two looks while it trains
LAST_HOLD_S = 60.0  # how long a lone reading is taken to hold, where the agent ended after it
DAY_S = 86_400
_DONE_S = 1e-6  # less is the rounding of floats
ENDINGS = ("done", "stopped", "restart", "end of trace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What each job takes."""

    training_s: float = 60.0
    update_bytes: float = 500.0
    flash_bytes: float = JOB_FLASH_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is replayed over a trace."""

    policy: Policy
    profile: Profile
    job: Job = Job()
    look_s: float = LOOK_S
    samples_always: bool = False  # as if there were always enough; for a trace that counts none


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """One stretch of training, in seconds since the trace began."""

    begin_s: float
    end_s: float
    ended: str  # one of ENDINGS
    closed: tuple[str, ...]  # the gates that stopped it
    resumed: bool  # it went on with a job that was stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """All that was taken."""

    trace_s: float  # time that the trace covers
    training_s: float
    jobs: int  # that were done
    stops: int  # by a gate
    traffic_bytes: float
    flash_bytes: float
    energy_j: float | None  # None: neither a rail nor an estimate tells


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """When it would have trained, and what kept it from that."""

    intervals: tuple[Interval, ...]
    totals: Totals
    closed: dict[str, float]  # gate -> share of the covered time, most first
    covered: tuple[tuple[float, float], ...]  # when the agent ran
    origin_min: float | None  # local minute of the week in which the trace began, where the clock was right

    def local(self, at_s: float) -> str:
        """Name a moment: "Mon 22:15", or the day of the trace where the clock was never right."""
        minutes = int(at_s / 60 + (self.origin_min or 0.0))
        day, minute = divmod(minutes, windows.DAY_MIN)
        return f"{self.day(day)} {minute // 60:02}:{minute % 60:02}"

    def day(self, number: int) -> str:
        """Name a day, counted from the one in which the trace begins or, with a clock, from a Monday."""
        return f"day {number + 1}" if self.origin_min is None else windows.DAYS[number % 7].capitalize()

    def by_day(self, spans: Iterable[tuple[float, float]]) -> dict[int, list[tuple[float, float]]]:
        """Cut spans at midnight: number of the day -> seconds of that day."""
        origin_s = 60.0 * (self.origin_min or 0.0)
        days: dict[int, list[tuple[float, float]]] = {}
        for begin_s, end_s in spans:
            at_s = begin_s + origin_s
            while at_s < end_s + origin_s:
                day = int(at_s // DAY_S)
                stop_s = min(end_s + origin_s, (day + 1.0) * DAY_S)
                days.setdefault(day, []).append((at_s - day * DAY_S, stop_s - day * DAY_S))
                at_s = stop_s
        return days


def replay(points: Iterable[Point], terms: Terms) -> Replay:
    """Go through a trace; whatever reading `points` raises goes to the caller."""
    simulation = Simulation(terms)
    before: Point | None = None
    step_s = LAST_HOLD_S
    for point in points:
        if before is not None:
            gap_s = point.at_s - before.at_s
            until_s = before.at_s + min(step_s, gap_s) if point.begins else point.at_s
            simulation.run(before, until_s)
            step_s = LAST_HOLD_S if point.begins else gap_s
        if before is None or point.begins:
            simulation.restart(point.at_s)
        simulation.observe(point)
        before = point
    return simulation.result()


class Simulation:
    """An agent without a machine; `run` it from point to point."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        job = terms.job
        # what a job takes is known beforehand here; an agent learns it from its first one
        self.history = History(last_job=Cost(traffic_bytes=job.update_bytes, flash_bytes=job.flash_bytes))
        self._samples = _Samples()
        self._at_s = 0.0
        self._next_s = 0.0  # the next question
        self._left_s: float | None = None  # of the job in hand
        self._begun: tuple[float, bool] | None = None  # while it trains: since when, and whether resumed
        self._watts: float | None = None
        self._closed: tuple[str, ...] = ()
        self._closed_s: dict[str, float] = {}
        self._intervals: list[Interval] = []
        self._covered: list[tuple[float, float]] = []
        self._taken = Cost()
        self._energy_known = True
        self._jobs = 0
        self._origin_min: float | None = None

    def restart(self, at_s: float) -> None:
        """Begin anew with what an agent stores: the job, and the history."""
        self._stop("restart")
        self.history = History.of_record(json.loads(json.dumps(self.history.as_record())))
        self._at_s = self._next_s = at_s
        self._covered.append((at_s, at_s))

    def observe(self, point: Point) -> None:
        """Take in what is new in a point."""
        self._samples.observe(point.readings.activity.samples)
        if self._origin_min is None and point.minute_of_week is not None:
            self._origin_min = (point.minute_of_week - point.at_s / 60) % windows.WEEK_MIN

    def run(self, point: Point, until_s: float) -> None:
        """Live until then, with the readings of `point`."""
        while self._at_s < until_s:
            if self._at_s >= self._next_s:
                self._decide(point)
            self._advance(min(self._next_s, until_s))
        if self._covered:
            self._covered[-1] = (self._covered[-1][0], self._at_s)

    def _decide(self, point: Point) -> None:
        readings = self._readings(point)
        minute = point.minute_of_week
        if minute is not None:
            minute = (minute + int((self._at_s - point.at_s) // 60)) % windows.WEEK_MIN
        now = Now(elapsed_s=self._at_s, minute_of_week=minute)
        decision = decide(readings, self._terms.policy, self._terms.profile, self.history, now)
        self.history, self._closed = decision.history, decision.closed
        if decision.eligible and self._begun is None:
            self._start()
        elif not decision.eligible and self._begun is not None:
            self._stop("stopped")
        self._watts = watts(readings, self._terms.profile)
        self._next_s = self._at_s + self._pause_s(decision)

    def _pause_s(self, decision: Decision) -> float:
        if self._begun is None or self._left_s is None:
            return sleep_s(decision, self._terms.policy.poll_s)
        return min(self._terms.look_s, self._left_s)

    def _readings(self, point: Point) -> Readings:
        """Make the readings those of the replay: it, and not the device back then, is what trains."""
        policy, found = self._terms.policy, point.readings
        training = self._begun is not None
        samples = self._samples.counts()
        if self._terms.samples_always:
            samples = SampleCounts(new=policy.min_new_samples or 0, distinct=policy.min_distinct_samples)
        activity = Activity(
            training=training,
            resuming=self._left_s is not None and not training,
            broker_is_local=found.activity.broker_is_local,
            samples=samples,
            update_needs_bytes=self._terms.job.update_bytes,
        )
        power_w = found.power_w
        if training and not found.activity.training and power_w.value is not None:
            power_w = Reading(power_w.value + (self._terms.profile.training_w or 0.0), power_w.source)
        return replace(found, activity=activity, power_w=power_w)

    def _start(self) -> None:
        self._begun = self._at_s, self._left_s is not None
        if self._left_s is None:
            self._left_s = self._terms.job.training_s
            self.history = self.history.started(self._at_s)
            self._samples.begin()

    def _stop(self, ended: str) -> None:
        """End a stretch of training, if there is one."""
        if self._begun is None:
            return
        begin_s, resumed = self._begun
        closed = self._closed if ended == "stopped" else ()
        one = Interval(begin_s=begin_s, end_s=self._at_s, ended=ended, closed=closed, resumed=resumed)
        self._intervals.append(one)
        self._begun = None

    def _advance(self, to_s: float) -> None:
        span_s = to_s - self._at_s
        for name in self._closed:
            self._closed_s[name] = self._closed_s.get(name, 0.0) + span_s
        self._at_s = to_s
        if self._begun is not None and self._left_s is not None:
            self._energy_known = self._energy_known and self._watts is not None
            self._spend(Cost(training_s=span_s, energy_j=span_s * (self._watts or 0.0)))
            self._left_s -= span_s
            if self._left_s <= _DONE_S:
                self._finish()

    def _finish(self) -> None:
        job = self._terms.job
        sent = job.update_bytes
        self._spend(Cost(traffic_bytes=sent, flash_bytes=job.flash_bytes, update_bytes=sent))
        self._stop("done")
        self._left_s, self._next_s = None, self._at_s
        self._samples.settle()
        self._jobs += 1

    def _spend(self, cost: Cost) -> None:
        self._taken += cost
        self.history = self.history.spend(cost, self._at_s)

    def result(self) -> Replay:
        """End, and say what was."""
        self._stop("end of trace")
        covered = tuple(span for span in self._covered if span[1] > span[0])
        trace_s = sum(end_s - begin_s for begin_s, end_s in covered)
        shares = {name: span_s / trace_s for name, span_s in self._closed_s.items()}
        return Replay(
            intervals=tuple(self._intervals),
            totals=Totals(
                trace_s=trace_s,
                training_s=self._taken.training_s,
                jobs=self._jobs,
                stops=sum(one.ended == "stopped" for one in self._intervals),
                traffic_bytes=self._taken.traffic_bytes,
                flash_bytes=self._taken.flash_bytes,
                energy_j=self._taken.energy_j if self._energy_known else None,
            ),
            closed=dict(sorted(shares.items(), key=lambda one: (-one[1], one[0]))),
            covered=covered,
            origin_min=self._origin_min,
        )


class _Samples:
    """Which samples would be new, had the jobs been those of the replay."""

    def __init__(self) -> None:
        self._new: int | None = None  # as the device counted them, when last known
        self._found = SampleCounts()
        self._pending = 0
        self._at_start = 0

    def observe(self, found: SampleCounts) -> None:
        """Add those that came; where the count fell, the device itself had used them up."""
        if found.new is not None:
            used_up = self._new is None or found.new < self._new
            self._pending += found.new if used_up else found.new - (self._new or 0)
            self._new = found.new
        self._found = found

    def counts(self) -> SampleCounts:
        return replace(self._found, new=None if self._found.new is None else self._pending)

    def begin(self) -> None:
        self._at_start = self._pending

    def settle(self) -> None:
        self._pending -= self._at_start
