"""The shape of the code base, as a test: who may import whom, and what mirrors what."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "fedclient").rglob("*.py"))

# A part may import itself and parts on lines above its own. Parts on one line do not see each other.
LAYERS = [
    {"values", "errors", "limits"},
    {"codec", "wire", "session", "scheduler", "runtime", "storage", "tomlfile"},
    {"brokers"},
    {"crypto", "transport", "config", "boards"},
    {"device", "samples"},
    {"uplink", "downlink", "training", "model", "nodes"},
    {"client", "trainer", "app", "gateway"},
    {"daemon"},
    {"testing"},
    {"cli"},
]
# Each outside library has one home; swapping it touches one place.
HOME = {
    "psutil": "scheduler/probe",
    "cbor2": "wire/cbor.py",
    "nacl": "crypto/",
    "paho": "transport/mqtt",
    "sqlite3": "storage.py",
    "tflite_runtime": "runtime/",
    "ai_edge_litert": ("runtime/", "model/"),
    "flatbuffers": "model/",
    "tensorflow": "model/keras.py",
    "amqtt": "testing/broker.py",
}
# The files (or folders) that touch the world; every other file is pure.
EDGES = (
    "config.py",
    "brokers.py",
    "boards.py",
    "tomlfile.py",
    "storage.py",
    "scheduler/probe",
    "runtime/",
    "samples/",
    "model/trial.py",  # it measures how long a step takes
    "device/",
    "training/",
    "transport/mqtt",
    "client/",
    "trainer/",
    "app.py",
    "daemon.py",
    "gateway/store.py",
    "nodes/registry.py",
    "nodes/intake.py",
    "nodes/headfile.py",
    "gateway/server.py",
    "cli/",
    "testing/",
    "crypto/keys.py",
)
WORLD = {
    "asyncio",
    "os",
    "pathlib",
    "queue",
    "random",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "fedclient").as_posix()


def part(path: Path) -> str:
    return name(path).split("/")[0].removesuffix(".py")


def layer(part_: str) -> int:
    return next((i for i, row in enumerate(LAYERS) if part_ in row), len(LAYERS))


def imported(path: Path) -> set[str]:
    """Dotted names that `path` imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_part_imports_only_parts_below_it(path: Path) -> None:
    here = part(path)
    ours = {dotted.split(".")[1] for dotted in imported(path) if dotted.startswith("fedclient.")}
    ours.discard("__version__")
    for other in ours - {here}:
        assert layer(other) < layer(here), f"{name(path)} imports {other}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_an_outside_library_is_imported_in_its_home_only(path: Path) -> None:
    for top in {dotted.split(".")[0] for dotted in imported(path)} & HOME.keys():
        assert name(path).startswith(HOME[top]), f"{name(path)} imports {top}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_pure_file_does_not_touch_the_world(path: Path) -> None:
    if not name(path).startswith(EDGES):
        assert not {dotted.split(".")[0] for dotted in imported(path)} & WORLD


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_has_a_docstring_a_bound_and_a_mirror(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400
    if path.stem not in {"__init__", "__main__"} and part(path) != "testing":
        assert (ROOT / "tests" / name(path)).with_name(f"test_{path.name}").exists()


FUNCTION_LINES = 40
PARAMETERS = 5
NAMELESS = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_functions_are_short_and_take_few_things(path: Path) -> None:
    for node in functions(path):
        length = node.end_lineno - node.body[0].lineno + 1
        assert length <= FUNCTION_LINES, f"{name(path)}: {node.name}() has {length} lines"
        arguments = [*node.args.posonlyargs, *node.args.args]
        free = [one for one in arguments if one.arg not in {"self", "cls"}]
        assert len(free) <= PARAMETERS, f"{name(path)}: {node.name}() takes {len(free)} arguments in order"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_named_after_what_is_in_it(path: Path) -> None:
    assert not set(name(path).removesuffix(".py").split("/")) & NAMELESS


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if part(path) in {"cli", "testing"} or path.stem == "__main__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "exit", "quit"}, f"{name(path)}:{node.lineno}"


def test_nothing_is_left_to_be_done_later() -> None:
    mark = "TO" + "DO|FIX" + "ME|X" + "XX"
    folders = ("fedclient", "tests", "tools", "examples", "hardware", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        if path.suffix in {".py", ".md", ".toml", ".sh", ".service", ""} and "__pycache__" not in path.parts:
            assert not re.search(rf"\b({mark})\b", path.read_text()), path


def test_the_page_has_the_same_layers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d \| (.+) \|$", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == LAYERS


def test_the_page_says_what_each_file_of_the_codec_is_for() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    block = page.split("\n## The codec\n")[1].split("```")[1]
    files = {path.stem for path in SOURCES if part(path) == "codec"} - {"__init__"}
    assert files <= set(re.findall(r"\w+", block))
