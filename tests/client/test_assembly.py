"""Heads that come as deltas, or whole: every device ends with the same bytes, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedclient import codec
from fedclient.client.assembly import TIMEOUT_S, Assembly
from fedclient.client.child import Child
from fedclient.client.conditions import KEEPS_FETCHES_BACK, KEEPS_JUDGES_BACK
from fedclient.client.heads import LOOK_S, MAX_CRASHES, PAUSES_S, QUIET_S
from fedclient.client.routes import whole
from fedclient.client.timers import Timer
from fedclient.config import TrainerSettings
from fedclient.device.assembly import AssembleArguments
from fedclient.device.blobs import Blobs
from fedclient.device.jobs import Lease, TrainerExit
from fedclient.model.head import write_head
from fedclient.model.options import HeadOptions, Optimizer
from fedclient.values import BlobRef, HeadVersion, Manifest, Phase
from fedclient.wire.blobs import split
from fedclient.wire.fields import DELTA_HASH_BYTES
from fedclient.wire.topics import blob_name
from tests.client.harness import PLAN, TOPICS, V1, V2, V3, Device, Here, MiniGateway

SIZE = 41 * 64
DELTA, WHOLE = 100, 1000  # bytes: any delta has fewer, any whole head more
PAUSE_S = PAUSES_S[0] + 1.0


def weights(number: int) -> bytes:
    """Return one of a series of heads: each changes the one before in few places."""
    draw = np.random.default_rng(5)
    head = draw.integers(-500, 500, SIZE)
    for _ in range(number):
        head[draw.integers(0, SIZE, 20)] += draw.integers(-9, 9, 20)
    return (head / 1024).astype("<f4").tobytes()


@pytest.fixture
def gateway(broker) -> MiniGateway:
    made = MiniGateway(broker)
    made.model = write_head(63, 41)
    return made


@pytest.fixture
def joined(device, gateway) -> Device:
    """A device with the first head, which nobody will train on."""
    device.join(gateway)
    take(device, gateway, V1)
    return device


def publish(gateway: MiniGateway, version: HeadVersion, **how: bool) -> Manifest:
    return gateway.publish(version, weights=weights(version.version), **how)


def take(device: Device, gateway: MiniGateway, version: HeadVersion) -> Manifest:
    manifest = publish(gateway, version)
    device.turn()
    assert has(device, manifest)
    return manifest


def has(device: Device, manifest: Manifest) -> bool:
    """Whether the device uses this head, bit for bit; and has nothing that it does not need.

    The head that was adopted before may still be here: until the next one.
    """
    version = manifest.head_version
    if device.agent.state.current != version:
        return False
    assert Blobs(device.folder.blobs).read(manifest.head) == weights(version.version)
    needed = {blob_name(ref.hash) for ref in (manifest.model, manifest.head)}
    heads = {blob_name(split(weights(number)).ref.hash) for number in range(version.version)}
    assert needed <= names(device) <= needed | heads
    assert len(names(device)) <= 3
    return True


def names(device: Device) -> set[str]:
    return {path.name for path in device.folder.blobs.iterdir()}


def counted(device: Device) -> tuple[int, int]:
    """Bytes of encoded heads so far, and what deltas have saved."""
    counters = device.agent.counters()
    return counters["head_bytes"], counters["head_bytes_saved"]


def poison(gateway: MiniGateway, ref: BlobRef) -> None:
    gateway.transport.publish(TOPICS.blob(ref.hash, 1), b"poison", retain=True)


# --- which way ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("missed", "all_of_it"), [(0, False), (1, False), (3, False), (7, False), (9, True)])
def test_a_device_that_missed_some_heads_takes_the_shortest_way(joined, gateway, missed, all_of_it) -> None:
    before = counted(joined)
    joined.stop()
    for number in range(2, missed + 2):
        publish(gateway, HeadVersion(1, number))
    last = publish(gateway, HeadVersion(1, missed + 2))
    joined.start()
    joined.turn()
    assert has(joined, last)
    fetched, saved = (now - then for now, then in zip(counted(joined), before, strict=True))
    if all_of_it:
        assert (fetched, saved) == (last.full.size, 0)
    else:
        assert fetched < DELTA * (missed + 1)
        assert fetched + saved == last.full.size > WHOLE


def test_one_that_has_just_joined_takes_the_whole_head_and_then_deltas(device, gateway) -> None:
    for version in (V1, V2):
        publish(gateway, version)
    device.join(gateway)
    device.turn()
    assert has(device, gateway.manifest)
    assert counted(device) == (gateway.manifest.full.size, 0)
    take(device, gateway, V3)
    assert 0 < counted(device)[0] - len(gateway.encoded[V2][0]) < DELTA


def test_a_head_of_another_generation_comes_whole(joined, gateway) -> None:
    before = counted(joined)[0]
    other = take(joined, gateway, HeadVersion(2, 2))
    assert not other.deltas
    assert counted(joined)[0] - before == other.full.size


def test_the_head_that_a_next_delta_begins_from_stays_and_encoded_ones_go(joined, gateway) -> None:
    for number in range(2, 6):
        take(joined, gateway, HeadVersion(1, number))  # `has` looks at the folder
    assert counted(joined)[1] > 3 * WHOLE


# --- a way that leads nowhere -----------------------------------------------------------------------------
def test_rule_6_a_poisoned_delta_is_given_up_for_the_whole_head(joined, gateway, caplog) -> None:
    manifest = publish(gateway, V2)
    poison(gateway, manifest.deltas[0])
    joined.turn()
    assert has(joined, manifest)
    assert caplog.text.count("asking again") == 3
    assert "head 1.2 is fetched whole: its deltas do not come" in caplog.text
    take(joined, gateway, V3)
    assert counted(joined)[1] > 0, "the next delta is tried"


def test_rule_6_a_poisoned_whole_head_after_a_poisoned_delta_is_backed_off_from(joined, gateway) -> None:
    manifest = publish(gateway, V2)
    for ref in (manifest.deltas[0], manifest.full):
        poison(gateway, ref)
    joined.turn()
    sent = joined.agent._link.transport.sent_bytes
    joined.turn(60.0)
    assert joined.agent._link.transport.sent_bytes == sent
    gateway.publish_blobs(V2)
    joined.turn(joined.config.broker.retry_max_s)
    assert has(joined, manifest)


def test_rule_6_a_poisoned_model_says_nothing_of_the_deltas(joined, gateway) -> None:
    gateway.model = write_head(63, 41, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
    manifest = publish(gateway, V2)
    poison(gateway, manifest.model)
    joined.turn()
    assert joined.agent.state.phase is Phase.FETCHING
    gateway.publish_blobs(V2)
    joined.turn(joined.config.broker.retry_max_s + 1.0)
    assert Blobs(joined.folder.blobs).read(manifest.head) == weights(2)
    assert counted(joined)[1] > 0


def test_a_delta_that_does_not_come_is_waited_for_only_so_long(joined, gateway, caplog) -> None:
    manifest = publish(gateway, V2, blobs=False)
    joined.turn()
    assert joined.agent.deadline_s() <= joined.now_s + QUIET_S
    gateway.publish_blob(gateway.encoded[V2][0])
    joined.turn(QUIET_S - 1.0)
    assert joined.agent.state.phase is Phase.FETCHING
    joined.turn(2.0)
    assert has(joined, manifest)
    assert "do not come" in caplog.text


def test_a_stranger_who_says_nothing_again_and_again_holds_no_device_on_a_delta(joined, gateway) -> None:
    manifest = publish(gateway, V2, blobs=False)
    joined.turn()
    gateway.publish_blob(gateway.encoded[V2][0])
    topic = TOPICS.blob(manifest.deltas[0].hash, 1)
    for _ in range(4):
        gateway.transport.publish(topic, b"")
        joined.turn(QUIET_S / 3)
    assert has(joined, manifest)


def test_what_nothing_can_take_the_place_of_is_waited_for_without_a_look(device, gateway) -> None:
    agent = device.join(gateway)
    publish(gateway, V1, blobs=False)
    device.turn()
    assert not agent._timers.is_set(Timer.FETCH)
    assert agent.heads.look_again_s is None


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
    assert has(joined, manifest)
    assert caplog.text.count("does not lead to head") == 1
    assert "head 1.2 is fetched whole, its deltas led nowhere" in caplog.text
    take(joined, gateway, V3)
    assert counted(joined)[1] > 0


def test_a_whole_head_that_leads_elsewhere_too_is_reported_once_and_tried_ever_more_rarely(
    joined, gateway, caplog
) -> None:
    astray(gateway, both=True)
    agent = joined.agent
    joined.turn()
    trouble = "head 1.2 cannot be put together: what was fetched does not lead to the head"
    assert agent.heads.trouble.startswith(trouble)
    assert agent.state.current == V1
    received = agent._link.transport.received_bytes
    starts = []
    agent.heads.assembly.begin = lambda *given: starts.append(joined.now_s) or Here(*given)
    for _ in range(4 * 3600 // 30):
        joined.turn(30.0)
    assert len(starts) <= 12, "half a minute, a minute, ... and then once an hour"
    assert starts[-1] - starts[-2] >= PAUSES_S[1]
    assert agent._link.transport.received_bytes - received < 200, "nothing is fetched again"
    assert caplog.text.count(trouble) == 1
    take(joined, gateway, V3)
    assert agent.heads.trouble == ""


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_without_the_head_to_begin_from_the_whole_one_is_fetched(joined, gateway, damage) -> None:
    path = joined.folder.blobs / blob_name(gateway.manifest.head.hash)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(gateway.manifest.head.size))
    before = counted(joined)
    take(joined, gateway, V2)
    assert counted(joined) == (before[0] + gateway.manifest.full.size, before[1])


def test_a_damaged_delta_is_replaced_by_the_whole_head(joined, gateway) -> None:
    manifest = publish(gateway, V2)
    delta = joined.folder.blobs / blob_name(manifest.deltas[0].hash)

    def damaged(*given: object) -> Here:
        if delta.exists():
            delta.write_bytes(bytes(manifest.deltas[0].size))
        return Here(*given)

    joined.agent.heads.assembly.begin = damaged
    joined.turn()
    assert has(joined, manifest)


def test_a_model_that_is_found_damaged_meanwhile_is_fetched_and_no_work_repeated(joined, gateway) -> None:
    manifest, starts = publish(gateway, V2), []

    def damaged(*given: object) -> Here:
        starts.append(given)
        (joined.folder.blobs / blob_name(manifest.model.hash)).unlink()
        return Here(*given)

    joined.agent.heads.assembly.begin = damaged
    joined.turn()
    assert has(joined, manifest)
    assert len(starts) == 1


def fails(code: int, times: int) -> type[Here]:
    """Return a child that ends like this so often, and then does its work."""
    left = [code] * times

    class Failing(Here):
        def __init__(self, arguments: AssembleArguments, timeout_at_s: float) -> None:
            if not left:
                super().__init__(arguments, timeout_at_s)
                return
            self._code = left.pop()
            self.gone_descriptor = os.eventfd(1)
            self.kill_at_s, self.was_cut_off, self.pid = timeout_at_s, False, os.getpid()

    return Failing


@pytest.mark.parametrize("code", [TrainerExit.DISK, TrainerExit.CRASHED, -signal.SIGKILL, 0])
def test_a_child_that_fails_is_tried_again_after_a_pause(joined, gateway, code) -> None:
    joined.agent.heads.assembly.begin = fails(code, 1)
    manifest = publish(gateway, V2)
    joined.turn()
    agent = joined.agent
    assert agent.state.phase is Phase.FETCHING
    assert agent.heads.trouble
    assert agent.deadline_s() <= joined.now_s + PAUSES_S[0]
    joined.turn(PAUSE_S / 2)
    assert agent.state.current == V1
    joined.turn(PAUSE_S / 2)
    assert has(joined, manifest)
    assert counted(joined)[1] > 0, "nothing was fetched again"
    assert agent.heads.trouble == ""


def test_after_some_crashes_the_whole_head_is_tried(joined, gateway) -> None:
    joined.agent.heads.assembly.begin = fails(-signal.SIGSEGV, MAX_CRASHES)
    manifest = publish(gateway, V2)
    for _ in range(MAX_CRASHES):
        joined.turn(PAUSES_S[0] * 4)
    assert has(joined, manifest)
    assert counted(joined)[1] == 0


def test_a_machine_that_cannot_start_a_child_now_tries_again(joined, gateway, monkeypatch) -> None:
    joined.agent.heads.assembly.begin = Child
    monkeypatch.setattr(sys, "executable", str(joined.folder.path / "nothing"))
    manifest = publish(gateway, V2)
    joined.turn()
    assert joined.agent.heads.trouble
    joined.agent.heads.assembly.begin = Here
    joined.turn(PAUSE_S)
    assert has(joined, manifest)


# --- in the middle of it ----------------------------------------------------------------------------------
@pytest.fixture
def busy(joined, gateway) -> Device:
    """A device on which a real child puts the second head together, and has been stopped in it."""
    joined.agent.heads.assembly.begin = Child
    publish(gateway, V2)
    joined.turn()
    os.kill(joined.agent.heads.assembly.child.pid, signal.SIGSTOP)
    return joined


def test_a_real_child_puts_it_together(joined, gateway) -> None:
    joined.agent.heads.assembly.begin = Child
    manifest = publish(gateway, V2)
    joined.turn()
    assert joined.agent.deadline_s() <= joined.now_s + LOOK_S
    joined.assembly_ends()
    assert has(joined, manifest)
    assert not joined.agent._timers.is_set(Timer.FETCH), "nothing is left to look at"


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_killed_at_any_moment_it_is_done_again(joined, gateway, after_s) -> None:
    """When the kill comes is chance; that the head is here in the end is not."""
    joined.agent.heads.assembly.begin = Child
    manifest = publish(gateway, V2)
    joined.turn()
    child = joined.agent.heads.assembly.child
    select.select([child.gone_descriptor], [], [], after_s)
    os.kill(child.pid, signal.SIGKILL)
    joined.assembly_ends()
    if joined.agent.state.current != V2:
        joined.turn(PAUSE_S)
        joined.assembly_ends()
    assert has(joined, manifest)
    assert counted(joined)[1] > 0


@pytest.mark.parametrize("done", [False, True])
def test_an_agent_that_ends_meanwhile_leaves_no_child_and_goes_on_at_its_start(busy, gateway, done) -> None:
    child = busy.agent.heads.assembly.child
    if done:
        os.kill(child.pid, signal.SIGCONT)
        assert select.select([child.gone_descriptor], [], [], 60)[0]
    left = busy.folder.blobs / f".{blob_name(gateway.manifest.head.hash)}.0123456789ab.tmp"
    left.write_bytes(b"half a head")
    busy.stop()
    assert Lease.of(child.pid) is None
    busy.start()
    busy.turn()
    assert has(busy, gateway.manifest), names(busy)


def test_one_that_hangs_is_ended_and_tried_again(busy, gateway, caplog) -> None:
    child = busy.agent.heads.assembly.child
    busy.turn(TIMEOUT_S - 1.0)
    assert busy.agent.heads.assembly.child is child
    busy.turn(2.0)
    if busy.agent.heads.assembly.child is child:  # its end may have been seen already
        busy.assembly_ends()
    assert "takes longer than" in caplog.text
    assert Lease.of(child.pid) is None
    busy.turn(PAUSE_S)
    busy.assembly_ends()
    assert has(busy, gateway.manifest)


def test_what_protects_the_machine_ends_it_and_it_is_done_later(busy, gateway, caplog) -> None:
    caplog.set_level(logging.INFO)
    agent = busy.agent
    good = agent.work.conditions.policy
    agent.work.conditions.policy = replace(good, min_free_disk_mib=2.0**40)
    child = agent.heads.assembly.child
    busy.turn(LOOK_S + 0.1)
    if agent.heads.assembly.child is child:  # its end may have been seen already
        busy.assembly_ends()
    assert "head 1.2 is not put together now" in caplog.text
    assert (agent.heads.trouble, agent.heads.assembly.child) == ("", None)
    busy.turn(good.poll_s - 2.0)
    assert agent.heads.assembly.child is None
    agent.work.conditions.policy = good
    busy.turn(4.0)
    busy.assembly_ends()
    assert has(busy, gateway.manifest)


def test_what_keeps_fetches_back_does_not_keep_it_back_and_heat_does(joined, gateway) -> None:
    conditions = joined.agent.work.conditions
    closed = {KEEPS_FETCHES_BACK: "", KEEPS_JUDGES_BACK: "too hot"}
    conditions.held_back = lambda _doing, _now_s, gates: closed[gates]
    manifest = publish(gateway, V2)
    joined.turn()
    assert joined.agent.state.phase is Phase.FETCHING
    assert blob_name(manifest.deltas[0].hash) in names(joined), "it is fetched"
    assert blob_name(manifest.head.hash) not in names(joined)
    closed.update({KEEPS_FETCHES_BACK: "metered", KEEPS_JUDGES_BACK: ""})
    joined.turn(conditions.policy.poll_s + 1.0)
    assert has(joined, manifest)


def test_a_newer_head_waits_for_it_and_begins_from_it(busy, gateway) -> None:
    child = busy.agent.heads.assembly.child
    newer = publish(gateway, V3)
    busy.turn()
    assert busy.agent.heads.assembly.child is child
    os.kill(child.pid, signal.SIGCONT)
    before = counted(busy)[0]
    busy.assembly_ends()
    assert busy.agent.state.current == V1
    busy.assembly_ends()
    assert has(busy, newer)
    assert counted(busy)[0] - before < DELTA


def test_it_goes_on_while_the_link_is_down(busy, gateway, broker) -> None:
    broker.part(busy.id)
    busy.turn(1.0)
    os.kill(busy.agent.heads.assembly.child.pid, signal.SIGCONT)
    busy.assembly_ends()
    assert has(busy, gateway.manifest)


def test_a_disk_that_fails_under_the_agent_ends_it_too(busy, gateway, monkeypatch) -> None:
    from fedclient.client import agent as module  # noqa: PLC0415
    from fedclient.errors import StorageFull  # noqa: PLC0415

    child, agent = busy.agent.heads.assembly.child, busy.agent

    def full(*_: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(module.Agent, "_due", full)
        agent._timers.set(Timer.STATUS, busy.now_s)
        busy.turn()
    assert agent.disk_reason == "no room"
    assert Lease.of(child.pid) is None
    busy.turn(120.0)
    busy.assembly_ends()
    assert has(busy, gateway.manifest)


def test_a_trainer_on_the_head_before_goes_on_beside_it(device, broker) -> None:
    gateway, plan = MiniGateway(broker), replace(PLAN, max_staleness=1)
    device.puts_together = Child
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1, plan)
    device.turn()
    device.assembly_ends()
    trainer = agent.work.child
    os.kill(trainer.pid, signal.SIGSTOP)
    gateway.publish(V2, plan)
    device.turn()
    device.assembly_ends()
    assert (agent.work.child, agent.state.job, agent.state.current) == (trainer, V1, V2)
    assert {blob_name(gateway.bases[one].head_hash) for one in (V1, V2)} < names(device), "its base stays"
    os.kill(trainer.pid, signal.SIGCONT)
    device.trainer_ends()
    assert len(gateway.envelopes()) == 1


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
        self.device.agent.heads.assembly.begin = fails(code, self.draw.randint(1, 4))

    def restarted(self) -> None:
        self.device.stop()
        self.device.start()

    def waited(self) -> None:
        self.device.turn(self.draw.choice((1.0, 40.0, 400.0)))

    def any(self) -> None:
        """One of them."""
        things = self.missed, self.published, self.poisoned, self.damaged
        self.draw.choice((*things, self.failed, self.restarted, self.waited))()


def test_whatever_happens_the_newest_head_is_here_in_the_end_bit_for_bit(joined, gateway, thorough) -> None:
    for seed in range(200 if thorough else 6):
        trouble = Trouble(joined, gateway, seed)
        trouble.newest = gateway.manifest.head_version.version
        for _ in range(12):
            trouble.any()
            if trouble.draw.random() < 0.7:
                joined.turn()
        joined.agent.heads.assembly.begin = Here
        trouble.published()  # with it, all of its blobs are published anew
        for _ in range(4):
            joined.turn(3700.0)
        manifest, agent = gateway.manifest, joined.agent
        assert agent.state.current == manifest.head_version, f"seed {seed}: {agent.heads.trouble}"
        head = Blobs(joined.folder.blobs).read(manifest.head)
        assert head == weights(manifest.head_version.version), f"seed {seed}"


# --- the child by itself ----------------------------------------------------------------------------------
AGENT = """
import json, os, signal, sys, time
from fedclient.client.child import Child
from fedclient.device.assembly import AssembleArguments
child = Child(AssembleArguments(**json.loads(sys.argv[1]) | {"parent": os.getpid()}), 0.0)
os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_rule_5_6_a_child_whose_agent_was_killed_is_gone_and_has_written_nothing(device, gateway) -> None:
    manifest, blobs = gateway.make(V1, weights=weights(1)), Blobs(device.folder.blobs)
    blobs.put(manifest.full, gateway.encoded[V1][0])
    given: list[AssembleArguments] = []
    assembly = Assembly(device.folder, TrainerSettings(nice=0, idle=False))
    assembly.begin = lambda arguments, _: given.append(arguments) or SimpleNamespace(pid=0)
    assembly.start(manifest, whole(manifest), 0.0)
    line = json.dumps(asdict(given[0]))
    agent = subprocess.Popen([sys.executable, "-c", AGENT, line], stdout=subprocess.PIPE)
    try:
        child = int(agent.stdout.readline())
        watched = os.pidfd_open(child)
        agent.kill()
        agent.wait()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGCONT)
        assert select.select([watched], [], [], 60)[0], "it goes on without its agent"
        assert not blobs.has(manifest.head)
        os.close(watched)
    finally:
        agent.kill()
        agent.wait()
        agent.stdout.close()


def test_what_a_killed_child_has_left_makes_room_for_the_next_one(device, gateway) -> None:
    left = device.folder.blobs / f".{blob_name(b'h' * 32)}.0123456789ab.tmp"
    left.write_bytes(b"half a head")
    assembly, manifest = Assembly(device.folder, TrainerSettings()), publish(gateway, V1)
    assembly.begin = lambda *_: SimpleNamespace(pid=0)
    assembly.start(manifest, whole(manifest), 0.0)
    assert not left.exists()


def test_a_child_takes_no_more_memory_than_the_owner_allows(device, gateway) -> None:
    manifest = publish(gateway, V1)
    seen = []
    for allowed in (None, 40, 4000):
        assembly = Assembly(device.folder, TrainerSettings(memory_mib=allowed, nice=7, idle=False))
        assembly.begin = lambda arguments, at_s: seen.append((arguments, at_s)) or Here(arguments, at_s)
        assert assembly.start(manifest, whole(manifest), 10.0)
        assert assembly.deadline_s() == 10.0 + TIMEOUT_S
        assembly.stop()
        assert (assembly.interests(), assembly.deadline_s()) == ({}, None)
    bounds = [arguments.memory_mib for arguments, _ in seen]
    assert bounds[1] == 40 < bounds[0] == bounds[2] < 100
    assert {(arguments.nice, arguments.parent) for arguments, _ in seen} == {(7, os.getpid())}
