"""What the agent tells about itself: statuses to the gateway, byte counts to the owner."""

from __future__ import annotations

from fedclient import __version__
from fedclient.client.link import Link
from fedclient.device.journal import Journal
from fedclient.device.judgement import Told
from fedclient.session import State
from fedclient.values import Status


class Reports:
    """Numbers statuses, and counts a link's bytes into the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._start = 0
        self._sequence = 0
        self._counted = (0, 0)  # bytes of this link that are in the journal already

    def begin(self) -> None:
        """Count a start of the agent: statuses of an earlier one are older, whatever any clock says."""
        self._start = self._journal.add("starts")

    def new_link(self) -> None:
        self._counted = (0, 0)

    def status(self, state: State, closed_gates: tuple[str, ...], told: Told | None = None) -> Status:
        """Return the next status: state, gate names and the last verdict, never values (PROTOCOL 8)."""
        self._sequence += 1
        return Status(
            start=self._start,
            sequence=self._sequence,
            phase=state.phase,
            closed_gates=closed_gates,
            floor=state.floor,
            software=f"fedclient {__version__}",
            judgement=None if told is None else told.judgement,
        )

    def count_traffic(self, link: Link | None) -> None:
        """Add what was sent and received since the last call; inside the caller's transaction."""
        if link is None:
            return
        sent, received = link.transport.sent_bytes, link.transport.received_bytes
        self._journal.add("bytes_up", sent - self._counted[0])
        self._journal.add("bytes_down", received - self._counted[1])
        self._counted = (sent, received)
