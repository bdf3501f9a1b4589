"""A patient's own facts, and the three verdicts."""

from __future__ import annotations

from pathlib import Path

from fedclient.cli.doctor_finding import Finding, Verdict, fail, ok, warning
from tests.cli.patients import patient


def test_commands_in_remedies_are_for_this_very_device() -> None:
    assert patient(Path("/s"), options=" --state /s").command("init") == "`fedclient --state /s init`"


def test_systemd_is_looked_for_below_the_root(tmp_path: Path) -> None:
    assert not patient(tmp_path, root=tmp_path).runs_systemd
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert patient(tmp_path, root=tmp_path).runs_systemd


def test_only_ok_has_no_remedy() -> None:
    assert ok("fine") == Finding(Verdict.OK, "fine", "")
    assert warning("so", "do") == Finding(Verdict.WARNING, "so", "do")
    assert fail("so", "do") == Finding(Verdict.FAIL, "so", "do")
