"""The invitation this device holds, and the link to the gateway that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fedclient.brokers import BrokerSettings
from fedclient.client.conditions import is_local
from fedclient.client.link import Link
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.enrolment import StoredEnrolment
from fedclient.device.folder import DeviceFolder
from fedclient.errors import FedClientError
from fedclient.transport.base import Transport
from fedclient.values import Broker

log = logging.getLogger(__name__)

OpenTransport = Callable[[Broker, str], Transport]


class Membership:
    """What `fedclient enroll` stored; `open_transport(broker, client id)` gives the way to the broker."""

    def __init__(
        self,
        folder: DeviceFolder,
        settings: BrokerSettings,
        key: SigningKey,
        open_transport: OpenTransport,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._key = key
        self._open_transport = open_transport

    def news(self, known: StoredEnrolment | None) -> StoredEnrolment | None:
        """Return the stored invitation unless it is the `known` one."""
        try:
            stored = enrolment.load(self._folder.enrolment)
        except FedClientError as error:
            log.error("%s", error)
            return None
        if stored is None or (known is not None and stored.request == known.request):
            return None
        return stored

    def link(self, stored: StoredEnrolment) -> Link:
        """Return a link that is not connected yet; raises ConfigError."""
        transport = self._open_transport(self._broker(stored), self._key.device_id)
        return Link(stored.invitation, self._key, transport)

    def broker_is_local(self, stored: StoredEnrolment) -> bool:
        """Whether no network is needed to reach it."""
        return is_local(self._broker(stored).host)

    def _broker(self, stored: StoredEnrolment) -> Broker:
        return self._settings.resolve(stored.invitation.broker)
