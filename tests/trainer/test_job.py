"""One job, stopped, resumed, cut off and superseded (PROTOCOL 5)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.device.jobs import Jobs, Lease, TrainerExit
from fedclient.device.outbox import Row
from fedclient.device.residual import ResidualKey
from fedclient.errors import CodecError, DataError, ModelError, PrivacyFloor, StorageDamaged
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.samples.store import SampleStore, features_path
from fedclient.session import Outcome
from fedclient.trainer import job as job_module
from fedclient.trainer.job import JobRun
from fedclient.uplink import envelope_hash
from fedclient.values import Codec, CodecMode, HeadVersion, Schedule, Update
from tests.runtime.models import Foreign, build
from tests.trainer.setup import FEATURES, MODES, PLAN, Bench, bench, copy, result, samples

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
STEPS = PLAN.epochs * 4  # 60 samples in batches of 16


class Stop:
    """Says stop after so many batches; None: never."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.asked = after, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked == self.after


def run(device: Bench, stop: Stop | None = None, **changed: object) -> TrainerExit:
    job = device.jobs.current()
    assert job is not None
    return JobRun(device.arguments(job, **changed), stop or Stop()).run()


def begin(device: Bench, version: HeadVersion = V1, **publish: object):
    manifest = device.publish(version, **publish)
    return manifest, device.jobs.new(version, threads=1)


def test_rule_5_2_one_transaction_hands_everything_over(device) -> None:
    manifest, job = begin(device)
    stop = Stop()
    assert run(device, stop) == TrainerExit.DONE
    assert stop.asked == STEPS
    row = device.outbox.unsettled()
    assert row is not None
    update = device.opened(row)
    assert (update.counter, update.head_version, update.bucket) == (1, V1, 5)  # 32 <= 60 < 64
    assert update.body == row.body
    assert update.accuracy_percent is None  # 8: fewer than 100 samples
    assert device.journal.counter("updates") == 1
    assert device.jobs.current() is device.jobs.checkpoint(job) is None
    assert device.stored_residual(manifest) is not None
    (report,) = device.journal.rounds()
    assert (report.counter, report.version, report.status) == (1, V1, None)
    assert report.report["newest_sample"] == 60
    assert report.report["samples"] == 60
    assert report.report["bytes"]["sealed"] == len(row.envelope)


def test_fewer_epochs_than_the_plans_are_told_and_resumed_to_the_same_bits(device, tmp_path) -> None:
    plan = replace(PLAN, epochs=50, budget_s=1e-6, schedule=Schedule.LINEAR)  # one epoch, on any machine
    begin(device, plan=plan)
    whole = copy(device, tmp_path / "whole")
    stop = Stop()
    assert run(whole, stop) == TrainerExit.DONE
    assert stop.asked == 4
    assert whole.opened(whole.outbox.unsettled()).epochs == 1
    assert len(whole.journal.rounds()[0].report["epochs"]) == 1
    for _ in range(4):
        assert run(device, Stop(1)) == TrainerExit.STOPPED
    assert run(device) == TrainerExit.DONE
    assert result(device) == result(whole)
    whole.close()


def test_how_many_epochs_fit_is_decided_once(device) -> None:
    begin(device, plan=replace(PLAN, epochs=5, budget_s=3600.0))
    assert run(device, Stop(5)) == TrainerExit.STOPPED
    job = device.jobs.current()
    saved = device.jobs.checkpoint(job)
    report = json.loads(saved.report)
    assert report["epochs_that_fit"] == 5
    fewer = replace(saved, report=json.dumps({**report, "epochs_that_fit": 2}))  # as on a slow first epoch
    device.jobs.save_checkpoint(job, fewer)
    assert run(device) == TrainerExit.DONE
    assert device.opened(device.outbox.unsettled()).epochs == 2


def test_all_the_plans_epochs_are_not_told(device) -> None:
    begin(device, plan=replace(PLAN, budget_s=3600.0))
    assert run(device) == TrainerExit.DONE
    assert device.opened(device.outbox.unsettled()).epochs is None


def test_history_has_the_time_of_backbone_and_head_apart(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    x = np.random.default_rng(1).integers(0, 255, (48, 2, 2)).astype(np.uint8)
    device.store.append_many(list(x), [row % 3 for row in range(48)])
    for version, computed in ((V1, 48), (V2, 0)):  # the same file with the backbone: it never runs again
        begin(device, version)
        assert run(device, Stop(2 + (version is V1) * 2)) == TrainerExit.STOPPED  # two batches
        assert run(device) == TrainerExit.DONE
        device.outbox.settle(device.journal.counter("updates"), Outcome.COUNTED)
        report = device.journal.rounds()[0].report  # the newest
        assert report["backbone_samples"] == computed
        assert (report["backbone_seconds"] > 0) == (computed > 0)
        assert report["head_seconds"] == sum(epoch["seconds"] for epoch in report["epochs"]) > 0
    device.close()


def test_a_stop_between_two_runs_of_the_backbone_loses_nothing(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    device.store.append_many(
        list(np.random.default_rng(1).integers(0, 255, (48, 2, 2)).astype(np.uint8)), [0, 1, 2] * 16
    )
    begin(device)
    assert run(device, Stop(3), feature_batch=16) == TrainerExit.STOPPED
    assert device.jobs.checkpoint(device.jobs.current()) is None
    assert run(device, feature_batch=16) == TrainerExit.DONE
    assert device.journal.rounds()[0].report["backbone_samples"] == 16  # the last of three
    device.close()


HELD = """
import json, sys
from fedclient.device.jobs import JobArguments
from fedclient.trainer import job as job_module
from fedclient.trainer.job import JobRun
asked = 0
def held():
    global asked
    asked += 1
    if asked == int(sys.argv[2]):
        print("here", flush=True)
        sys.stdin.read()
    return False
JobRun(JobArguments(**json.loads(sys.argv[1])), held).run()
"""


@pytest.mark.parametrize("after", [2, 6, 8], ids=["first", "last", "training"])  # six runs of the backbone
def test_kill_9_during_a_long_backbone_pass_costs_no_more_than_the_run_at_hand(tmp_path, after) -> None:
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    x = np.random.default_rng(1).integers(0, 255, (48, 2, 2)).astype(np.uint8)
    device.store.append_many(list(x), [0, 1, 2] * 16)
    begin(device)
    whole = copy(device, tmp_path / "whole")
    assert run(whole, feature_batch=8) == TrainerExit.DONE
    arguments = json.dumps(asdict(device.arguments(device.jobs.current(), feature_batch=8)))
    with subprocess.Popen(
        [sys.executable, "-c", HELD, arguments, str(after)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.kill()
    assert run(device, feature_batch=8) == TrainerExit.DONE
    assert result(device) == result(whole)
    done = min(after - 1, 6) * 8
    assert device.journal.rounds()[0].report["backbone_samples"] == 48 - done
    for one in (device, whole):
        one.close()


def test_samples_purged_while_the_backbone_runs_leave_no_features(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    x = np.random.default_rng(1).integers(0, 255, (48, 2, 2)).astype(np.uint8)
    device.store.append_many(list(x), [0, 1, 2] * 16)
    begin(device)
    stop = Stop()

    def purge() -> bool:
        stop()
        if stop.asked == 3:
            device.store.purge()
        return stop.asked == 7  # after six runs of the backbone and one batch

    job = device.jobs.current()
    assert JobRun(device.arguments(job, feature_batch=8), purge).run() == TrainerExit.STOPPED
    assert not features_path(device.folder.samples).exists()
    with pytest.raises(DataError, match="no sample fits"):
        run(device)
    device.close()


EVERYTHING = replace(PLAN, mu=0.5, l2=0.01, balanced=True, schedule=Schedule.COSINE, batch_size=17)


@pytest.mark.parametrize(
    ("hidden", "options", "plan"),
    [
        (None, HeadOptions(), PLAN),
        (4, HeadOptions(), PLAN),
        (None, HeadOptions(optimizer=Optimizer.MOMENTUM, normalize=True, personal=True), EVERYTHING),
        (4, HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True), EVERYTHING),
    ],
    ids=["linear", "hidden", "everything with momentum", "everything with adam"],
)
def test_rule_5_1_stopped_at_every_batch_the_result_is_the_same(tmp_path, hidden, options, plan) -> None:
    device = bench(tmp_path / "device", model=write_head(FEATURES, 3, hidden, options=options))
    begin(device, plan=plan)
    steps = plan.epochs * -(-60 // plan.batch_size)
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    for after in range(1, steps + 1):
        other = copy(device, tmp_path / f"stopped-{after}")
        assert run(other, Stop(after)) == TrainerExit.STOPPED
        other.store.append(samples(1, seed=9)[0][0], 0)  # newer samples are the next job's
        assert run(other) == TrainerExit.DONE
        assert result(other) == result(whole), f"stopped after batch {after}"
        other.close()
    stops = copy(device, tmp_path / "stops")
    for _ in range(steps):
        assert run(stops, Stop(1)) == TrainerExit.STOPPED
    assert run(stops) == TrainerExit.DONE
    assert result(stops) == result(whole)
    assert [one["loss"] for one in stops.journal.rounds()[0].report["epochs"]] == [
        one["loss"] for one in whole.journal.rounds()[0].report["epochs"]
    ]
    for one in (device, whole, stops):
        one.close()


def test_rule_5_1_a_job_resumed_in_another_process_gives_the_same_bits(device, tmp_path) -> None:
    begin(device)
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    assert run(device, Stop(5)) == TrainerExit.STOPPED
    device.database.execute("UPDATE job SET pid = NULL")  # the first process is gone in truth
    job = device.jobs.current()
    assert job is not None
    arguments = json.dumps(asdict(device.arguments(job, parent=os.getpid())))
    command = [sys.executable, "-m", "fedclient.trainer", "job", arguments]
    assert subprocess.run(command, check=False, timeout=60).returncode == TrainerExit.DONE
    assert result(device) == result(whole)
    whole.close()


def test_rule_5_1_a_killed_trainer_leaves_the_checkpoint_of_its_last_epoch(device, tmp_path) -> None:
    begin(device)
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    stop = Stop()

    def killed() -> bool:
        if stop.asked == 5:
            raise KeyboardInterrupt
        return stop()

    with pytest.raises(KeyboardInterrupt):
        JobRun(device.arguments(device.jobs.current()), killed).run()
    checkpoint = device.jobs.checkpoint(device.jobs.current())
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.step) == (1, 0)
    assert run(device) == TrainerExit.DONE
    assert result(device) == result(whole)
    whole.close()


def test_rule_5_1_a_damaged_checkpoint_starts_the_job_over(device, tmp_path) -> None:
    begin(device)
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    assert run(device, Stop(6)) == TrainerExit.STOPPED
    device.database.execute("UPDATE checkpoint SET weights = CAST('x' AS BLOB)")
    stop = Stop()
    assert run(device, stop) == TrainerExit.DONE
    assert stop.asked == STEPS
    assert result(device) == result(whole)
    whole.close()


@pytest.mark.parametrize("how", ["purge", "one", "dropped"])
def test_rule_5_1_a_purged_sample_restarts_the_job(device, how) -> None:
    begin(device)
    assert run(device, Stop(3)) == TrainerExit.STOPPED
    before = device.jobs.current()
    assert before is not None
    if how == "purge":
        device.store.purge()
        device.store.append_many(*samples(48, seed=2))
    elif how == "one":
        device.store.purge(before_id=2)
    else:
        SampleStore(device.folder.samples, max_rows=59).close()
    stop = Stop()
    assert run(device, stop) == TrainerExit.DONE
    assert stop.asked == 2 * {"purge": 3, "one": 4, "dropped": 4}[how]
    gone = set(before.sample_ids or ())
    report = device.journal.rounds()[0].report
    assert report["samples"] == {"purge": 48, "one": 59, "dropped": 59}[how]
    assert how != "purge" or report["newest_sample"] not in gone


def test_rule_8_samples_purged_while_training_never_leave(device) -> None:
    begin(device)
    stop = Stop()

    def purge() -> bool:
        if stop.asked == 4:
            device.store.purge(before_id=10)
        return stop()

    job = device.jobs.current()
    assert JobRun(device.arguments(job), purge).run() == TrainerExit.STOPPED
    assert device.outbox.unsettled() is None
    assert run(device) == TrainerExit.DONE
    assert device.journal.rounds()[0].report["samples"] == 51


class Cut(Exception):
    """The power goes."""


def cut_at(work: JobRun, statement: int) -> list[str]:
    """Let the last transaction of `work` fail at this statement; returns what was seen of it."""
    database, seen = work._place.database, []
    plain = {name: getattr(database, name) for name in ("execute", "executemany")}

    def spy(name):
        def called(sql, *parameters):
            if sql == "BEGIN IMMEDIATE":
                seen.clear()
            seen.append(sql)
            if len(seen) > statement and any("counters" in one for one in [*seen, sql]):
                raise Cut(sql)
            return plain[name](sql, *parameters)

        return called

    database.execute, database.executemany = spy("execute"), spy("executemany")
    return seen


def test_rule_5_2_cut_off_at_any_statement_it_is_all_or_nothing(device) -> None:
    manifest, _ = begin(device)
    assert run(device) == TrainerExit.DONE
    device.outbox.settle(1, Outcome.RETURNED)
    begin(device, V2)
    assert run(device, Stop(4)) == TrainerExit.STOPPED  # ids are fixed, a checkpoint is there
    assert run(device, Stop(3)) == TrainerExit.STOPPED
    before = device.tables()
    cuts = 0
    for statement in range(2, 40):
        work = JobRun(device.arguments(device.jobs.current()), Stop())
        seen = cut_at(work, statement)
        try:
            assert work.run() == TrainerExit.DONE
        except Cut:
            cuts += 1
            assert device.tables() == before, seen[-1]
            work._place.database.close()
            continue
        break
    assert cuts >= 10
    assert seen[-1] == "COMMIT"
    assert device.database.execute("SELECT counter, state FROM outbox") == [(2, "unsettled")]
    assert device.jobs.current() is None
    assert device.journal.counter("updates") == 2
    assert device.stored_residual(manifest) is not None


@pytest.mark.parametrize("when", ["before", "first batch", "last batch"])
@pytest.mark.parametrize("how", ["dropped", "replaced"])
def test_rule_5_2_a_trainer_whose_job_is_no_longer_current_hands_nothing_over(device, when, how) -> None:
    begin(device)
    arguments = device.arguments(device.jobs.current())
    after: dict[str, object] = {}

    def supersede() -> None:
        device.jobs.drop()
        if how == "replaced":
            device.publish(V2)
            job = device.jobs.new(V2, threads=1)
            device.jobs.fix_samples(job, (1, 2, 3), device.store.epoch)
        after.update(device.tables())

    stop = Stop()

    def should_stop() -> bool:
        stop()
        if stop.asked == {"first batch": 1, "last batch": STEPS}.get(when):
            supersede()
        return False

    work = JobRun(arguments, should_stop)
    if when == "before":
        supersede()
    assert work.run() == TrainerExit.STOPPED
    assert device.tables() == after


def test_rule_5_6_a_second_trainer_does_not_touch_the_job(device) -> None:
    begin(device)
    job = device.jobs.current()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = Lease.of(child.pid)
        assert theirs is not None
        assert device.jobs.take_lease(job, theirs)
        assert run(device) == TrainerExit.STOPPED
        assert device.outbox.unsettled() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert run(device) == TrainerExit.DONE


# --- the residual -----------------------------------------------------------------------------------
def deltas(device: Bench, manifest) -> np.ndarray:
    """What the gateway computes of the unsettled update, plus the residual: all that was learned."""
    row = device.outbox.unsettled()
    total = np.zeros(device.stored_residual(manifest).size)
    codec.decode(row.body, manifest.tensors, manifest.plan.codec).add_to(total, 1.0)
    return total + device.stored_residual(manifest)


def test_rule_5_3_what_was_not_counted_is_given_back_exactly_once(device, tmp_path) -> None:
    wide = replace(PLAN, norm_bound=1000.0)
    first, _ = begin(device, plan=wide)
    assert run(device) == TrainerExit.DONE
    learned = deltas(device, first)
    counted = copy(device, tmp_path / "counted")
    device.outbox.settle(1, Outcome.RETURNED)
    counted.outbox.settle(1, Outcome.COUNTED)
    sent = np.zeros_like(learned)
    row = counted.outbox._rows("counter = 1")[0]
    codec.decode(row[6], first.tensors, wide.codec).add_to(sent, 1.0)
    for one in (device, counted):
        manifest, _ = begin(one, V2, plan=wide)
        one.database.execute("UPDATE job SET seed = 5")
        assert run(one) == TrainerExit.DONE
    difference = deltas(device, manifest) - deltas(counted, manifest)
    np.testing.assert_allclose(difference, sent, atol=1e-5)
    assert device.outbox.returned() == ((), ())
    counted.close()


class Books:
    """Everything that jobs have learned, against what became of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.learned, self.counted = np.zeros(size), np.zeros(size)
        self._last = self.learned
        real = job_module.pack

        def spy(training, base, *rest):
            packed = real(training, base, *rest)
            self._last = training.model.get_weights().astype(np.float64) - base
            return packed

        monkeypatch.setattr(job_module, "pack", spy)

    def job(self, device: Bench) -> None:
        """A job is done: what it learned is in the books once, however often it was packed."""
        assert device.jobs.current() is None
        self.learned = self.learned + self._last

    def settle(self, device: Bench, manifest, outcome: Outcome) -> None:
        """Do as the agent does."""
        row = device.outbox.unsettled()
        device.outbox.settle(row.counter, outcome)
        if outcome is Outcome.COUNTED:
            self.counted += decoded(row.body, manifest)
        elif outcome is Outcome.REFUSED:  # it goes, and all that was kept for later with it
            device.residual.reset()
            self.learned = self.counted.copy()

    def check(self, device: Bench, manifest) -> None:
        rows = [device.outbox.unsettled(), *device.outbox.returned()[0]]
        under_way = sum(decoded(row.body, manifest) for row in rows if row is not None)
        left = device.stored_residual(manifest)
        found = self.counted + under_way + (0.0 if left is None else left.astype(np.float64))
        np.testing.assert_allclose(found, self.learned, rtol=0, atol=1e-5)


def decoded(body: bytes, manifest) -> np.ndarray:
    total = np.zeros(sum(tensor.size for tensor in manifest.tensors))
    codec.decode(body, manifest.tensors, manifest.plan.codec).add_to(total, 1.0)
    return total


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_rule_5_2_the_books_balance_whatever_happens(device, monkeypatch, thorough, mode) -> None:
    """What was learned is what was counted, is under way, was returned or waits: never lost, never twice."""
    draw = random.Random(f"{mode}")
    plan = replace(
        PLAN, epochs=1, codec=Codec(mode=mode, density=0.4), norm_bound=1000.0, max_update_bytes=4096
    )
    manifest = device.publish(V1, plan)
    size = sum(tensor.size for tensor in manifest.tensors)
    books = Books(monkeypatch, size)
    ends = [Outcome.RETURNED, Outcome.COUNTED, Outcome.RETURNED, Outcome.RETURNED, Outcome.COUNTED]
    ends += draw.choices(list(Outcome), [5, 5, 1], k=40) if thorough else [Outcome.REFUSED, Outcome.COUNTED]
    overhead = device.uplink().overhead_bytes(device_update(), 20)
    for number, end in enumerate(ends, 1):
        head = (0.1 * books.counted).astype("<f4").tobytes()
        manifest = device.publish(HeadVersion(1, number), plan, head=head)
        room = 30 if mode is CodecMode.DENSE_INT8 else draw.choice([10, 15, 30])
        device.jobs.new(manifest.head_version, threads=1, max_update_bytes=overhead + room)
        if draw.random() < 0.3:
            assert run(device, Stop(draw.randrange(1, 4))) == TrainerExit.STOPPED
        if draw.random() < 0.5:  # the power goes while it hands over
            work = JobRun(device.arguments(device.jobs.current()), Stop())
            cut_at(work, draw.randrange(2, 10))
            with pytest.raises(Cut):
                work.run()
            work._place.database.close()
            books.check(device, manifest)
        assert run(device) == TrainerExit.DONE
        books.job(device)
        books.check(device, manifest)
        books.settle(device, manifest, end)
        books.check(device, manifest)
    assert books.counted.any()


def test_rule_5_3_a_returned_update_of_another_generation_is_not_given_back(device, caplog) -> None:
    begin(device)
    assert run(device) == TrainerExit.DONE
    body = device.outbox.unsettled().body
    device.outbox.settle(1, Outcome.RETURNED)
    manifest, _ = begin(device, HeadVersion(2, 2))
    fresh = deltas_after(device, manifest)
    assert device.outbox.returned() == ((), ())
    assert "residual reset" in caplog.text
    assert "returned updates dropped" in caplog.text
    assert body
    assert np.linalg.norm(fresh) <= PLAN.norm_bound * (1 + 1e-5)


def deltas_after(device: Bench, manifest) -> np.ndarray:
    assert run(device) == TrainerExit.DONE
    return deltas(device, manifest)


def test_rule_5_4_the_residual_is_used_and_replaced_and_another_models_is_not(device, tmp_path) -> None:
    manifest, _ = begin(device)
    device.database.execute("UPDATE job SET seed = 5")
    clean = copy(device, tmp_path / "clean")
    key = ResidualKey.of(manifest, device.store.epoch)
    left = np.full(sum(tensor.size for tensor in manifest.tensors), 0.01, np.float32)
    device.residual.save(key, left.tobytes())
    np.testing.assert_allclose(
        deltas_after(device, manifest) - deltas_after(clean, manifest), left, atol=1e-5
    )
    clean.close()
    other = copy(device, tmp_path / "other")
    other.outbox.settle(1, Outcome.COUNTED)
    other.residual.save(replace(key, model_hash=b"o" * 32), (left * 100).tobytes())
    again, _ = begin(other, V2)
    assert np.linalg.norm(deltas_after(other, again)) <= PLAN.norm_bound * (1 + 1e-5)
    other.close()


def test_rule_5_4_the_update_is_within_the_bound(device) -> None:
    manifest, _ = begin(device, plan=replace(PLAN, norm_bound=0.05, learning_rate=5.0))
    assert run(device) == TrainerExit.DONE
    body, residual = result(device)
    assert codec.decode(body, manifest.tensors, PLAN.codec).norm() <= 0.05
    assert np.linalg.norm(np.frombuffer(residual, "<f4")) <= 0.05 * (1 + 1e-6)


def test_a_damaged_returned_row_is_dropped_and_not_met_again(device, caplog) -> None:
    begin(device)
    assert run(device) == TrainerExit.DONE
    device.outbox.settle(1, Outcome.RETURNED)
    device.database.execute("UPDATE outbox SET body = CAST('x' AS BLOB)")
    begin(device, V2)
    assert run(device) == TrainerExit.DONE
    assert "row 1 is not what was written" in caplog.text
    assert device.outbox.returned() == ((), ())


def test_a_returned_row_of_another_codec_does_not_end_training(device) -> None:
    begin(device)
    assert run(device) == TrainerExit.DONE
    device.outbox.settle(1, Outcome.RETURNED)
    begin(device, V2, plan=replace(PLAN, codec=Codec(mode=CodecMode.DENSE_INT8)))
    assert run(device) == TrainerExit.DONE


# --- the privacy floor, and what cannot be trained ----------------------------------------------------
def test_rule_8_fewer_than_min_samples_is_no_job(tmp_path) -> None:
    device = bench(tmp_path / "device", count=31)
    begin(device)
    with pytest.raises(PrivacyFloor, match="31 distinct samples"):
        run(device)
    assert device.outbox.unsettled() is None
    assert run(device, min_samples=31) == TrainerExit.DONE
    device.close()


def test_rule_8_the_same_sample_again_and_again_is_one_sample(tmp_path) -> None:
    device = bench(tmp_path / "device", count=31)
    device.store.append_many([[1.0] * FEATURES] * 40, [0] * 40)
    begin(device)
    assert run(device) == TrainerExit.DONE  # 31 and this one make 32
    device.close()
    device = bench(tmp_path / "other", count=0)
    device.store.append_many([[1.0] * FEATURES] * 100, [0] * 100)
    begin(device)
    with pytest.raises(PrivacyFloor, match="1 distinct"):
        run(device)
    device.close()


def test_rule_8_accuracy_is_told_from_100_samples_on_and_only_if_allowed(tmp_path) -> None:
    for count, share, told in ((99, True, False), (100, True, True), (100, False, False)):
        device = bench(tmp_path / f"{count}-{share}", count=count)
        begin(device)
        assert run(device, share_accuracy=share) == TrainerExit.DONE
        accuracy = device.opened(device.outbox.unsettled()).accuracy_percent
        assert (accuracy is not None) == told
        assert accuracy is None or 0 <= accuracy <= 99
        device.close()


def test_rule_8_a_rare_class_is_withheld_from_body_and_residual(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0)
    x, y = samples(60)
    rows = [row for row in range(60) if y[row] != 2 or row < 20]  # 6 of class 2
    device.store.append_many([x[row] for row in rows], [y[row] for row in rows])
    manifest, _ = begin(device, plan=replace(PLAN, codec=Codec(density=1.0)))
    assert run(device) == TrainerExit.DONE
    total = deltas(device, manifest)
    bias, kernel = total[:3], total[3:].reshape(3, FEATURES)
    assert not bias[2]
    assert not kernel[2].any()
    assert bias[:2].all()
    assert device.journal.rounds()[0].report["suppressed_classes"] == [2]
    device.close()


def test_no_sample_that_fits_is_a_data_error(tmp_path) -> None:
    device = bench(tmp_path / "device", count=0)
    device.store.append_many([[1.0]] * 50, [0] * 50)
    begin(device)
    with pytest.raises(DataError):
        run(device)
    device.close()


def test_max_examples_takes_the_newest(device) -> None:
    begin(device, plan=replace(PLAN, max_examples=40))
    assert run(device) == TrainerExit.DONE
    report = device.journal.rounds()[0].report
    assert (report["samples"], report["newest_sample"]) == (40, 60)


def test_damaged_or_missing_inputs_say_which(device) -> None:
    begin(device)
    for path in device.folder.blobs.iterdir():
        path.unlink()
    with pytest.raises(StorageDamaged, match="fetched again"):
        run(device)
    device.database.execute("DELETE FROM manifest")
    with pytest.raises(StorageDamaged, match="manifest"):
        run(device)


def test_a_model_that_is_not_its_manifests_is_refused(device) -> None:
    manifest, _ = begin(device)
    renamed = tuple(replace(tensor, name=tensor.name + "x") for tensor in manifest.tensors)
    device.journal.save_manifest(replace(manifest, tensors=renamed), keep=())
    with pytest.raises(ModelError, match="other tensors"):
        run(device)


def test_rule_4_1_the_envelope_is_stored_with_its_hash(device) -> None:
    begin(device)
    assert run(device) == TrainerExit.DONE
    row = device.outbox.unsettled()
    assert isinstance(row, Row)
    assert device.outbox.hash_of(1) == envelope_hash(row.envelope)
    assert Jobs(device.database).lease() is None


@pytest.mark.parametrize("mode", [CodecMode.FITTED, CodecMode.TOPK_INT8, CodecMode.TOPK_SIGN], ids=str)
def test_a_bound_is_kept_to_the_byte_and_a_resumed_job_keeps_it_too(device, tmp_path, mode) -> None:
    plan = replace(PLAN, codec=Codec(mode=mode, density=1.0), max_update_bytes=256)
    device.publish(V1, plan)
    overhead = device.uplink().overhead_bytes(device_update(), 20)
    device.jobs.new(V1, threads=1, max_update_bytes=overhead + 15)
    device.database.execute("UPDATE job SET seed = 5")  # one of twenty deltas this small goes as signs
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    assert run(device, Stop(5)) == TrainerExit.STOPPED
    assert run(device) == TrainerExit.DONE
    assert result(device) == result(whole)
    row = device.outbox.unsettled()
    assert len(row.body) <= 15
    assert len(row.body) >= 13 or mode is CodecMode.TOPK_SIGN  # the signs of all take 5
    sent = codec.decode(row.body, device.journal.manifest(V1).tensors, plan.codec)
    assert device.opened(row).body == row.body
    assert device.stored_residual(device.journal.manifest(V1)).any()
    assert sent.norm() <= plan.norm_bound
    whole.close()


def device_update() -> Update:
    return Update(counter=1, head_version=V1, bucket=5, accuracy_percent=None, body=b"")


def test_a_bound_that_nothing_fits_is_said_in_a_line(device) -> None:
    device.publish(V1)
    device.jobs.new(V1, threads=1, max_update_bytes=150)
    with pytest.raises(CodecError, match=r"an update's body may have -?\d+ bytes, and takes at least \d+"):
        run(device)
