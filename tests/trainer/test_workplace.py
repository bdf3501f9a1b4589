"""Who may work on a job, and that nobody else writes."""

from __future__ import annotations

import pytest

from fedclient.trainer.workplace import Superseded, Workplace
from fedclient.values import HeadVersion

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)


def test_the_job_is_taken_by_its_token_only(device) -> None:
    device.publish(V1)
    job = device.jobs.new(V1, threads=1)
    arguments = device.arguments(job)
    assert Workplace(arguments).take_job() == job
    assert Workplace(device.arguments(job, token="00" * 16)).take_job() is None
    device.jobs.drop()
    assert Workplace(arguments).take_job() is None


def test_rule_5_2_what_is_written_for_another_job_is_undone(device) -> None:
    device.publish(V1)
    job = device.jobs.new(V1, threads=1)
    place = Workplace(device.arguments(job))
    with pytest.raises(Superseded), place.owned(job):  # no lease yet
        pass
    assert place.take_job() == job
    with place.owned(job):
        place.journal.add("updates")
    device.jobs.new(V2, threads=1)
    with pytest.raises(Superseded), place.owned(job):
        place.journal.add("updates")
    assert device.journal.counter("updates") == 1
