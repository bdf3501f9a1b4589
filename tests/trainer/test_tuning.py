"""A copy for the app, after the update is handed over (`[adoption] personal`): kept where it is not worse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import load_model, runtime
from fedclient.device.jobs import TrainerExit
from fedclient.device.judgement import Judgements, Told
from fedclient.device.slots import Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import StorageFull
from fedclient.model.head import HeadOptions, write_head
from fedclient.trainer.job import JobRun
from fedclient.training.loop import Examples, HeadTraining
from fedclient.values import HeadVersion, Judgement, Manifest, Verdict
from fedclient.wire.blobs import split
from tests.trainer.setup import CLASSES, FEATURES, PLAN, Bench, bench, copy, result, run, samples, settle

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
MODEL = write_head(FEATURES, CLASSES, 4, options=HeadOptions(personal=True))
STEPS = PLAN.epochs * 4  # 60 samples in batches of 16


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Bench]:
    device = bench(tmp_path / "device", model=MODEL)
    device.store.append_many(*samples(30, seed=3), holdout=True)
    adopt(device, device.publish(V1))
    device.jobs.new(V1, threads=1)
    device.database.execute("UPDATE job SET seed = 7")
    yield device
    device.close()


def adopt(device: Bench, manifest: Manifest, head: bytes | None = None) -> None:
    first = runtime.load(device.model).get_weights().tobytes()
    Slots(device.folder.current).adopt(manifest, device.model, head or first)


def tuned(device: Bench) -> tuple[Tuned, bytes] | None:
    slot = Slots(device.folder.current).active()
    assert slot is not None
    return TunedHead(device.folder.current).read(slot)


def test_it_goes_on_from_the_trained_weights_with_all_tensors(device) -> None:
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    found = tuned(device)
    assert found is not None
    about, head = found
    assert (about.generation, about.version, about.holdout) == (1, 1, 30)
    assert about.samples_epoch == device.store.epoch
    x, y = (np.array(part) for part in samples(60))
    ids = [one - 1 for one in device.store.usable(100)]  # newest first, as the job had them
    examples = Examples(x=x[ids].astype(np.float32), y=y[ids].astype(np.int32))
    work = HeadTraining(model=runtime.load(MODEL), examples=examples, plan=PLAN, seed=7)
    assert work.run(lambda: False, lambda _: None)
    more = HeadTraining(model=work.model, examples=examples, plan=replace(PLAN, epochs=3, mu=0.0), seed=8)
    assert more.run(lambda: False, lambda _: None)
    assert head == more.model.get_weights().tobytes()
    app = load_model(device.folder.path)
    assert app.personal
    assert app.version == V1
    held_x, held_y = (np.array(part) for part in samples(30, seed=3))
    right = np.argmax(app.predict(held_x), axis=1) == held_y
    assert right.mean() == pytest.approx(about.accuracy)
    assert about.accuracy > about.adopted_accuracy


def test_nothing_of_it_is_in_the_update_or_in_what_stays_for_the_next_one(device, tmp_path) -> None:
    without = copy(device, tmp_path / "without")
    assert run(device, finetune_epochs=3) == run(without) == TrainerExit.DONE
    assert tuned(device) is not None
    assert tuned(without) is None
    assert result(device) == result(without)
    without.close()


def test_stopped_at_any_batch_of_it_the_update_stands_and_apps_keep_the_adopted_head(
    device, tmp_path
) -> None:
    before = sorted(path.name for path in device.folder.current.iterdir())
    for after in (STEPS + 1, STEPS + 7, STEPS + 12):  # the last of 3 epochs with 4 batches
        other = copy(device, tmp_path / f"stopped-{after}")
        assert run(other, after, finetune_epochs=3) == TrainerExit.DONE
        assert other.outbox.unsettled() is not None
        assert tuned(other) is None
        assert sorted(path.name for path in other.folder.current.iterdir()) == before
        other.close()


@pytest.mark.parametrize("minimum", [31, 1000])
def test_too_few_held_out_samples_to_tell_make_none(device, caplog, minimum) -> None:
    caplog.set_level("INFO", "fedclient")
    assert run(device, finetune_epochs=3, min_judged=minimum) == TrainerExit.DONE
    assert tuned(device) is None
    assert f"fewer than {minimum} held-out samples" in caplog.text


@pytest.mark.parametrize("made", [False, True], ids=["none before", "one before"])
def test_a_worse_one_is_not_kept(device, caplog, made) -> None:
    """Its user does something else than what was recorded to train on."""
    caplog.set_level("INFO", "fedclient")
    if made:
        assert run(device, finetune_epochs=1) == TrainerExit.DONE
        settle(device)
        device.jobs.new(device.publish(V2).head_version, threads=1)
    before = tuned(device)
    assert (before is not None) == made
    x, y = samples(200, seed=4)
    device.store.append_many(x, [(one + 1) % CLASSES for one in y], holdout=True)
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert "not kept" in caplog.text
    assert tuned(device) == before


def test_a_better_adopted_head_stays(device) -> None:
    manifest = device.publish(V1)
    x, y = (np.array(part) for part in samples(3000, seed=5))
    examples = Examples(x=x.astype(np.float32), y=y.astype(np.int32))
    work = HeadTraining(model=runtime.load(MODEL), examples=examples, plan=PLAN, seed=1)
    assert work.run(lambda: False, lambda _: None)
    adopt(device, manifest, work.model.get_weights().tobytes())
    assert run(device, finetune_epochs=100) == TrainerExit.DONE  # by then 60 samples are known by heart
    assert tuned(device) is None


def test_a_head_of_another_model_has_none_beside_it(device, caplog) -> None:
    caplog.set_level("INFO", "fedclient")
    other = write_head(FEATURES, CLASSES)
    manifest = replace(device.publish(V1), model=split(other).ref)
    Slots(device.folder.current).adopt(manifest, other, bytes(4 * 18))
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert "is of another model" in caplog.text
    assert tuned(device) is None


def test_a_head_with_other_labels_has_none_beside_it(device, caplog) -> None:
    """A gateway that turns the list round, and so keeps its head from being adopted, gains nothing by it."""
    caplog.set_level("INFO", "fedclient")
    adopt(device, replace(device.publish(V1), labels=("a", "b", "c")))
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert "has other labels" in caplog.text
    assert tuned(device) is None


def test_a_purge_that_comes_while_it_is_written_takes_it_along(device, monkeypatch) -> None:
    save = TunedHead.save

    def purged(copies: TunedHead, about: Tuned, head: bytes) -> None:
        device.store.purge()
        copies.remove()
        save(copies, about, head)

    monkeypatch.setattr(TunedHead, "save", purged)
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert tuned(device) is None


def test_before_a_head_is_adopted_there_is_none(device, caplog) -> None:
    for path in device.folder.current.iterdir():
        path.unlink()
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert "no copy tuned: no head is in use" in caplog.text
    assert not list(device.folder.current.iterdir())


def test_a_copy_of_purged_samples_goes_with_the_next_job(device) -> None:
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert tuned(device) is not None
    settle(device)
    device.store.purge()
    device.store.append_many(*samples(60))
    device.jobs.new(device.publish(V2).head_version, threads=1)
    assert run(device, finetune_epochs=3, min_judged=1000) == TrainerExit.DONE
    assert tuned(device) is None


def test_a_copy_that_nobody_wants_any_more_goes_with_the_next_job(device) -> None:
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert tuned(device) is not None
    settle(device)
    device.jobs.new(device.publish(V2).head_version, threads=1)
    assert run(device) == TrainerExit.DONE
    assert tuned(device) is None


@pytest.mark.parametrize("verdict", [Verdict.ADOPTED, Verdict.KEPT_PREVIOUS])
def test_it_is_of_the_head_that_this_very_trainer_judged(device, monkeypatch, verdict) -> None:
    """The agent reads the verdict a moment later; where it is against the head, the one before stays."""
    assert run(device) == TrainerExit.DONE
    settle(device)
    manifest = device.publish(V2)
    device.jobs.new(V2, threads=1)
    told = Told(judgement=Judgement(head_version=V2, verdict=verdict), why="it is good")
    with device.database.transaction():
        Judgements(device.database).save(told)
    looked: list[float] = []

    def agent_looks(pause_s: float) -> None:
        looked.append(pause_s)
        if len(looked) == 3:
            adopt(device, manifest)

    monkeypatch.setattr("fedclient.trainer.tuning.time.sleep", agent_looks)
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    found = tuned(device)
    assert found is not None
    assert len(looked) == (3 if verdict is Verdict.ADOPTED else 0)
    assert found[0].version == (2 if verdict is Verdict.ADOPTED else 1)


def test_it_does_not_wait_for_an_agent_that_wants_it_to_stop(device, monkeypatch) -> None:
    told = Told(judgement=Judgement(head_version=V1, verdict=Verdict.ADOPTED), why="it is good")
    with device.database.transaction():
        Judgements(device.database).save(told)
    for path in device.folder.current.iterdir():
        path.unlink()
    looked: list[float] = []
    monkeypatch.setattr("fedclient.trainer.tuning.time.sleep", looked.append)
    # asked after every batch, and then while it waits
    assert run(device, STEPS + 12 + 2, finetune_epochs=3) == TrainerExit.DONE
    assert len(looked) == 1
    assert not list(device.folder.current.iterdir())


def test_samples_purged_meanwhile_leave_none(device) -> None:
    asked = iter(range(1, 1000))

    def purge_in_the_middle() -> bool:
        if next(asked) == STEPS + 6:
            device.store.purge()
        return False

    job = device.jobs.current()
    assert job is not None
    assert JobRun(device.arguments(job, finetune_epochs=3), purge_in_the_middle).run() == TrainerExit.DONE
    assert tuned(device) is None


def test_a_disk_that_fails_costs_the_copy_alone(device, monkeypatch, caplog) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr("fedclient.device.tuned.write_file", full)
    assert run(device, finetune_epochs=3) == TrainerExit.DONE
    assert device.outbox.unsettled() is not None
    assert "no copy tuned: no room" in caplog.text


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_process_that_is_ended_in_the_middle_has_handed_over(device, how) -> None:
    device.publish(V1, plan=replace(PLAN, batch_size=1))
    job = device.jobs.current()
    assert job is not None
    arguments = device.arguments(job, parent=os.getpid(), finetune_epochs=100)
    command = [sys.executable, "-m", "fedclient.trainer", "job", json.dumps(asdict(arguments))]
    with subprocess.Popen(command) as child:
        until = time.monotonic() + 60
        while device.outbox.unsettled() is None and child.poll() is None:
            assert time.monotonic() < until
        child.send_signal(how)
        code = child.wait(timeout=10)
    assert code == (TrainerExit.DONE if how == signal.SIGTERM else -signal.SIGKILL)
    row = device.outbox.unsettled()
    assert row is not None
    assert device.opened(row).counter == 1
    assert not load_model(device.folder.path).personal
