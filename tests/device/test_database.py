"""One schema for what must change together; a damaged one is put aside, a newer one refused."""

from __future__ import annotations

import pytest

from fedclient.device.database import MIGRATIONS, open_database
from fedclient.device.journal import Journal
from fedclient.errors import NewerSchema
from fedclient.session import Enrolment, State


def test_rule_5_6_a_newer_schema_is_refused_in_one_line(folder) -> None:
    database = open_database(folder)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(NewerSchema) as caught:
        open_database(folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.path.glob("*damaged*"))


def test_rule_7_a_damaged_database_is_put_aside_and_the_identity_stays(folder) -> None:
    database = open_database(folder)
    Journal(database).save_state(State(enrolment=Enrolment.DONE))
    database.close()
    key = folder.key.read_bytes()
    folder.database.write_bytes(b"not a database, for sure" * 100)
    opened = open_database(folder)
    assert Journal(opened).load_state() == State()
    opened.close()
    assert folder.key.read_bytes() == key
    assert list(folder.path.glob("device.db.damaged-*"))


def test_rule_5_6_only_the_owner_reads_it(folder, database) -> None:
    assert folder.database.stat().st_mode & 0o777 == 0o600
