"""Where a trainer works: the device's folder, its database, and the lease on the job in hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, JobArguments, Jobs, Lease
from fedclient.device.journal import Journal


class Superseded(Exception):
    """The job in hand is another one by now; this trainer's work is for nobody."""


class Workplace:
    """What one trainer process reads and writes; every write goes through `owned`."""

    def __init__(self, arguments: JobArguments) -> None:
        self.arguments = arguments
        self.folder = DeviceFolder(Path(arguments.state))
        self.database = open_database(self.folder)
        self.jobs = Jobs(self.database)
        self.journal = Journal(self.database)
        self._lease = Lease.of(os.getpid())

    def take_job(self) -> Job | None:
        """Return the job that this process was started for, now its own; None when it is not to be had."""
        job = self.jobs.current()
        if self._lease is None or job is None or job.token.hex() != self.arguments.token:
            return None
        with self.database.transaction():
            return job if self.jobs.take_lease(job, self._lease) else None

    @contextmanager
    def owned(self, job: Job) -> Iterator[None]:
        """Open a transaction; raises Superseded unless this process still works on the job in hand."""
        with self.database.transaction():
            if self._lease is None or not self.jobs.holds(job, self._lease):
                raise Superseded
            yield
