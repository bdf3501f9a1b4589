"""The package as boards get it: complete, small, compiled for them, installed by mip, started by main.py."""

from __future__ import annotations

import ast
import itertools
import json
import random
import ssl
import struct
import subprocess
from pathlib import Path

import pytest

from fedclient.nodes import head as heads
from fedclient.nodes.messages import NodeHead, NodeHeadVersion, NodeLayer, encode_head
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from tests.micropython.conftest import HEAP, PACKAGE, environment, run_program
from tests.micropython.receiving import NODE, device
from tests.nodes import golden
from tests.transport.test_mqtt_security import pki, tls_lines  # noqa: F401  a fixture

MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.name != "main.py")
BOARDS = Path(__file__).parent / "boards"


@pytest.mark.parametrize("path", [*MODULES, PACKAGE / "main.py"], ids=lambda path: path.name)
def test_nothing_of_cpython_s_fedclient_is_imported(path: Path) -> None:
    boards = {"array", "esp32", "fednode", "gc", "hashlib", "json", "machine", "network", "ntptime", "os"}
    boards |= {"micropython", "rp2", "select", "socket", "struct", "time", "tls"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= boards
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            assert node.module.split(".")[0] in boards


@pytest.mark.parametrize("march", ["armv6m", "xtensawin"])
def test_every_file_compiles_for_boards(mpy_cross: str, march: str, tmp_path: Path) -> None:
    sizes = {}
    for path in [*MODULES, PACKAGE / "main.py"]:
        made = tmp_path / f"{path.stem}.mpy"
        subprocess.run([mpy_cross, f"-march={march}", "-O2", "-o", made, path], check=True)
        sizes[path.name] = made.stat().st_size
    print(march, sizes, sum(sizes.values()))
    assert 0 < sum(sizes.values()) < 20_000


def first_lines(micropython: str, flash: Path, board: str, told: dict[str, object], lines: int) -> list[str]:
    """Run main.py as a board would, with time made shorter; the modules in boards/ stand in for its own."""
    source = (PACKAGE / "main.py").read_text()
    assert "EVERY_MS = 250" in source
    (flash / "main.py").write_text(source.replace("EVERY_MS = 250", "EVERY_MS = 5"))
    (flash / "wifi.json").write_text(json.dumps({"name": "home", "password": "secret"}))
    settings = {"format": 1, "federation": "local", "node": NODE.name, "generation": NODE.generation}
    settings |= {"secret": NODE.secret.hex(), "host": "127.0.0.1", "tls": False} | told
    (flash / "node.json").write_text(json.dumps(settings))
    with subprocess.Popen(
        [micropython, "-X", f"heapsize={HEAP}", "main.py"],
        cwd=flash,
        env=environment(BOARDS / board),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
    return said


@pytest.fixture
def flash(tmp_path: Path) -> Path:
    made = tmp_path / "flash"
    made.mkdir()
    return made


@pytest.mark.parametrize(("board", "degrees", "label"), [("pico", 27, "touched"), ("esp32", 55, "free")])
def test_main_runs_on_a_board_s_modules(
    micropython: str, mosquitto: str, tmp_path: Path, flash: Path, board: str, degrees: int, label: str
) -> None:
    with Mosquitto(mosquitto) as broker, device(broker.port, tmp_path):
        lines = first_lines(micropython, flash, board, {"port": broker.port}, 6)
    assert lines[0].startswith(f"{degrees}.00 degrees, {label}; the head says None; 1 to send"), lines
    assert lines[-1].endswith(("; 1 to send\n", "; 2 to send\n")), "what was sent is settled"
    with SampleStore(tmp_path / "samples.db") as store:
        (first,) = store.read([1])
        assert first.label == label
        assert memoryview(first.array.data).cast("f").tolist() == pytest.approx([degrees] * 16, rel=1e-6)


@pytest.mark.parametrize(("authority", "trusted"), [("ca", True), ("other-ca", False)])
def test_main_trusts_the_authority_it_was_given_only(
    micropython: str,
    mosquitto: str,
    flash: Path,
    pki: Path,  # noqa: F811
    authority: str,
    trusted: bool,
) -> None:
    if subprocess.run([micropython, "-c", "import tls"], capture_output=True, check=False).returncode:
        pytest.skip("LEFT OUT: this MicroPython has no TLS (Debian's has)")
    pem = (pki / f"{authority}.pem").read_text()
    (flash / "ca.der").write_bytes(ssl.PEM_cert_to_DER_cert(pem))
    with Mosquitto(mosquitto, config=tls_lines(pki)) as broker:
        told = {"host": "localhost", "port": broker.port, "tls": True}
        lines = first_lines(micropython, flash, "pico", told, 4)
    assert ("Error" not in lines[-1]) == trusted, lines


def test_hostile_bytes_raise_nothing_but_what_is_caught(
    micropython: str, tmp_path: Path, thorough: bool
) -> None:
    found = run_program(micropython, tmp_path, "fuzz.py", {"count": 20_000 if thorough else 1500, "seed": 6})
    print(found)
    assert found["refused"] > found["taken"]


def test_random_heads_predict_as_on_the_device(micropython: str, tmp_path: Path, thorough: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    def a_float() -> bytes:
        return struct.pack("<f", rng.choice([rng.gauss(0, 1), rng.gauss(0, 10.0 ** rng.randint(-30, 30))]))

    asked, wanted = [], []
    for _ in range(300 if thorough else 30):
        widths = [rng.randint(1, 20) for _ in range(rng.randint(2, 4))]
        layers = tuple(
            NodeLayer(
                relu=rng.random() < 0.5,
                weights=rng.randbytes(columns * rows),
                scales=b"".join(a_float() for _ in range(rows)),
                bias=b"".join(a_float() for _ in range(rows)),
            )
            for columns, rows in itertools.pairwise(widths)
        )
        head = NodeHead(version=NodeHeadVersion(1, 1), layers=layers)
        dtype = rng.choice(["int8", "int16", "float32"])
        size = {"int8": 1, "int16": 2, "float32": 4}[dtype]
        data = b"".join(a_float() for _ in range(widths[0])) if size == 4 else rng.randbytes(size * widths[0])
        scale = None if size == 4 else struct.unpack("<f", a_float())[0]
        sample = golden.sample(1, dtype, data, scale)
        wanted.append([[str(one) for one in heads.outputs(head, sample)], heads.predict(head, sample)])
        asked.append(
            {
                "head": encode_head(head).hex(),
                "tag": {1: 72, 2: 77, 4: 85}[size],
                "data": data.hex(),
                "scale": None if scale is None else struct.pack("<f", scale).hex(),
            }
        )
    assert run_program(micropython, tmp_path, "predict.py", asked, heap="16M") == wanted
