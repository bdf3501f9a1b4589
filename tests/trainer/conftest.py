from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.setup import Bench, bench


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Bench]:
    made = bench(tmp_path / "device")
    yield made
    made.close()
