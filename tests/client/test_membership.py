"""The stored invitation, and where it leads."""

from __future__ import annotations

import pytest

from fedclient.client.membership import Membership
from fedclient.config import BrokerSettings
from fedclient.device import enrolment
from fedclient.transport.memory import MemoryTransport


@pytest.fixture
def membership(device, broker):
    def opened(where, client_id):
        assert client_id == device.id
        return MemoryTransport(broker, f"{client_id} at {where.host}")

    return Membership(device.folder, BrokerSettings(), device.key, opened)


def test_an_invitation_is_news_once(device, gateway, membership) -> None:
    assert membership.news(None) is None
    device.invite(gateway)
    stored = membership.news(None)
    assert stored == enrolment.load(device.folder.enrolment)
    assert membership.news(stored) is None


def test_one_that_cannot_be_read_is_reported_and_none(device, gateway, membership, caplog) -> None:
    device.invite(gateway)
    device.folder.enrolment.write_text("nonsense")
    assert membership.news(None) is None
    assert str(device.folder.enrolment) in caplog.text


def test_the_owners_broker_comes_before_the_invitations(device, gateway, membership) -> None:
    device.invite(gateway)
    stored = membership.news(None)
    assert membership.broker_is_local(stored)
    assert membership.link(stored).topics.manifest == "fl/v1/farm/all/manifest"
    elsewhere = Membership(device.folder, BrokerSettings(host="far.example"), device.key, lambda *_: None)
    assert not elsewhere.broker_is_local(stored)
