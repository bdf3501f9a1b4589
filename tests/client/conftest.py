from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient.transport.memory import MemoryBroker
from tests.client.harness import Device, MiniGateway


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def gateway(broker: MemoryBroker) -> MiniGateway:
    return MiniGateway(broker)


@pytest.fixture
def device(tmp_path: Path, broker: MemoryBroker) -> Iterator[Device]:
    made = Device(tmp_path / "device", broker)
    yield made
    made.stop()
