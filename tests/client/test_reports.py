"""Statuses: names only, in an order no clock decides (PROTOCOL 8)."""

from __future__ import annotations

from dataclasses import replace

from fedclient.client.reports import Reports
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.device.judgement import Told
from fedclient.session import Enrolment, State
from fedclient.transport.memory import MemoryTransport
from fedclient.values import Judgement, Phase, Verdict
from fedclient.wire import cbor
from fedclient.wire.messages import encode_status
from tests.client.harness import V2


def test_rule_8_a_status_has_state_and_gate_names_and_no_values(device) -> None:
    journal = Journal(open_database(device.folder))
    reports = Reports(journal)
    reports.begin()
    state = State(enrolment=Enrolment.DONE, floor=V2, current=V2, unsettled=7)
    status = reports.status(state, ("power", "load"))
    assert (status.phase, status.closed_gates, status.floor) == (Phase.SENDING, ("power", "load"), V2)
    start, sequence, phase, gates, *floor, software, judgement = cbor.decode(
        encode_status(status), max_bytes=500
    )
    assert (phase, gates, floor) == ("sending", ["power", "load"], [1, 2])
    assert (start, sequence) == (1, 1)
    assert software.startswith("fedclient ")
    assert judgement is None


def test_rule_8_a_status_has_the_last_verdict_and_not_what_it_rests_on(device) -> None:
    reports = Reports(Journal(open_database(device.folder)))
    judgement = Judgement(head_version=V2, verdict=Verdict.KEPT_PREVIOUS)
    told = Told(judgement=judgement, why="accuracy 0.1", report={"accuracy": 0.1})
    status = reports.status(State(enrolment=Enrolment.DONE), (), told)
    assert status.judgement == judgement
    assert b"0.1" not in encode_status(replace(status, software=""))


def test_rule_8_statuses_are_ordered_by_start_and_sequence(device) -> None:
    journal = Journal(open_database(device.folder))
    order = []
    for _ in range(3):
        reports = Reports(journal)
        reports.begin()
        order += [reports.status(State(), ()) for _ in range(2)]
    places = [(status.start, status.sequence) for status in order]
    assert places == sorted(places)
    assert len(set(places)) == 6


def test_bytes_are_counted_once_over_several_links(device, gateway, broker) -> None:
    from fedclient.client.link import Link  # noqa: PLC0415

    device.invite(gateway)
    stored = enrolment.load(device.folder.enrolment)
    assert stored is not None
    journal = Journal(open_database(device.folder))
    reports = Reports(journal)
    reports.count_traffic(None)
    total = 0
    for _ in range(2):
        link = Link(stored.invitation, device.key, MemoryTransport(broker, device.id))
        reports.new_link()
        for _ in range(2):
            link.transport.connect(0.0)
            reports.count_traffic(link)
            reports.count_traffic(link)
        total += link.transport.sent_bytes
    assert journal.counter("bytes_up") == total
