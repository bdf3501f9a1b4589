"""Who reads a head first puts it together: one child for a round, and the same bytes whatever happens."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.client.child import Arguments, Child
from fedclient.client.conditions import KEEPS_FETCHES_BACK, KEEPS_JUDGES_BACK
from fedclient.client.heads import MAX_CRASHES, PAUSES_S
from fedclient.client.work import FIRST_BACKOFF_S
from fedclient.config import AdoptionSettings
from fedclient.device.blobs import Blobs
from fedclient.device.jobs import JobArguments, Lease, TrainerExit
from fedclient.device.judgement import JudgeArguments
from fedclient.device.slots import Slots
from fedclient.limits import MAX_DELTAS
from fedclient.samples.store import SampleStore
from fedclient.session import MAX_STRIKES
from fedclient.values import BlobRef, HeadVersion, Manifest, Phase, ReceiptStatus
from fedclient.wire.blobs import split
from fedclient.wire.fields import DELTA_HASH_BYTES
from fedclient.wire.topics import blob_name
from tests.client.harness import PLAN, V1, V2, V3, Device, Here, MiniGateway, large, weights
from tests.client.test_deltas import counted, has, poison, publish, take

PAUSE_S = PAUSES_S[0] + 1.0


@pytest.fixture
def gateway(broker) -> MiniGateway:
    return large(broker)


@pytest.fixture
def joined(device, gateway) -> Device:
    """A device without samples, with the first head."""
    device.join(gateway)
    take(device, gateway, V1)
    return device


def samples(device: Device, seed: int = 3) -> None:
    x = np.random.default_rng(seed).normal(size=(60, 63)).astype(np.float32)
    with SampleStore(device.folder.samples) as store:
        store.append_many(x, [row % 4 for row in range(len(x))])


def children(device: Device) -> list[type]:
    """Note the children that are started from now on, by their arguments."""
    started, begin = [], device.agent.work.begin

    def noted(arguments: Arguments, timeout_at_s: float) -> Child:
        started.append(type(arguments))
        return begin(arguments, timeout_at_s)

    device.agent.work.begin = noted
    return started


# --- one child --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("min_samples", [20, 10**6])
def test_a_round_starts_one_child(device, gateway, min_samples) -> None:
    """It puts the head together, judges it where there are enough samples for that, and trains."""
    device.config = replace(device.config, adoption=AdoptionSettings(min_samples=min_samples))
    device.join(gateway)
    for round_, version in enumerate((V1, V2), 1):
        samples(device, seed=round_)
        started = children(device)
        manifest = publish(gateway, version)
        device.turn()
        device.trainer_ends()
        assert started == [JobArguments]
        assert device.agent.state.judged == version
        assert Blobs(device.folder.blobs).read(manifest.head) == weights(version.version)
        envelope = gateway.envelopes()[-1]
        assert gateway.open(device, envelope).head_version == version
        gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
        device.turn()
        assert device.agent.state.phase is Phase.IDLE
        assert len(gateway.envelopes()) == round_


def test_where_nobody_trains_one_child_for_each_head_is_enough_too(joined, gateway) -> None:
    started = children(joined)
    take(joined, gateway, V2)
    assert started == [JudgeArguments]


def test_apps_get_a_head_when_it_is_put_together_and_not_before(joined, gateway) -> None:
    joined.judges = Child
    manifest = publish(gateway, V2)
    joined.turn()
    child, slots = joined.agent.work.child, Slots(joined.folder.current)
    os.kill(child.pid, signal.SIGSTOP)
    assert (joined.agent.state.current, joined.agent.state.judging) == (V2, V2)
    assert not Blobs(joined.folder.blobs).has(manifest.head)
    joined.turn(1.0)
    assert (slots.active().version, slots.read()[2]) == (V1, weights(1))
    os.kill(child.pid, signal.SIGCONT)
    joined.trainer_ends()
    assert (slots.active().version, slots.read()[2]) == (V2, weights(2))


def test_heads_that_a_hot_board_lets_nobody_read_cost_a_delta_each_and_one_child(joined, gateway) -> None:
    conditions, good = joined.agent.work.conditions, joined.agent.work.conditions.held_back
    closed = {KEEPS_FETCHES_BACK: "", KEEPS_JUDGES_BACK: "too hot"}
    conditions.held_back = lambda _doing, _now_s, gates=KEEPS_FETCHES_BACK: closed[gates]
    started, before = children(joined), counted(joined)[0]
    last = [publish_and_turn(joined, gateway, number) for number in range(2, 2 + MAX_DELTAS)][-1]
    assert (started, joined.agent.state.current, joined.agent.state.adopted) == ([], last.head_version, V1)
    assert counted(joined)[0] - before == sum(one.size for one in last.deltas)
    beyond = publish_and_turn(joined, gateway, 2 + MAX_DELTAS)
    assert counted(joined)[0] - before == sum(one.size for one in last.deltas) + beyond.full.size
    assert started == []
    conditions.held_back = good
    joined.turn(conditions.policy.poll_s + 1.0)
    assert has(joined, beyond)
    assert started == [JudgeArguments]
    take(joined, gateway, HeadVersion(1, 3 + MAX_DELTAS))


def publish_and_turn(device: Device, gateway: MiniGateway, number: int) -> Manifest:
    manifest = publish(gateway, HeadVersion(1, number))
    device.turn()
    return manifest


def test_a_newer_head_that_comes_meanwhile_begins_from_what_is_there(busy, gateway) -> None:
    child, before = busy.agent.work.child, counted(busy)[0]
    newer = publish(gateway, V3)
    busy.turn()
    assert (busy.agent.work.child, busy.agent.state.current) == (child, V3)
    assert counted(busy)[0] - before == newer.deltas[0].size
    os.kill(child.pid, signal.SIGCONT)
    busy.trainer_ends()
    busy.turn(1.0)
    busy.trainer_ends()
    assert has(busy, newer)


def test_a_trainer_on_the_head_before_goes_on_and_keeps_what_the_next_one_begins_from(
    device, gateway
) -> None:
    samples(device)
    agent, plan = device.join(gateway), replace(PLAN, max_staleness=1)
    gateway.publish(V1, plan, weights=weights(1))
    device.turn()
    trainer = agent.work.child
    os.kill(trainer.pid, signal.SIGSTOP)
    manifest = gateway.publish(V2, plan, weights=weights(2))
    device.turn()
    assert (agent.work.child, agent.state.job, agent.state.current) == (trainer, V1, V2)
    os.kill(trainer.pid, signal.SIGCONT)
    device.trainer_ends()
    assert len(gateway.envelopes()) == 1
    device.turn(1.0)
    assert has(device, manifest)


# --- a way that leads nowhere -----------------------------------------------------------------------------
def astray(gateway: MiniGateway, *, both: bool = False) -> Manifest:
    """Publish head 2 with a delta that is well-formed, and leads to another one; a whole one too."""
    good = gateway.make(V2, weights=weights(2))
    gateway.publish_blobs(V2)
    first, other = (np.frombuffer(weights(number), "<f4") for number in (1, 30))
    wrong, wrong_whole = codec.delta_blob(first, other, good.tensors), codec.head_blob(other, good.tensors)
    for data in (wrong, wrong_whole):
        gateway.publish_blob(data)
    delta, full = split(wrong).ref, split(wrong_whole).ref
    bad = replace(good, deltas=(BlobRef(hash=delta.hash[:DELTA_HASH_BYTES], size=delta.size),))
    gateway.announce(replace(bad, full=full) if both else bad)
    return bad


def test_deltas_that_lead_elsewhere_are_removed_and_the_whole_head_is_fetched(
    joined, gateway, caplog
) -> None:
    manifest = astray(gateway)
    joined.turn()
    joined.turn(1.0)
    assert has(joined, manifest)
    assert not Blobs(joined.folder.blobs).has(manifest.deltas[0])
    assert "head 1.2 is fetched whole, its deltas led nowhere: what was fetched does not" in caplog.text
    assert (joined.agent.state.strikes, joined.agent.work.failure) == (0, "")
    take(joined, gateway, V3)
    assert counted(joined)[1] > 0


def test_a_trainer_says_so_too_and_the_next_one_has_the_whole_head(device, gateway, caplog) -> None:
    device.join(gateway)
    take(device, gateway, V1)
    samples(device)
    manifest = astray(gateway)
    device.turn()
    assert not device.agent.work.child.only_judges
    device.trainer_ends()
    assert "its deltas led nowhere: what was fetched does not lead to" in caplog.text
    assert (device.agent.state.failures, device.agent.state.strikes) == (1, 0)
    assert device.agent.work.failure == "", "nothing is wrong with training"
    device.turn(FIRST_BACKOFF_S + 1.0)
    if device.agent.work.child is None:
        device.turn(FIRST_BACKOFF_S + 1.0)
    device.trainer_ends()
    assert has(device, manifest)
    assert gateway.open(device, gateway.envelopes()[-1]).head_version == V2


def test_a_whole_head_that_leads_elsewhere_too_is_reported_once_and_tried_ever_more_rarely(
    joined, gateway, caplog
) -> None:
    astray(gateway, both=True)
    agent = joined.agent
    joined.turn()
    joined.turn(1.0)
    trouble = "head 1.2 cannot be put together: what was fetched does not lead to the head"
    assert agent.heads.trouble.startswith(trouble)
    assert (agent.state.wanted, agent.state.adopted) == (V2, V1)
    received, starts = agent._link.transport.received_bytes, []
    agent.work.begin = lambda *given: starts.append(joined.now_s) or Here(*given)
    for _ in range(4 * 3600 // 30):
        joined.turn(30.0)
    assert len(starts) <= 12, "half a minute, a minute, ... and then once an hour"
    assert starts[-1] - starts[-2] >= PAUSES_S[1]
    assert agent._link.transport.received_bytes - received < 200, "nothing is fetched again"
    assert caplog.text.count(trouble) == 1
    assert agent.heads.trouble.startswith(trouble), "and status says so all the time"
    take(joined, gateway, V3)
    assert agent.heads.trouble == ""


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_without_the_head_to_begin_from_the_whole_one_is_fetched(joined, gateway, damage) -> None:
    path = joined.folder.blobs / blob_name(gateway.manifest.head.hash)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(gateway.manifest.head.size))
    before, manifest = counted(joined)[0], publish(gateway, V2)
    joined.turn()
    joined.turn(1.0)
    assert has(joined, manifest)
    delta = manifest.deltas[0].size if damage == "flipped" else 0  # that is found out too late
    assert counted(joined)[0] - before == manifest.full.size + delta


def test_a_damaged_delta_is_replaced_by_the_whole_head(joined, gateway) -> None:
    manifest = publish(gateway, V2)
    delta, begin = joined.folder.blobs / blob_name(manifest.deltas[0].hash), joined.agent.work.begin

    def damaged(*given: object) -> Child:
        delta.write_bytes(bytes(manifest.deltas[0].size))
        joined.agent.work.begin = begin
        return begin(*given)

    joined.agent.work.begin = damaged
    joined.turn()
    joined.turn(1.0)
    assert has(joined, manifest)
    assert joined.agent.state.strikes == 0


def fails(code: int, times: int) -> type[Here]:
    """Return a child that ends like this so often, and then does its work."""
    left = [code] * times

    class Failing(Here):
        def work(self, arguments: JudgeArguments) -> int:
            return left.pop() if left else super().work(arguments)

    return Failing


@pytest.mark.parametrize("code", [TrainerExit.DISK, TrainerExit.CRASHED, -signal.SIGKILL, 0])
def test_a_child_that_fails_is_tried_again_after_a_pause(joined, gateway, code) -> None:
    joined.judges = fails(code, 1)
    manifest = publish(gateway, V2)
    joined.turn()
    agent = joined.agent
    assert (agent.state.phase, agent.state.strikes) == (Phase.FETCHING, 0)
    assert agent.heads.trouble
    assert agent.deadline_s() <= joined.now_s + PAUSES_S[0]
    joined.turn(PAUSE_S / 2)
    assert agent.state.adopted == V1
    joined.turn(PAUSE_S / 2)
    assert has(joined, manifest)
    assert counted(joined)[1] > 0, "nothing was fetched again"
    assert agent.heads.trouble == ""


def test_what_keeps_fetches_back_does_not_keep_it_back(joined, gateway) -> None:
    joined.judges = fails(TrainerExit.DISK, 1)
    manifest = publish(gateway, V2)
    joined.turn()
    closed = {KEEPS_FETCHES_BACK: "metered", KEEPS_JUDGES_BACK: ""}
    joined.agent.work.conditions.held_back = lambda _doing, _now_s, gates=KEEPS_FETCHES_BACK: closed[gates]
    joined.turn(PAUSE_S)
    assert has(joined, manifest)
    publish(gateway, V3)
    joined.turn()
    assert joined.agent.state.current == V2, "and it keeps fetches back"


def test_after_some_crashes_the_whole_head_is_tried(joined, gateway) -> None:
    joined.judges = fails(-signal.SIGSEGV, MAX_CRASHES)
    before, manifest = counted(joined)[0], publish(gateway, V2)
    for _ in range(MAX_CRASHES):
        joined.turn(PAUSES_S[0] * 4)
    joined.turn(1.0)
    assert has(joined, manifest)
    assert counted(joined)[0] - before == manifest.deltas[0].size + manifest.full.size


def test_a_disk_that_stays_full_for_long_costs_no_head(joined, gateway) -> None:
    joined.judges = fails(TrainerExit.DISK, 2 * MAX_STRIKES)
    manifest = publish(gateway, V2)
    for _ in range(2 * MAX_STRIKES + 1):
        assert joined.agent.state.judged == V1
        joined.turn(PAUSES_S[1] + 1.0)
    assert has(joined, manifest)


def test_a_machine_that_cannot_start_a_child_now_tries_again(joined, gateway, monkeypatch) -> None:
    joined.judges = Child
    monkeypatch.setattr(sys, "executable", str(joined.folder.path / "nothing"))
    manifest = publish(gateway, V2)
    joined.turn()
    assert joined.agent.heads.trouble
    joined.judges = Here
    joined.turn(PAUSE_S)
    assert has(joined, manifest)


# --- in the middle of it ----------------------------------------------------------------------------------
@pytest.fixture
def busy(joined, gateway) -> Device:
    """A device on which a real child is to put the second head together, and was stopped before."""
    joined.judges = Child
    publish(gateway, V2)
    joined.turn()
    os.kill(joined.agent.work.child.pid, signal.SIGSTOP)
    return joined


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3])
def test_killed_at_any_moment_it_is_done_again(joined, gateway, after_s) -> None:
    """When the kill comes is chance; that the head is here in the end is not."""
    joined.judges = Child
    manifest = publish(gateway, V2)
    joined.turn()
    child = joined.agent.work.child
    select.select([child.gone_descriptor], [], [], after_s)
    os.kill(child.pid, signal.SIGKILL)
    joined.trainer_ends()
    joined.judges = Here
    joined.turn(PAUSE_S)
    assert has(joined, manifest)
    assert counted(joined)[1] > 0


@pytest.mark.parametrize("made", [False, True])
def test_an_agent_that_ends_meanwhile_goes_on_at_its_start_and_fetches_nothing(busy, gateway, made) -> None:
    child = busy.agent.work.child
    if made:
        os.kill(child.pid, signal.SIGCONT)
        busy.head_is_made()
    before = counted(busy)
    left = busy.folder.blobs / f".{blob_name(gateway.manifest.head.hash)}.0123456789ab.tmp"
    left.write_bytes(b"half a head")
    child.kill()
    busy.stop()
    assert Lease.of(child.pid) is None
    busy.judges = Here
    busy.start()
    assert busy.agent.state.current == V2
    busy.turn()
    assert has(busy, gateway.manifest)
    assert counted(busy) == before
    assert made or not left.exists(), "the next child begins with a clean folder"


def test_one_that_hangs_is_ended_and_tried_again(joined, gateway) -> None:
    joined.config = replace(joined.config, trainer=replace(joined.config.trainer, timeout_s=10.0))
    joined.stop()
    joined.start()
    joined.turn()
    joined.judges = Child
    manifest = publish(gateway, V2)
    joined.turn()
    child = joined.agent.work.child
    os.kill(child.pid, signal.SIGSTOP)
    assert joined.agent.deadline_s() <= joined.now_s + 10.0
    joined.now_s += 10.0
    joined.agent.service((), joined.now_s)
    joined.trainer_ends()
    assert Lease.of(child.pid) is None
    assert joined.agent.heads.trouble == "head 1.2 cannot be put together: ended by signal SIGKILL"
    joined.judges = Here
    joined.turn(PAUSE_S)
    assert has(joined, manifest)


def test_what_protects_the_machine_ends_it_and_it_is_done_later(busy, gateway, caplog) -> None:
    caplog.set_level(logging.INFO)
    agent, good = busy.agent, busy.agent.work.conditions.policy
    agent.work.conditions.policy = replace(good, min_free_disk_mib=2.0**40)
    busy.turn(2.0)
    os.kill(agent.work.child.pid, signal.SIGCONT)
    busy.trainer_ends()
    if agent.state.judged != V2:  # unless it was done before it could listen
        assert (agent.heads.trouble, agent.state.strikes, agent.state.current) == ("", 0, V2)
    agent.work.conditions.policy, busy.judges = good, Here
    busy.turn(good.poll_s + 2.0)
    assert has(busy, gateway.manifest)


# --- whatever happens -------------------------------------------------------------------------------------
class Trouble:
    """Does to a device, and to what is on the broker for it, whatever may happen."""

    def __init__(self, device: Device, gateway: MiniGateway, seed: int) -> None:
        self.device, self.gateway = device, gateway
        self.draw = random.Random(seed)
        self.newest = 1

    def missed(self) -> None:
        self.device.stop()
        for _ in range(self.draw.randint(1, 10)):
            self.published()
        self.device.start()

    def published(self) -> None:
        self.newest += 1
        publish(self.gateway, HeadVersion(1, self.newest))

    def poisoned(self) -> None:
        manifest = self.gateway.manifest
        poison(self.gateway, self.draw.choice((*manifest.deltas, manifest.full)))

    def damaged(self) -> None:
        files = sorted(path for path in self.device.folder.blobs.iterdir() if path.suffix != ".tmp")
        if files:
            path = self.draw.choice(files)
            self.draw.choice((path.unlink, lambda: path.write_bytes(bytes(path.stat().st_size))))()

    def failed(self) -> None:
        ends = (TrainerExit.CRASHED, TrainerExit.DISK, TrainerExit.LOST, TrainerExit.ASTRAY)
        code = self.draw.choice((-signal.SIGKILL, 0, *ends))
        self.device.judges = fails(code, self.draw.randint(1, 4))

    def hot(self) -> None:
        conditions = self.device.agent.work.conditions
        closed = {KEEPS_FETCHES_BACK: "", KEEPS_JUDGES_BACK: "too hot"}
        conditions.held_back = lambda _doing, _now_s, gates=KEEPS_FETCHES_BACK: closed[gates]

    def cold(self) -> None:
        vars(self.device.agent.work.conditions).pop("held_back", None)

    def restarted(self) -> None:
        self.device.stop()
        self.device.start()

    def waited(self) -> None:
        self.device.turn(self.draw.choice((1.0, 40.0, 400.0)))

    def any(self) -> None:
        """One of them."""
        things = self.missed, self.published, self.poisoned, self.damaged, self.hot, self.cold
        self.draw.choice((*things, self.failed, self.restarted, self.waited))()


def test_whatever_happens_apps_have_the_newest_head_in_the_end_bit_for_bit(joined, gateway, thorough) -> None:
    for seed in range(200 if thorough else 6):
        trouble = Trouble(joined, gateway, seed)
        trouble.newest = gateway.manifest.head_version.version
        for _ in range(12):
            trouble.any()
            if trouble.draw.random() < 0.7:
                joined.turn()
        joined.judges = Here
        trouble.cold()
        trouble.published()  # with it, all of its blobs are published anew
        for _ in range(4):
            joined.turn(3700.0)
        manifest, agent = gateway.manifest, joined.agent
        version = manifest.head_version
        assert (agent.state.current, agent.state.adopted) == (version, version), f"seed {seed}"
        assert Blobs(joined.folder.blobs).read(manifest.head) == weights(version.version), f"seed {seed}"
        assert Slots(joined.folder.current).read()[2] == weights(version.version), f"seed {seed}"
        assert len(list(joined.folder.blobs.iterdir())) <= 3 + MAX_DELTAS + 1
