"""What a job costs, the backbone apart from the head."""

from __future__ import annotations

from types import SimpleNamespace

from fedclient.trainer.spent import Spent


def test_backbone_and_head_are_summed_apart() -> None:
    spent = Spent()
    for seconds, computed in ((1.5, 30), (0.5, 10)):
        spent.add_backbone(SimpleNamespace(seconds=seconds, computed=computed))
    spent.add_head(SimpleNamespace(reports=[SimpleNamespace(seconds=0.25), SimpleNamespace(seconds=0.5)]))
    spent.measure()
    found = spent.as_dict()
    assert found.pop("peak_pss_mib") > 1
    assert 0 <= found.pop("seconds") < 60
    assert found == {"backbone_seconds": 2.0, "backbone_samples": 40, "head_seconds": 0.75}
