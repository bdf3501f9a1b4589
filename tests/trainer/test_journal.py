"""Lines of the trainer in the journal: it writes to the agent's standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from fedclient.trainer.dry_run import DryRunArguments

ARGUMENTS = DryRunArguments(
    parent=os.getpid(), model="/nowhere.tflite", data="/nowhere.npz", epochs=1, batch_size=16,
    learning_rate=0.1, holdout=0.0, seed=0, codec="topk_int8", density=0.1, min_per_class=1, threads=1,
    nice=0, idle=False, memory_mib=None,
)  # fmt: skip


@pytest.mark.parametrize(("journal", "begins"), [(True, "<3>trainer: "), (False, "trainer: ")])
def test_its_lines_have_a_priority_in_the_journal_only(tmp_path, journal, begins) -> None:
    with (tmp_path / "stderr").open("wb") as log:
        found = os.fstat(log.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + (not journal)}"}
        arguments = json.dumps({**asdict(ARGUMENTS), "parent": os.getpid()})
        subprocess.run(
            [sys.executable, "-m", "fedclient.trainer", "dry-run", arguments],
            stderr=log, stdout=subprocess.DEVNULL, env=environment, timeout=60, check=False,
        )  # fmt: skip
    assert (tmp_path / "stderr").read_text().startswith(begins)
