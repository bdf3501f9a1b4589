"""The agent over the memory transport, with real trainers where one is needed (PROTOCOL 4 to 8)."""

from __future__ import annotations

import logging
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from fedclient import codec, load_model
from fedclient.client import agent as module
from fedclient.client.actor import STATUS_INTERVAL_S
from fedclient.client.answers import answer
from fedclient.client.timers import Timer
from fedclient.config import PrivacySettings
from fedclient.device import schedule
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.jobs import Jobs, Lease
from fedclient.device.slots import Slots
from fedclient.errors import AlreadyRunning, StorageFull
from fedclient.session import Enrolment
from fedclient.values import Command, CommandKind, HeadVersion, MessageType, Phase, Reason, ReceiptStatus
from fedclient.wire.blobs import split
from tests.client.harness import PLAN, TOPICS, V1, V2, V3, Device, MiniGateway

COUNTED, RETURNED = ReceiptStatus.COUNTED, ReceiptStatus.NOT_COUNTED


def trained(device: Device, gateway: MiniGateway, version: HeadVersion = V1) -> bytes:
    """Join, train on a head, and return the envelope that was published."""
    device.samples()
    if device.agent is None:
        device.join(gateway)
    before = len(gateway.envelopes())
    gateway.publish(version)
    device.turn()
    assert device.agent.state.phase is Phase.TRAINING, device.agent.work.why_not
    device.trainer_ends()
    (envelope,) = gateway.envelopes()[before:]
    return envelope


# --- enrolment ----------------------------------------------------------------------------------------
def test_rule_7_without_an_invitation_the_agent_is_idle_and_says_so(device) -> None:
    agent = device.start()
    device.turn()
    assert agent.state.phase is Phase.UNENROLLED
    assert agent.interests() == {}
    assert agent.deadline_s() == device.now_s + module.INVITATION_POLL_S


def test_rule_7_an_invitation_is_taken_up_while_the_agent_runs(device, gateway) -> None:
    agent = device.start()
    device.turn()
    request = device.invite(gateway)
    device.turn(module.INVITATION_POLL_S)
    assert agent.state.phase is Phase.ENROLLING
    assert gateway.envelopes(MessageType.ENROL) == [request]


def test_rule_7_the_request_is_identical_on_every_retry_and_restart(device, gateway, broker) -> None:
    request = device.invite(gateway)
    device.start()
    device.turn()
    for _ in range(4):
        device.turn(400.0)
    broker.part(device.id)
    device.turn()
    broker.heal(device.id)
    device.turn(400.0)
    device.stop()
    device.start()
    device.turn()
    sent = gateway.envelopes(MessageType.ENROL)
    assert len(sent) >= 7
    assert set(sent) == {request}


def test_rule_7_retries_become_rarer(device, gateway) -> None:
    device.invite(gateway)
    device.start()
    device.turn()
    counts = []
    for _ in range(3):
        before = len(gateway.envelopes(MessageType.ENROL))
        for _ in range(40):
            device.turn(10.0)
        counts.append(len(gateway.envelopes(MessageType.ENROL)) - before)
    assert counts[0] > counts[-1] >= 1


def test_rule_7_only_a_signed_receipt_with_our_hash_enrols(device, gateway, broker) -> None:
    request = device.invite(gateway)
    agent = device.start()
    device.turn()
    MiniGateway(broker, b"i").answer(device.id, request, ReceiptStatus.ENROLLED)
    gateway.answer(device.id, request + b"x", ReceiptStatus.ENROLLED)
    gateway.answer(device.id, request, ReceiptStatus.COUNTED)
    device.turn()
    assert agent.state.enrolment is Enrolment.PENDING
    gateway.answer(device.id, request, ReceiptStatus.ENROLLED)
    device.turn()
    assert agent.state.enrolment is Enrolment.DONE
    before = gateway.envelopes(MessageType.ENROL)
    device.turn(4000.0)
    assert gateway.envelopes(MessageType.ENROL) == before


def test_rule_7_a_refusal_is_kept_and_a_new_invitation_begins_again(device, gateway) -> None:
    request = device.invite(gateway)
    agent = device.start()
    device.turn()
    gateway.answer(device.id, request, ReceiptStatus.REFUSED, reason=Reason.INVITATION_EXPIRED)
    device.turn()
    assert (agent.state.phase, agent.state.refusal.words) == (Phase.REFUSED, "invitation expired")
    before = len(gateway.envelopes(MessageType.ENROL))
    device.stop()
    agent = device.start()
    device.turn(1000.0)
    assert agent.state.phase is Phase.REFUSED
    assert len(gateway.envelopes(MessageType.ENROL)) == before
    request = device.invite(gateway)
    device.turn(module.INVITATION_POLL_S)
    assert agent.state.phase is Phase.ENROLLING
    assert gateway.envelopes(MessageType.ENROL)[-1] == request


# --- a round ------------------------------------------------------------------------------------------
def test_rule_4_1_a_round_from_head_to_receipt(device, gateway) -> None:
    envelope = trained(device, gateway)
    agent = device.agent
    assert agent.state.phase is Phase.SENDING
    update = gateway.open(device, envelope)
    assert (update.counter, update.head_version) == (1, V1)
    assert codec.decode(update.body, gateway.manifest.tensors, PLAN.codec).norm() > 0
    assert device.outbox.was_published(1)
    gateway.answer(device.id, envelope, COUNTED)
    device.turn()
    assert agent.state.phase is Phase.IDLE
    assert agent.settled == 1
    assert Slots(device.folder.current).is_active(gateway.manifest)
    device.turn(5000.0)
    assert gateway.envelopes() == [envelope]  # 4.2: once for each head


def test_rule_4_1_retries_are_the_same_bytes_over_restarts_and_reconnects(device, gateway, broker) -> None:
    envelope = trained(device, gateway)
    for _ in range(3):
        device.turn(400.0)
    broker.part(device.id)
    device.turn()
    broker.heal(device.id)
    device.turn(400.0)
    device.stop()
    agent = device.start()
    device.turn()
    assert agent.state.phase is Phase.SENDING
    sent = gateway.envelopes()
    assert len(sent) >= 5
    assert set(sent) == {envelope}


def test_rule_4_1_no_new_job_until_it_is_settled(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.publish(V2)
    device.turn()
    device.turn(4000.0)
    agent = device.agent
    assert agent.state.current == V2  # taken, and apps have it
    assert Slots(device.folder.current).is_active(gateway.manifest)
    assert not agent.state.running
    device.samples(seed=2)
    gateway.answer(device.id, envelope, RETURNED, reason=Reason.LATE)
    device.turn()
    assert agent.state.running  # 5.3: what comes back goes into this job


def test_rule_4_3_defer_does_not_settle_and_is_obeyed(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, ReceiptStatus.DEFER, retry_window_s=(1000, 1200))
    device.turn()
    assert device.agent.state.unsettled == 1
    before = len(gateway.envelopes())
    device.turn(999.0)
    assert len(gateway.envelopes()) == before
    device.turn(202.0)
    assert gateway.envelopes()[before:] == [envelope]
    gateway.answer(device.id, envelope, ReceiptStatus.DEFER)  # a window of nothing: no endless loop
    device.turn()
    assert len(gateway.envelopes()) == before + 1
    device.turn(400.0)
    assert len(gateway.envelopes()) == before + 2


@pytest.mark.parametrize("wrong", ["hash", "gateway", "enrolled"])
def test_rule_4_3_only_our_gateways_receipt_for_these_bytes_settles(device, gateway, broker, wrong) -> None:
    envelope = trained(device, gateway)
    end = MiniGateway(broker, b"i") if wrong == "gateway" else gateway
    status = ReceiptStatus.ENROLLED if wrong == "enrolled" else COUNTED
    end.answer(device.id, envelope + b"x" * (wrong == "hash"), status)
    device.turn()
    assert device.agent.state.unsettled == 1


def test_rule_4_3_a_receipt_that_comes_twice_changes_nothing(device, gateway) -> None:
    envelope = trained(device, gateway)
    for status in (COUNTED, COUNTED, RETURNED):
        gateway.answer(device.id, envelope, status)
        device.turn()
    assert device.outbox.returned() == ((), ())
    assert device.agent.settled == 1


def test_rule_5_3_given_back_once_and_counted_in_the_next_update(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, RETURNED, reason=Reason.LATE)
    device.turn()
    rows, _ = device.outbox.returned()
    assert [row.counter for row in rows] == [1]
    second = trained(device, gateway, V2)
    assert gateway.open(device, second).counter == 2
    assert device.outbox.returned() == ((), ())


def test_rule_5_3_a_refused_update_resets_the_residual(device, gateway) -> None:
    envelope = trained(device, gateway)
    database = device.agent._database
    assert database.one("SELECT count(*) FROM residual") == (1,)
    gateway.answer(device.id, envelope, ReceiptStatus.REFUSED, reason=Reason.NORM)
    device.turn()
    assert database.one("SELECT count(*) FROM residual") == (0,)
    assert device.outbox.returned() == ((), ())


def test_rule_4_2_after_a_conflict_the_next_update_counts_on(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, ReceiptStatus.REFUSED, reason=Reason.CONFLICT, last_counter=41)
    device.turn()
    device.samples(seed=2)
    if not device.agent.state.running:
        gateway.publish(V2)
        device.turn(100.0)
    device.trainer_ends()
    assert gateway.open(device, gateway.envelopes()[-1]).counter == 42


def test_rule_8_online_is_said_for_as_long_as_a_device_is_enrolled(device, gateway, broker) -> None:
    def said() -> bytes | None:
        return broker._retained.get(TOPICS.online(device.id), (None,))[0]

    device.invite(gateway)
    device.start()
    device.turn()
    assert said() is None
    device.stop()
    envelope = trained(device, gateway)  # joins
    assert said() == b"online"
    broker.part(device.id)
    assert said() == b"offline"
    device.turn()
    broker.heal(device.id)
    device.turn(400.0)
    assert said() == b"online"
    device.stop()
    assert said() == b"offline"
    device.start()
    device.turn()
    assert said() == b"online"
    gateway.answer(device.id, envelope, ReceiptStatus.REFUSED, reason=Reason.REVOKED)
    device.turn()
    assert said() is None
    device.stop()
    assert said() is None


def test_rule_7_a_revoked_device_stops(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, ReceiptStatus.REFUSED, reason=Reason.REVOKED)
    gateway.publish(V2)
    device.turn()
    device.turn(4000.0)
    assert (device.agent.state.phase, device.agent.state.refusal.words) == (Phase.REFUSED, "revoked")
    assert gateway.envelopes() == [envelope]


# --- kills --------------------------------------------------------------------------------------------
def test_rule_5_2_an_update_committed_while_no_agent_looked_is_sent(device, gateway) -> None:
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1)
    device.turn()
    child = agent.work.child
    assert child is not None
    child._process.wait(60)  # it is done; the agent never hears of it
    device.stop()
    agent = device.start()
    assert agent.state.phase is Phase.SENDING
    device.turn()
    (envelope,) = set(gateway.envelopes())
    assert gateway.open(device, envelope).counter == 1


def test_rule_5_1_a_trainer_that_was_stopped_resumes_after_a_restart(device, gateway) -> None:
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1, replace(PLAN, epochs=100))
    device.turn()
    job = Jobs(agent._database).current()
    device.stop()  # asks politely
    agent = device.start()
    assert Jobs(agent._database).current().token == job.token
    device.turn()
    assert agent.state.phase is Phase.TRAINING
    device.trainer_ends()
    assert agent.state.phase is Phase.SENDING


def test_rule_5_6_a_killed_trainer_is_counted_and_waited_after(device, gateway) -> None:
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1, replace(PLAN, epochs=100))
    device.turn()
    device.head_is_made()
    agent.work.child.kill()
    device.trainer_ends()
    assert (agent.state.failures, agent.state.phase) == (1, Phase.WAITING)
    device.turn(29.0)
    assert agent.state.phase is Phase.WAITING, "tried again at once"
    device.turn(2.0)
    if agent.state.phase is not Phase.TRAINING:  # it was killed before its verdict: the head was judged first
        device.turn(31.0)
    assert agent.state.phase is Phase.TRAINING
    agent.work.child.kill()
    device.trainer_ends()
    assert agent.state.failures == 2


def test_rule_5_6_a_hanging_trainer_is_ended_at_its_time(device, gateway) -> None:
    device.config = replace(device.config, trainer=replace(device.config.trainer, timeout_s=10.0))
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1, replace(PLAN, epochs=100))
    device.turn()
    child = agent.work.child
    child._process.send_signal(signal.SIGSTOP)
    assert agent.deadline_s() <= device.now_s + 10.0
    device.now_s += 10.0
    agent.service((), device.now_s)
    device.trainer_ends()
    assert agent.state.failures == 1


def test_rule_5_6_an_orphan_is_ended_before_another_begins(device, gateway) -> None:
    device.samples()
    agent = device.join(gateway)
    agent.work.prepare(V1)
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert Jobs(agent._database).take_lease(agent.work.job(), Lease.of(orphan.pid))
        device.stop()
        device.start()
        assert orphan.poll() == -9
    finally:
        orphan.kill()
        orphan.wait()


def test_rule_5_6_two_agents_on_one_folder_are_refused(device) -> None:
    device.start()
    with pytest.raises(AlreadyRunning):
        Device(device.folder.path, device.broker).start()


def test_the_light_agent_loads_neither_numpy_nor_a_runtime(device) -> None:
    code = (
        "import sys; import fedclient.client.agent, fedclient.daemon, fedclient.cli.run;"
        "print([name for name in ('numpy', 'tflite_runtime', 'ai_edge_litert') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- heads --------------------------------------------------------------------------------------------
def test_rule_5_5_a_job_finishes_within_the_bound_and_is_dropped_beyond_it(device, gateway) -> None:
    wide = replace(PLAN, epochs=100, max_staleness=1)
    device.samples()
    agent = device.join(gateway)
    gateway.publish(V1, wide)
    device.turn()
    child, job = agent.work.child, agent.work.job()
    child._process.send_signal(signal.SIGSTOP)  # it takes as long as the test wants
    gateway.publish(V2, wide)
    device.turn()
    assert agent.work.child is child
    assert not agent.state.dropping
    assert agent.state.current == V2
    gateway.publish(V3, wide)
    device.turn()
    assert agent.state.dropping
    assert child.asked
    child._process.send_signal(signal.SIGCONT)
    device.trainer_ends()
    assert agent.work.child is not child
    assert agent.work.job().head_version == V3  # the scheduler was asked anew, and said yes
    assert gateway.envelopes() == []
    assert agent._database.one("SELECT count(*) FROM residual") == (0,)
    assert Jobs(agent._database).checkpoint(job) is None


def test_rule_6_the_floor_never_falls(device, gateway) -> None:
    agent = device.join(gateway)
    gateway.publish(V2)
    device.turn()
    assert agent.state.floor == agent.state.current == V2
    for old in (V1, HeadVersion(0, 9)):
        gateway.publish(old)
        device.turn()
        assert agent.state.floor == agent.state.current == V2
    device.stop()
    agent = device.start()
    device.turn()
    assert agent.state.floor == V2
    gateway.publish(V3)
    device.turn()
    assert agent.state.current == V3


def test_rule_6_heads_below_the_invitations_floor_are_not_taken(device, gateway) -> None:
    gateway.publish(V1)
    request = device.invite(gateway, floor=V2)
    agent = device.start()
    device.turn()
    gateway.answer(device.id, request, ReceiptStatus.ENROLLED)
    device.turn()
    assert agent.state.current is None
    gateway.publish(V2)
    device.turn()
    assert agent.state.current == V2  # the floor itself is fresh enough


def test_rule_6_poisoned_chunks_are_backed_off_from_and_reported(device, gateway, caplog) -> None:
    agent = device.join(gateway)
    manifest = gateway.publish(V1, blobs=False)
    for ref in (manifest.model, manifest.full):
        for number in range(3):
            gateway.transport.publish(TOPICS.blob(ref.hash, number), b"poison", retain=True)
    device.turn()
    assert "bad copies" in caplog.text
    assert agent.state.phase is Phase.FETCHING
    before = agent._link.transport.sent_bytes
    device.turn(10.0)
    assert agent._link.transport.sent_bytes - before <= 400  # perhaps a status, no new attempt
    gateway.publish_blobs(V1)
    device.turn(agent._config.broker.retry_max_s)
    assert agent.state.current == V1


def test_rule_6_a_fetch_goes_on_after_a_reconnect(device, gateway, broker) -> None:
    agent = device.join(gateway)
    gateway.publish(V1, blobs=False)
    gateway.publish_blob(gateway.model)
    device.turn()
    assert agent.state.phase is Phase.FETCHING
    broker.stop()
    broker.start()
    device.turn()
    gateway.connect()
    gateway.publish(V1)  # 4.7: again on every connect
    device.turn(400.0)
    assert agent.state.current == V1


def test_a_fetch_waits_when_conditions_fail_in_the_middle_of_it(device, gateway, caplog) -> None:
    """A link may become a metered one, and a supply sag, long after a large model was begun with."""
    caplog.set_level(logging.INFO)
    agent = device.join(gateway)
    conditions = agent.work.conditions
    gateway.publish(V1, blobs=False)
    device.turn()
    assert agent.state.phase is Phase.FETCHING
    good = conditions.policy
    conditions.policy = replace(good, min_free_disk_mib=2.0**40)
    device.turn(2.0)
    received = conditions.spent()["traffic_bytes"]
    gateway.publish_blob(gateway.model)  # the first of two
    device.turn()
    assert "head 1.1 is not fetched now: free disk space" in caplog.text
    assert conditions.spent()["traffic_bytes"] >= received + len(gateway.model), "what came was paid for"
    gateway.publish(V1)
    device.turn(good.poll_s + 1.0)
    assert agent.state.phase is Phase.FETCHING
    conditions.policy = good
    device.turn(good.poll_s + 1.0)
    assert agent.state.current == V1


def test_rule_8_a_model_that_is_not_allowed_is_not_fetched(device, gateway, caplog) -> None:
    device.config = replace(device.config, privacy=PrivacySettings(allowed_models=("0" * 64,)))
    agent = device.join(gateway)
    gateway.publish(V1)
    device.turn()
    assert agent.state.current is agent.state.wanted is None
    assert "allowed_models" in caplog.text
    (note,) = answer(agent, {"ask": "status"}, device.now_s)["notes"]
    assert re.fullmatch(r"head 1\.1 is not taken: model \w+ is not in \[privacy\] allowed_models", note)
    device.stop()
    own = split(gateway.model).ref.hash.hex()
    device.config = replace(device.config, privacy=PrivacySettings(allowed_models=(own,)))
    agent = device.start()
    device.turn()
    assert agent.state.current == V1
    assert not answer(agent, {"ask": "status"}, device.now_s)["notes"]


def test_a_damaged_head_is_fetched_again_at_the_start(device, gateway) -> None:
    agent = device.join(gateway)
    manifest = gateway.publish(V1)
    device.turn()
    device.stop()
    for path in device.folder.blobs.iterdir():
        path.unlink()
    agent = device.start()
    device.turn()
    assert agent.state.current == V1
    assert Blobs(device.folder.blobs).has(manifest.head)
    assert load_model(device.folder.path).version == V1


def test_a_head_that_cannot_be_trained_is_given_up_for_good(device, gateway) -> None:
    agent = device.join(gateway)
    good = gateway.publish(V1)
    device.turn()
    device.samples()
    gateway.model = b"no model at all"
    gateway.publish_blob(gateway.model)
    gateway.announce(replace(good, head_version=V2, model=split(gateway.model).ref))
    device.turn()
    device.trainer_ends()
    assert agent.state.done == agent.state.unfit == V2
    assert Slots(device.folder.current).is_active(good)
    device.stop()
    agent = device.start()
    device.turn()
    device.turn(4000.0)
    assert agent.state.phase is Phase.IDLE
    assert Slots(device.folder.current).is_active(good)  # a restart does not bring the bad one back


# --- privacy, status, gates ---------------------------------------------------------------------------
def test_rule_8_fewer_than_min_samples_never_starts_a_trainer(device, gateway) -> None:
    device.samples(31)
    agent = device.join(gateway)
    gateway.publish(V1)
    device.turn()
    for _ in range(5):
        device.turn(100.0)
    assert agent.work.child is None
    assert agent.state.phase is Phase.WAITING
    assert agent.work.closed_gates
    assert "32" in agent.work.why_not


def test_rule_8_a_status_tells_state_and_gate_names(device, gateway) -> None:
    agent = device.join(gateway)
    gateway.publish(V1)
    device.turn()
    device.turn(STATUS_INTERVAL_S)
    envelopes = gateway.envelopes(MessageType.STATUS)
    statuses = [gateway.uplink.open_status(one, (device.id, device.key.public)) for one in envelopes]
    last = statuses[-1]
    assert (last.phase, last.floor) == (Phase.WAITING, V1)
    assert set(last.closed_gates) == set(agent.work.closed_gates) != set()
    places = [(status.start, status.sequence) for status in statuses]
    assert places == sorted(set(places))


def test_an_idle_agent_sleeps(device, gateway) -> None:
    agent = device.join(gateway)
    device.turn(1.0)
    wakes, until_s = 0, device.now_s + 600.0
    while (deadline_s := agent.deadline_s()) is not None and deadline_s < until_s:
        device.now_s = deadline_s
        device.turn()
        wakes += 1
    assert wakes <= 40  # at most four a minute


def test_no_connection_is_tried_again_ever_more_rarely(device, gateway, broker) -> None:
    device.invite(gateway)
    broker.stop()
    agent = device.start()
    device.turn()
    assert "stopped" in agent.down_reason
    pauses = []
    for _ in range(8):
        at_s = agent._timers._due_s[Timer.CONNECT]
        pauses.append(at_s - device.now_s)
        device.now_s = at_s
        device.turn()
    assert pauses[-1] > 10 * pauses[0]
    broker.start()
    device.turn(400.0)
    assert agent.down_reason is None


def test_a_connection_that_never_lasts_is_tried_ever_more_rarely_too(device, gateway, broker) -> None:
    """Two devices with one key, or a retained message too large: each connection begins well."""
    agent = device.join(gateway)
    pauses = []
    for _ in range(8):
        broker.part(device.id)
        device.turn()
        broker.heal(device.id)
        pauses.append(agent._timers._due_s[Timer.CONNECT] - device.now_s)
        device.now_s += pauses[-1]
        device.turn()
        assert agent.down_reason is None
    assert pauses[-1] > 10 * pauses[0]
    device.turn(400.0)  # this one lasts
    broker.part(device.id)
    device.turn()
    assert agent._timers._due_s[Timer.CONNECT] - device.now_s <= pauses[0] * 2


# --- disks that fail ----------------------------------------------------------------------------------
def test_a_full_disk_is_waited_for_and_nothing_is_lost(device, gateway, monkeypatch) -> None:
    envelope = trained(device, gateway)
    agent = device.agent
    gateway.answer(device.id, envelope, COUNTED)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StorageFull("the disk is full")

        patch.setattr(agent._ledger, "commit", full)
        device.turn()
        assert agent.disk_reason == "the disk is full"
        assert agent.state.unsettled == 1
    device.turn(120.0)
    assert gateway.envelopes().count(envelope) >= 2  # offered again: the receipt was lost
    gateway.answer(device.id, envelope, COUNTED)
    device.turn()
    assert agent.state.unsettled is None
    assert agent.disk_reason is None


def test_a_damaged_update_is_given_up_and_the_agent_goes_on(device, gateway) -> None:
    trained(device, gateway)
    agent = device.agent
    agent._database.execute("UPDATE outbox SET envelope = CAST('x' AS BLOB)")
    device.turn(400.0)  # an offer is due; then the database is taken up again
    device.turn(120.0)
    assert agent.state.unsettled is None
    assert agent._ledger.journal.counter("damaged_updates") == 1
    assert trained(device, gateway, V2)


def test_a_damaged_checkpoint_or_database_row_never_becomes_a_crash_loop(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, RETURNED, reason=Reason.LATE)
    device.turn()
    device.agent._database.execute("UPDATE outbox SET body = CAST('x' AS BLOB)")
    second = trained(device, gateway, V2)
    assert gateway.open(device, second).counter == 2


def test_a_receipt_may_ask_for_a_rest_which_each_device_draws_for_itself(device, gateway) -> None:
    envelope = trained(device, gateway)
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED, retry_window_s=(100, 200))
    device.samples(seed=2)
    gateway.publish(V2)
    device.turn()
    assert device.agent.work.closed_gates == ("pace",)
    device.stop()
    agent = device.start()  # the drawn moment is kept
    device.turn(99.0)
    assert agent.work.closed_gates == ("pace",)
    device.turn(101.0)
    device.turn(5.0)
    assert agent.state.phase is Phase.TRAINING


def test_a_command_of_the_gateway_pauses_a_training(device, gateway) -> None:
    device.samples()
    gateway.publish(V1)
    agent = device.join(gateway)
    assert agent.state.phase is Phase.TRAINING
    command = Command(sequence=1, kind=CommandKind.PAUSE)
    gateway.transport.publish(
        TOPICS.command(device.id), gateway.downlink.command(device.id, command), retain=True
    )
    device.turn()
    device.trainer_ends()
    assert (agent.state.phase, agent.work.closed_gates) == (Phase.WAITING, ("paused",))


def test_another_gateway_does_not_inherit_the_pause_of_the_old_one(device, gateway, broker) -> None:
    device.samples()
    agent = device.join(gateway)
    agent.work.obey(Command(sequence=9, kind=CommandKind.PAUSE), device.now_s)
    other = MiniGateway(broker, seed=b"h")
    other.publish(V1)
    device.stop()
    with closing(sqlite3.connect(device.folder.database)) as database, database:
        database.execute("UPDATE session SET state = ''")  # it forgot that it was enrolled
    agent = device.join(other)
    assert agent.work.obey(Command(sequence=1, kind=CommandKind.RESUME), device.now_s)
    assert "paused" not in agent.judge().closed


def test_after_a_power_cut_devices_do_not_connect_all_at_once(device, gateway) -> None:
    device.join(gateway)
    device.stop()
    device.now_s = 20.0  # just booted
    agent = device.start()
    device.turn()
    assert not agent._link.connected
    device.turn(module.SPREAD_S)
    assert agent._link.connected
    device.stop()
    device.now_s = 2 * module.JUST_BOOTED_S
    agent = device.start()
    device.turn()
    assert agent._link.connected, "a restart of the agent alone is no reason to wait"


def test_what_a_link_has_cost_is_remembered_when_the_agent_ends(device, gateway) -> None:
    """Else one that is started again and again sends for nothing."""
    agent = device.join(gateway)
    sent = agent._link.traffic_bytes
    assert sent > 0
    device.stop()
    with closing(open_database(device.folder)) as database:
        history, mark = schedule.load(database)
    assert history.spent_at(mark.elapsed_s).traffic_bytes >= sent
