"""Apps get a head after a verdict: by the next job's trainer, by a child of its own, or without one."""

from __future__ import annotations

import select
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from fedclient import load_model
from fedclient.client.child import Child
from fedclient.client.conditions import FETCH_LOOK_S, KEEPS_FETCHES_BACK
from fedclient.client.timers import Timer
from fedclient.client.work import FIRST_BACKOFF_S
from fedclient.config import AdoptionSettings
from fedclient.device.judgement import Judgements
from fedclient.device.personal import PersonalKey, PersonalLayer
from fedclient.device.slots import Slots
from fedclient.errors import NoModelYet
from fedclient.model.head import HeadOptions, write_head
from fedclient.samples.store import SampleStore
from fedclient.session import MAX_STRIKES
from fedclient.values import HeadVersion, Manifest, MessageType, Phase, ReceiptStatus, Verdict
from tests.client.harness import PLAN, V1, V2, V3, Device, MiniGateway
from tests.trainer.setup import CLASSES, FEATURES, samples
from tests.trainer.test_judge import BROKEN, trained

ADOPTED, KEPT, UNJUDGED = Verdict.ADOPTED, Verdict.KEPT_PREVIOUS, Verdict.UNJUDGED
LONG = replace(PLAN, epochs=100)


@pytest.fixture
def device(device):
    device.config = replace(device.config, adoption=AdoptionSettings())
    return device


@pytest.fixture
def ready(device, gateway) -> Device:
    """A device with samples, which uses a good head, and whose owner has paused training."""
    device.join(gateway)
    device.agent.work.conditions.pause("owner", 0, device.now_s)
    gateway.publish(V1, weights=trained())
    device.turn()
    device.samples(60)
    assert in_use(device) == V1
    device.judges = Child
    return device


def in_use(device: Device) -> HeadVersion | None:
    slot = Slots(device.folder.current).active()
    return None if slot is None else slot.version


def broken(how: str = "random") -> bytes:
    return BROKEN[how](np.frombuffer(trained(), "<f4")).astype("<f4").tobytes()


def last(device: Device) -> tuple[HeadVersion, Verdict]:
    told = Judgements(device.agent._database).load()
    return told.judgement.head_version, told.judgement.verdict


def told_to_the_gateway(device: Device, gateway: MiniGateway) -> list[tuple[HeadVersion, Verdict]]:
    device.turn()
    sender = (device.id, device.key.public)
    statuses = [gateway.uplink.open_status(one, sender) for one in gateway.envelopes(MessageType.STATUS)]
    heard = [one.judgement for one in statuses if one.judgement is not None]
    return [(one.head_version, one.verdict) for one in heard]


def publish_broken(device: Device, gateway: MiniGateway, version: HeadVersion, how: str) -> None:
    manifest = gateway.publish(version, weights=broken(how))
    if how == "nan":  # no encoding has it
        device.hand_over(manifest.head, broken(how))


# --- who judges -------------------------------------------------------------------------------------------
def test_without_samples_a_head_is_adopted_at_once_and_no_child_starts(device, gateway) -> None:
    agent = device.join(gateway)
    gateway.publish(V1)
    device.turn()
    assert agent.work.child is None
    assert (in_use(device), last(device)) == (V1, (V1, UNJUDGED))
    assert load_model(device.folder.path).version == V1
    assert not agent._timers.is_set(Timer.ADOPT), "nothing to judge, nothing to look at"


def test_a_head_that_no_app_could_use_is_not_adopted_without_samples_either(device, gateway, caplog) -> None:
    agent = device.join(gateway)
    publish_broken(device, gateway, V1, "nan")
    device.turn()
    assert (agent.state.current, last(device)) == (V1, (V1, KEPT))
    with pytest.raises(NoModelYet):
        load_model(device.folder.path)
    assert "head 1.1 is not adopted, apps go on with no head: the head holds NaN or infinity" in caplog.text


def test_the_trainer_of_the_next_job_judges_first_and_is_heard_before_it_ends(device, gateway) -> None:
    device.samples(3000)  # it trains for long after it has judged
    agent = device.join(gateway)
    gateway.publish(V1, LONG, weights=trained())
    device.turn()
    child = agent.work.child
    assert not child.only_judges
    assert (agent.state.job, agent.state.judging, in_use(device)) == (V1, V1, None)
    until = time.monotonic() + 60
    while in_use(device) is None and time.monotonic() < until:
        select.select([child.gone_descriptor], [], [], 0.02)
        device.turn(1.0)
    assert (in_use(device), last(device)) == (V1, (V1, ADOPTED))
    assert agent.work.child is child, "it trains on"
    child.kill()
    device.trainer_ends()
    assert (agent.state.failures, agent.state.strikes, agent.state.adopted) == (1, 0, V1)


def test_a_child_of_its_own_judges_while_there_is_nothing_to_train(ready, gateway) -> None:
    agent = ready.agent
    gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    assert agent.work.child.only_judges
    assert (agent.state.judging, agent.state.phase) == (V2, Phase.WAITING)
    ready.trainer_ends()
    assert (in_use(ready), agent.state.adopted) == (V2, V2)
    assert last(ready) == (V2, ADOPTED)
    before = agent._timers._due_s.get(Timer.ADOPT)
    ready.turn(5000.0)
    assert before is None
    assert agent.work.child is None


# --- what follows -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["random", "nan"])
def test_a_broken_head_never_reaches_apps_and_training_goes_on_from_it(ready, gateway, how, caplog) -> None:
    publish_broken(ready, gateway, V2, how)
    ready.turn()
    ready.trainer_ends()
    agent = ready.agent
    assert (agent.state.current, agent.state.judged, agent.state.adopted) == (V2, V2, V1)
    assert load_model(ready.folder.path).version == V1
    assert "head 1.2 is not adopted, apps go on with 1.1" in caplog.text
    assert told_to_the_gateway(ready, gateway)[-1] == (V2, KEPT), "at once, and not with the next status"
    gateway.publish(V3, weights=trained(epochs=8))
    ready.turn()
    ready.trainer_ends()
    assert (in_use(ready), last(ready)) == (V3, (V3, ADOPTED))
    ready.stop()
    ready.start()
    assert in_use(ready) == V3


def test_a_list_of_other_labels_is_no_way_around_the_judge(ready, gateway) -> None:
    with SampleStore(ready.folder.samples) as store:
        store.purge()
        store.append_many(samples(60)[0], ["abc"[label] for label in samples(60)[1]])
    for version, labels in ((V2, tuple("abc")), (V3, tuple("xyz"))):
        gateway.publish(version, weights=trained() if version == V2 else broken(), labels=labels)
        ready.turn()
        ready.trainer_ends()
    assert (in_use(ready), last(ready)) == (V2, (V3, KEPT))


def test_training_goes_on_from_a_head_that_is_not_adopted(device, gateway) -> None:
    agent = device.join(gateway)
    gateway.publish(V1, weights=trained())
    device.turn()
    device.samples(60)
    gateway.publish(V2, weights=broken())
    device.turn()
    device.trainer_ends()
    assert (in_use(device), last(device)) == (V1, (V2, KEPT))
    (envelope,) = gateway.envelopes()
    assert gateway.open(device, envelope).head_version == V2
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    device.turn()
    assert agent.state.phase is Phase.IDLE


def test_a_rollback_is_a_new_version_and_is_judged_like_any(ready, gateway) -> None:
    for version, weights, verdict in ((V2, trained(epochs=8), ADOPTED), (V3, trained(), ADOPTED)):
        gateway.publish(version, weights=weights)
        ready.turn()
        ready.trainer_ends()
        assert (in_use(ready), last(ready)) == (version, (version, verdict))


# --- conditions -------------------------------------------------------------------------------------------
def test_only_what_protects_the_machine_keeps_a_judge_back(ready, gateway) -> None:
    agent, conditions = ready.agent, ready.agent.work.conditions
    good = conditions.policy
    conditions.policy = replace(good, min_free_disk_mib=2.0**40, networks=("none",), poll_s=60.0)
    agent.heads.admit = lambda _: None
    conditions.held_back = lambda doing, now_s, gates=KEEPS_FETCHES_BACK: (
        "" if gates is KEEPS_FETCHES_BACK else type(conditions).held_back(conditions, doing, now_s, gates)
    )
    manifest = gateway.publish(V2, weights=trained(epochs=8))
    ready.hand_over(manifest.head, gateway.canonical[V2].tobytes())
    ready.turn(FETCH_LOOK_S + 1.0)  # what was found when the first head came does not hold any more
    assert (agent.state.current, agent.work.child) == (V2, None)
    assert agent.deadline_s() > ready.now_s + 1.0, "not asked again before poll_s"
    ready.turn(59.0)
    assert agent.work.child is None
    conditions.policy = replace(good, networks=("none",))
    ready.turn(62.0)
    assert agent.work.child.only_judges
    ready.trainer_ends()
    assert in_use(ready) == V2


def test_a_judge_ends_when_the_machine_must_be_protected_and_that_is_no_strike(ready, gateway) -> None:
    agent, conditions = ready.agent, ready.agent.work.conditions
    good = conditions.policy
    gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    child = agent.work.child
    child._process.send_signal(signal.SIGSTOP)  # it takes as long as the test wants
    conditions.policy = replace(good, min_free_disk_mib=2.0**40)
    ready.turn(2.0)
    assert child.asked
    child._process.send_signal(signal.SIGCONT)
    ready.trainer_ends()
    if agent.state.judged != V2:  # unless it was done by then
        assert (agent.state.judging, agent.state.strikes, in_use(ready)) == (None, 0, V1)
    conditions.policy = good
    ready.turn(good.poll_s + 2.0)
    if agent.work.child is not None:
        ready.trainer_ends()
    assert in_use(ready) == V2


def test_a_head_that_arrives_while_a_job_runs_is_judged_when_that_has_ended(device, gateway) -> None:
    agent = device.join(gateway)
    gateway.publish(V1, replace(LONG, max_staleness=1), weights=trained())
    device.turn()
    device.samples(60)
    device.turn(2.0)
    child, device.judges = agent.work.child, Child
    assert not child.only_judges
    child._process.send_signal(signal.SIGSTOP)  # it takes as long as the test wants
    gateway.publish(V2, replace(PLAN, max_staleness=1), weights=broken())
    device.turn(2.0)
    assert (agent.state.current, agent.work.child, in_use(device)) == (V2, child, V1)
    child.kill()
    device.trainer_ends()
    assert agent.work.child.only_judges
    device.trainer_ends()
    assert (in_use(device), last(device)) == (V1, (V2, KEPT))


# --- children that fail, and power cuts -------------------------------------------------------------------
def test_a_head_that_no_judge_comes_to_a_verdict_on_is_not_adopted(ready, gateway, caplog) -> None:
    agent = ready.agent
    gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    ready.head_is_made()  # else it is the head that is at fault: tests/client/test_put_together.py
    for strike in range(1, MAX_STRIKES):
        agent.work.child.kill()
        ready.trainer_ends()
        assert (agent.state.strikes, agent.state.judged) == (strike, V1)
        assert agent.work.child is None, "tried again at once"
        ready.turn(FIRST_BACKOFF_S * 2 ** (strike - 1) + 1.0)
        assert agent.work.child.only_judges
    agent.work.child.kill()
    ready.trainer_ends()
    assert (agent.state.judged, agent.state.adopted, in_use(ready)) == (V2, V1, V1)
    assert "head 1.2 is not adopted, apps go on with 1.1: no judge came to a verdict on it" in caplog.text
    assert told_to_the_gateway(ready, gateway)[-1] == (V2, KEPT)
    ready.turn(5000.0)
    assert agent.work.child is None
    ready.stop()
    agent = ready.start()
    ready.turn()
    assert (agent.work.child, in_use(ready)) == (None, V1)


def test_a_judge_that_hangs_is_ended_at_its_time(ready, gateway) -> None:
    ready.stop()
    ready.config = replace(ready.config, trainer=replace(ready.config.trainer, timeout_s=10.0))
    agent = ready.start()
    ready.turn()
    gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    ready.head_is_made()
    agent.work.child._process.send_signal(signal.SIGSTOP)
    assert agent.deadline_s() <= ready.now_s + 10.0
    ready.now_s += 10.0
    agent.service((), ready.now_s)
    ready.trainer_ends()
    assert (agent.state.strikes, in_use(ready)) == (1, V1)


def test_a_trainer_that_fails_before_its_verdict_does_not_judge_again(device, gateway) -> None:
    device.samples(60)
    agent = device.join(gateway)
    gateway.publish(V1, weights=trained())
    device.turn()
    assert agent.state.judging == agent.state.job == V1
    device.head_is_made()
    agent.work.child.kill()
    device.trainer_ends()
    if agent.state.judged == V1:
        return  # it was quicker than the kill
    device.judges = Child
    assert (agent.state.failures, agent.state.strikes) == (1, 1)
    device.turn(FIRST_BACKOFF_S + 1.0)
    assert agent.work.child.only_judges
    device.trainer_ends()
    assert in_use(device) == V1
    device.turn(FIRST_BACKOFF_S + 1.0)
    assert agent.state.running, "and then it trains"
    assert agent.state.judging is None


@pytest.mark.parametrize("committed", [True, False])
def test_after_a_power_cut_the_verdict_is_there_or_it_is_judged_again(ready, gateway, committed) -> None:
    """The agent never hears of its child's end: it is gone with it, before or after the one transaction."""
    gateway.publish(V2, weights=broken())
    ready.turn()
    child = ready.agent.work.child
    if not committed:
        child._process.kill()
    child._process.wait(60)
    ready.agent.work.child = None
    ready.stop()
    agent = ready.start()
    if committed:
        assert (agent.state.judged, agent.state.judging) == (V2, None)
    else:
        assert (agent.state.judged, agent.state.to_judge) == (V1, V2)
        ready.turn(2.0)
        ready.trainer_ends()
    assert (last(ready), in_use(ready), agent.state.adopted) == ((V2, KEPT), V1, V1)


def test_a_head_that_is_lost_before_its_verdict_is_fetched_and_judged(ready, gateway) -> None:
    agent = ready.agent
    manifest = gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    child = agent.work.child
    child.kill()
    (ready.folder.blobs / manifest.head.hash[:16].hex()).write_bytes(bytes(manifest.head.size))
    ready.trainer_ends()
    ready.turn(FIRST_BACKOFF_S + 1.0)
    ready.trainer_ends()  # it finds the damage, and the head is fetched again
    assert agent.state.current == V2
    for _ in range(3):
        ready.turn(2 * FIRST_BACKOFF_S + 1.0)
        if agent.work.child is not None:
            ready.trainer_ends()
    assert (in_use(ready), last(ready)) == (V2, (V2, ADOPTED))


def test_what_is_adopted_is_put_back_at_the_start_where_it_is_damaged(ready, gateway) -> None:
    gateway.publish(V2, weights=broken())
    ready.turn()
    ready.trainer_ends()
    ready.stop()
    for path in ready.folder.current.glob("*.head"):
        path.unlink()
    ready.start()
    assert load_model(ready.folder.path).version == V1


def test_a_power_cut_before_apps_went_back_is_made_up_for(ready, gateway, caplog) -> None:
    gateway.publish(V2, weights=trained(epochs=8))
    ready.turn()
    ready.trainer_ends()
    assert in_use(ready) == V2
    database, state = ready.agent._database, ready.agent.state
    with database.transaction():  # what is committed when its trainer says that this runtime cannot
        ready.agent._ledger.journal.save_state(replace(state, unfit=V2, adopted=None, done=V2))
    ready.stop()
    for said in (1, 1):
        ready.start()
        assert in_use(ready) == V1
        assert caplog.text.count("head 1.2 cannot be trained here; apps use 1.1") == said
        ready.stop()


def test_a_purge_while_a_head_is_adopted_takes_the_layer_along(device, gateway, monkeypatch) -> None:
    agent = device.join(gateway)
    gateway.model = write_head(FEATURES, CLASSES, options=HeadOptions(personal=True))
    manifest = gateway.publish(V1)
    mark = np.full(sum(one.size for one in manifest.tensors if one.is_personal), 7, "<f4").tobytes()
    adopt, seen = Slots.adopt, []
    with SampleStore(device.folder.samples) as store, agent._database.transaction():
        PersonalLayer(agent._database).save(PersonalKey.of(manifest, store.epoch), mark)

    def purged(slots: Slots, manifest: Manifest, model: bytes, head: bytes) -> None:
        with SampleStore(device.folder.samples) as store:
            store.purge()
        seen.append(mark[:12] in head)
        adopt(slots, manifest, model, head)

    monkeypatch.setattr(Slots, "adopt", purged)
    device.turn()
    assert seen == [True, False]
    assert in_use(device) == V1
    assert mark[:12] not in Slots(device.folder.current).read()[2]
