"""What every test may use: the shared reference data, the brokers, and --thorough."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fedclient.testing.broker import EmbeddedBroker, Mosquitto, find_mosquitto

ROOT = Path(__file__).parent.parent
os.environ.pop(
    "COLUMNS", None
)  # several processes of pytest share a terminal's width; commands are told theirs
SHARED = Path(os.environ.get("FEDCLIENT_SHARED", ROOT.parent / "shared"))


hypothesis.settings.register_profile("fedclient", deadline=None)  # a time never decides a test
hypothesis.settings.load_profile("fedclient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the long sweeps too")


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--thorough"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference data, models and vectors that are not part of this repository."""
    if not (SHARED / "DESIGN.md").exists():
        pytest.skip(f"LEFT OUT: no reference data at {SHARED} (set FEDCLIENT_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """Path of the real broker."""
    found = find_mosquitto()
    if not found:
        pytest.skip("LEFT OUT: mosquitto is not installed (apt-get install mosquitto)")
    return found


@pytest.fixture(scope="session")
def amqtt() -> None:
    """What the embedded broker needs; the environment of the oldest versions does without it."""
    pytest.importorskip("amqtt", reason="LEFT OUT: amqtt is not installed (pip install 'fedclient[test]')")


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def broker(request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker | Mosquitto]:
    """Start each broker in its turn."""
    if request.param == "embedded":
        request.getfixturevalue("amqtt")
        made: EmbeddedBroker | Mosquitto = EmbeddedBroker()
    else:
        made = Mosquitto(request.getfixturevalue("mosquitto"))
    with made:
        yield made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        mark = pytest.mark.skip(reason="LEFT OUT: a longer sweep, run with --thorough")
        for item in items:
            if "thorough" in item.keywords:
                item.add_marker(mark)


@pytest.fixture(autouse=True)
def _logging_as_before():
    """A command sets logging up for its process: here the next test is in the same one."""
    root, ours = logging.getLogger(), logging.getLogger("fedclient")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, ours), levels, strict=True):
        logger.setLevel(level)
