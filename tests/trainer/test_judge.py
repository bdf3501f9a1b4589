"""A verdict on this device's own samples: what it is compared with; it is there whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from fedclient import runtime
from fedclient.device.jobs import TrainerExit
from fedclient.device.judgement import JudgeArguments, Judgements
from fedclient.device.personal import PersonalKey, PersonalLayer
from fedclient.device.slots import Slots
from fedclient.errors import StorageDamaged
from fedclient.model.head import HeadOptions, write_head
from fedclient.samples.store import SampleStore
from fedclient.trainer import judge as module
from fedclient.trainer.judge import Court, Terms
from fedclient.training.loop import Examples, HeadTraining
from fedclient.values import HeadVersion, Manifest, Verdict
from tests.runtime.models import Foreign, build
from tests.trainer.setup import CLASSES, FEATURES, PLAN, Bench, bench, samples

V1, V2, V3 = HeadVersion(1, 1), HeadVersion(1, 2), HeadVersion(1, 3)
ADOPTED, KEPT, UNJUDGED = Verdict.ADOPTED, Verdict.KEPT_PREVIOUS, Verdict.UNJUDGED
TERMS = Terms(margin=0.05, min_judged=20)


def trained(epochs: int = 6, seed: int = 0) -> bytes:
    """A head that knows its classes."""
    model = runtime.load(write_head(FEATURES, CLASSES))
    x, y = samples(200, seed=9)
    examples = Examples(x=np.array(x, np.float32), y=np.array(y, np.int32))
    HeadTraining(model=model, examples=examples, plan=replace(PLAN, epochs=epochs), seed=seed).run(
        lambda: False, lambda _: None
    )
    return model.get_weights().tobytes()


def court(device: Bench, **terms: object) -> Court:
    return Court(device.folder, device.database, replace(TERMS, **terms), lambda: False)


def use(device: Bench, head: bytes, version: HeadVersion = V1) -> None:
    """Give apps a head."""
    manifest = device.publish(version, head=head)
    Slots(device.folder.current).adopt(manifest, device.model, head)


def report(device: Bench) -> dict[str, object]:
    told = Judgements(device.database).load()
    assert told is not None
    return {**told.report, "why": told.why, "head": told.judgement.head_version}


def test_a_better_head_is_adopted_and_the_figures_are_kept(device) -> None:
    use(device, trained(epochs=1))
    device.publish(V2, head=trained(epochs=8))
    assert court(device).judge(V2) is ADOPTED
    found = report(device)
    assert (found["head"], found["against"], found["rows"], found["held_out"]) == (V2, "1.1", 60, 0)
    assert found["accuracy"] >= found["its_accuracy"] - 0.05
    assert found["loss"] <= found["its_loss"]


BROKEN = {
    "nan": lambda head: np.full_like(head, np.nan),
    "infinite": lambda head: np.where(np.arange(len(head)) == 3, np.inf, head),
    "random": lambda head: np.random.default_rng(1).normal(size=len(head)) * 3,
    "permuted": lambda head: np.concatenate(
        [np.roll(head[:3], 1), np.roll(head[3:].reshape(3, -1), 1, 0).ravel()]
    ),
    "nothing": lambda head: head * 0,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_head_is_not_adopted(device, how) -> None:
    good = trained()
    use(device, good)
    bad = BROKEN[how](np.frombuffer(good, "<f4"))
    device.publish(V2, head=bad.astype("<f4").tobytes())
    assert court(device).judge(V2) is KEPT
    assert report(device)["why"]


def test_the_first_head_is_compared_with_one_that_knows_nothing(device) -> None:
    device.publish(V1)  # untrained
    assert court(device).judge(V1) is ADOPTED
    assert "no head to compare with" in report(device)["why"]
    device.publish(V2, head=(-np.frombuffer(trained(), "<f4")).tobytes())
    assert court(device).judge(V2) is KEPT
    assert "hardly better than knowing nothing" in report(device)["why"]


def test_with_too_few_samples_that_fit_there_is_no_telling(device) -> None:
    device.store.purge()
    device.store.append_many(*samples(19))
    device.store.append([1.0] * (FEATURES + 1), 1)  # another shape
    device.publish(V1)
    assert court(device).judge(V1) is UNJUDGED
    assert report(device)["why"].startswith("19 labelled samples fit the model, 20 are needed")


def test_what_no_app_can_load_is_not_adopted_where_there_is_no_telling_either(device) -> None:
    device.store.purge()
    device.store.append_many([[1.0] * (FEATURES + 1)] * 30, [1] * 30)  # labelled, and of another shape
    device.publish(V2, head=np.full((FEATURES + 1) * CLASSES, np.nan, "<f4").tobytes())
    assert court(device).judge(V2) is KEPT
    assert "not finite" in report(device)["why"]


def test_no_sample_fits_or_none_is_there(device) -> None:
    device.store.purge()
    device.publish(V1)
    assert court(device).judge(V1) is UNJUDGED
    device.store.append([1.0] * (FEATURES + 1), 1)
    assert court(device).judge(V1) is UNJUDGED


def test_the_hold_out_alone_is_judged_on_where_it_is_large_enough(device) -> None:
    use(device, trained())
    device.publish(V2, head=trained())
    with SampleStore(device.folder.samples, holdout=0.3) as store:
        store.append_many(*samples(440, seed=3))
    assert court(device).judge(V2) is ADOPTED
    assert report(device)["rows"] == report(device)["held_out"] >= 100
    assert court(device, margin=0.03).judge(V2) is ADOPTED  # a finer one takes more rows to tell
    assert report(device)["rows"] == 278 > report(device)["held_out"]


def test_a_hold_out_that_does_not_fit_the_model_leaves_the_other_samples(device) -> None:
    device.store.append_many([[1.0]] * 120, [1] * 120, holdout=True)
    use(device, trained())
    device.publish(V2, head=np.random.default_rng(0).normal(size=18).astype("<f4").tobytes())
    assert court(device).judge(V2) is KEPT
    assert (report(device)["rows"], report(device)["held_out"]) == (60, 0)


def test_the_personal_layer_of_the_device_is_judged_with_the_head(tmp_path, device) -> None:
    device.model = write_head(FEATURES, CLASSES, options=HeadOptions(personal=True))
    manifest = device.publish(V1)
    assert court(device).judge(V1) is ADOPTED
    size = sum(tensor.size for tensor in manifest.tensors if tensor.is_personal)
    harmful = np.random.default_rng(0).normal(size=size).astype("<f4") * 9
    with device.database.transaction():
        PersonalLayer(device.database).save(PersonalKey.of(manifest, device.store.epoch), harmful.tobytes())
    assert court(device).judge(V1) is KEPT


def test_a_head_of_another_model_is_compared_on_the_samples_that_both_take(device) -> None:
    use(device, trained())
    device.model = write_head(FEATURES, CLASSES, hidden=4, seed=2)
    device.publish(V2)
    assert court(device).judge(V2) is KEPT  # its hidden layer is drawn, and it knows nothing yet
    assert report(device)["against"] == "1.1"
    device.model = write_head(FEATURES + 1, CLASSES)
    device.store.append_many([[*row, 0.0] for row in samples(30, seed=4)[0]], samples(30, seed=4)[1])
    device.publish(V3)
    assert court(device).judge(V3) is ADOPTED  # nothing that the one in use could be asked about
    assert "against" not in report(device)


NAMES = ("sit", "walk", "run")


def named(device: Bench, version: HeadVersion, labels: tuple[str, ...], head: bytes) -> Manifest:
    """Publish a head with a list of labels."""
    manifest = replace(device.publish(version, head=head), labels=labels)
    device.journal.save_manifest(manifest, keep=(V1, V2))
    return manifest


def with_words(device: Bench, names: tuple[str, ...] = NAMES, count: int = 60) -> None:
    x, y = samples(count, seed=len(names[0]))
    device.store.append_many(x, [names[label] for label in y])


def use_named(device: Bench, labels: tuple[str, ...] = NAMES) -> None:
    device.store.purge()
    with_words(device, labels)
    head = trained()
    Slots(device.folder.current).adopt(named(device, V1, labels, head), device.model, head)


ALWAYS_THE_FIRST = np.array([30, *[0] * 17], "<f4").tobytes()


@pytest.mark.parametrize("labels", [("sit", "b", "c"), ("sit",), ("a", "b", "c")])
def test_a_list_of_other_labels_does_not_make_a_head_good(device, labels) -> None:
    use_named(device)
    for head in (ALWAYS_THE_FIRST, BROKEN["random"](np.frombuffer(trained(), "<f4")).astype("<f4").tobytes()):
        named(device, V2, labels, head)
        assert court(device).judge(V2) is KEPT
    device.model = write_head(FEATURES, CLASSES, hidden=4)  # of another model, too
    named(device, V3, labels, np.zeros(39, "<f4").tobytes())
    assert court(device).judge(V3) is KEPT


def test_numbers_that_a_list_has_no_name_for_are_lost_too(device) -> None:
    use(device, trained())
    named(device, V2, ("the first",), ALWAYS_THE_FIRST)
    assert court(device).judge(V2) is KEPT
    assert "it has no class for 40 of 60 samples" in report(device)["why"]
    named(device, V2, ("the first", "the second", "the third"), trained())
    assert court(device).judge(V2) is ADOPTED


def test_labels_in_another_order_and_more_of_them_are_no_loss(device) -> None:
    use_named(device)
    rows = np.frombuffer(trained(), "<f4")
    turned = np.concatenate([rows[:3][::-1], rows[3:].reshape(3, -1)[::-1].ravel()])
    named(device, V2, NAMES[::-1], turned.tobytes())
    assert court(device).judge(V2) is ADOPTED
    assert report(device)["against"] == "1.1"
    named(device, V2, NAMES, turned.tobytes())
    assert court(device).judge(V2) is KEPT


def test_new_labels_win_when_most_samples_have_them(device) -> None:
    use_named(device, ("old", "older", "oldest"))
    with_words(device, NAMES, 30)
    named(device, V2, NAMES, trained())
    assert court(device).judge(V2) is KEPT
    assert "it has no class for 60 of 90 samples that the head in use has one for" in report(device)["why"]
    with_words(device, NAMES, 60)
    assert court(device).judge(V2) is ADOPTED


def test_a_model_that_takes_none_of_the_samples_does_not_replace_one_that_does(device) -> None:
    use(device, trained())
    device.model = write_head(FEATURES + 1, CLASSES)
    device.publish(V2)
    assert court(device).judge(V2) is KEPT
    assert "0 labelled samples fit the model, 20 are needed to judge; 60 fit" in report(device)["why"]


@pytest.mark.parametrize("what", [".head", ".tflite", "current.json"])
def test_a_head_in_use_that_is_damaged_is_not_compared_with(device, what, caplog) -> None:
    use(device, trained())
    for path in device.folder.current.iterdir():
        if path.name.endswith(what):
            path.write_bytes(b"damaged")
    device.publish(V2)
    assert court(device).judge(V2) is ADOPTED
    assert "cannot be compared with" in caplog.text


def test_a_head_that_is_gone_is_said_to_be(device) -> None:
    with pytest.raises(StorageDamaged, match="manifest"):
        court(device).judge(V1)
    manifest = device.publish(V1)
    (device.folder.blobs / manifest.head.hash[:16].hex()).unlink()
    with pytest.raises(StorageDamaged):
        court(device).judge(V1)
    assert Judgements(device.database).load() is None


# --- as a process -----------------------------------------------------------------------------------------
def arguments(device: Bench, version: HeadVersion = V2, **changed: object) -> JudgeArguments:
    values = {
        "parent": os.getpid(), "state": str(device.folder.path), "margin": 0.05, "min_judged": 20,
        "head": (version.generation, version.version), "threads": 1, "nice": 0, "idle": False,
        "memory_mib": None, "feature_batch": None, "verbose": False,
    }  # fmt: skip
    return JudgeArguments(**(values | changed))


def start(device: Bench, **changed: object) -> subprocess.Popen[bytes]:
    words = ["-m", "fedclient.trainer", "judge", json.dumps(asdict(arguments(device, **changed)))]
    return subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE)


def test_a_judge_that_is_asked_to_stop_says_nothing(tmp_path) -> None:
    device = bench(tmp_path / "pictures", count=0, model=build(Foreign(features="dynamic")))
    device.publish(V2)
    model = runtime.load(device.model)
    device.store.append(np.zeros(model.sample_shape, model.sample_dtype), 0)
    assert module.run(arguments(device, min_judged=1), lambda: True) is TrainerExit.STOPPED
    assert Judgements(device.database).load() is None
    assert module.run(arguments(device, min_judged=1), lambda: False) is TrainerExit.DONE
    assert Judgements(device.database).load() is not None
    device.close()


def test_a_judge_that_is_killed_at_any_point_leaves_a_whole_verdict_or_none(device, thorough) -> None:
    use(device, trained())
    device.publish(V2, head=trained())
    began = time.monotonic()
    whole = start(device)
    assert whole.wait(60) == 0, whole.stderr.read()
    took_s = time.monotonic() - began
    for part in np.linspace(0.3, 1.0, 40 if thorough else 3):
        device.database.execute("DELETE FROM judgement")
        child = start(device)
        time.sleep(took_s * part)
        child.send_signal(signal.SIGKILL)
        code = child.wait(60)
        told = Judgements(device.database).load()
        assert code in {0, -signal.SIGKILL}
        assert told is not None or code != 0
        assert told is None or told.judgement.verdict is ADOPTED
    again = start(device)
    assert again.wait(60) == 0, again.stderr.read()
    assert report(device)["head"] == V2


def test_it_ends_with_its_agent_and_on_damage_says_so(device) -> None:
    device.publish(V2)
    orphan = start(device, parent=1)  # another process is its parent by now
    assert orphan.wait(60) == os.EX_TEMPFAIL
    device.journal._database.execute("DELETE FROM manifest")
    lost = start(device)
    assert lost.wait(60) == TrainerExit.LOST
    assert b"the manifest of head 1.2 is gone" in lost.stderr.read()
