from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.harness import Farm


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path / "gateway")
