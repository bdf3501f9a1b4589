"""What a job costs: time for the backbone and for the head apart, and memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from fedclient.training.dataset import Features
from fedclient.training.loop import HeadTraining
from fedclient.training.process import pss_mib


@dataclass(kw_only=True)
class Spent:
    """Sums over one job; `backbone` and `head` over all trainers that worked on it, by its checkpoints.

    The backbone runs once for each sample, whatever the number of epochs and of jobs: what was
    cached before this job is none of its cost.  `head_seconds` has the evaluation after each epoch in it.
    """

    backbone_seconds: float = 0.0
    backbone_samples: int = 0
    head_seconds: float = 0.0
    peak_pss_mib: float = 0.0  # of this process
    started: float = field(default_factory=time.monotonic)

    def measure(self) -> None:
        """Look at this process's memory."""
        self.peak_pss_mib = max(self.peak_pss_mib, pss_mib())

    def add_backbone(self, rows: Features) -> None:
        self.backbone_seconds += rows.seconds
        self.backbone_samples += rows.computed

    def add_head(self, training: HeadTraining) -> None:
        self.head_seconds += sum(epoch.seconds for epoch in training.reports)

    @property
    def seconds(self) -> float:
        """Since this process began with the job."""
        return time.monotonic() - self.started

    def as_dict(self) -> dict[str, float]:
        """For history."""
        found: dict[str, float] = asdict(self)
        del found["started"]
        return {**found, "seconds": self.seconds}
