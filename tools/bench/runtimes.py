"""Is a head the same, whichever runtime trained it?  Prints one JSON object.

The same heads are trained on the same data in two virtual environments, which are made once in the user's
cache folder (`--folder`): tflite-runtime 2.14 with NumPy 1.26, and ai-edge-litert with NumPy 2.  Reported
is the largest difference of the trained weights, and of the tensors of the optimiser's state, relative to the
largest value of each; 0 is bit for bit.

    runtimes.py [--folder FOLDER]    both environments, compared
    runtimes.py --train FOLDER OUT   what runs in each of them: every head of FOLDER, into OUT (.npz)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fedclient import runtime  # noqa: E402 - only now can it be found
from fedclient.errors import ModelError  # noqa: E402 - ditto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.model.head import HeadOptions

FEATURES, CLASSES, ROWS, BATCH, STEPS = 1280, 26, 512, 32, 64
HYPER = {"learning_rate": 0.01, "momentum": 0.9, "l2": 0.001, "mu": 0.01}
# tflite-runtime's last wheels are for Python 3.11; which one runs is no matter for the other.
PYTHONS = ("python3.11", "python3.10")
ENVIRONMENTS = {
    "tflite-runtime": ("tflite-runtime==2.14.0", "numpy==1.26.4"),
    "ai-edge-litert": ("ai-edge-litert", "numpy>=2,<3"),
}


def measure(folder: Path | None = None) -> dict[str, Any] | None:
    """Train in both environments and compare; None where they cannot be made."""
    home = folder or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedclient" / "runtimes"
    pythons = {name: environment(home / name, packages) for name, packages in ENVIRONMENTS.items()}
    if not all(pythons.values()):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        heads = Path(scratch) / "heads"
        write_heads(heads)
        found = {}
        for name, python in pythons.items():
            out = Path(scratch) / f"{name}.npz"
            command = [str(python), __file__, "--train", str(heads), str(out)]
            versions = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = (json.loads(versions), dict(np.load(out)))
    (one, first), (two, second) = found.values()
    heads_found = {
        name: difference(first, second, name) for name in sorted({key.split(":")[0] for key in first})
    }
    worst = {kind: max(head[kind] for head in heads_found.values()) for kind in ("weights", "state")}
    return {"runtimes": {"one": one, "two": two}, "heads": heads_found, **worst}


def environment(folder: Path, packages: tuple[str, ...]) -> Path | None:
    """Return the Python of a virtual environment with `packages`, made if it is not there."""
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists() and ready.read_text() == " ".join(packages):
        return python
    base = next(filter(None, map(shutil.which, PYTHONS)), None)
    if base is None:
        print(f"no {' or '.join(PYTHONS)} here", file=sys.stderr)
        return None
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    try:
        for command in ([base, "-m", "venv", str(folder)], install):
            subprocess.run(command, check=True, stdout=sys.stderr)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"cannot make {folder}: {error}", file=sys.stderr)
        return None
    ready.write_text(" ".join(packages))
    return python


def kinds() -> dict[str, tuple[int | None, HeadOptions]]:
    """Return the heads that are compared, by name: hidden units and options."""
    from fedclient.model.head import HeadOptions, Optimizer  # noqa: PLC0415 - it writes, the children do not

    plain = {
        f"{optimizer.value} {layer}": (hidden, HeadOptions(optimizer=optimizer))
        for optimizer in Optimizer
        for layer, hidden in (("linear", None), ("hidden", 128))
    }
    everything = HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True)
    return plain | {"everything": (128, everything)}


def write_heads(folder: Path) -> None:
    """Write the heads and the data that they are trained on."""
    from fedclient.model.head import write_head  # noqa: PLC0415 - ditto

    folder.mkdir()
    for name, (hidden, options) in kinds().items():
        model = write_head(FEATURES, CLASSES, hidden, options=options)
        (folder / f"{name}.tflite").write_bytes(model)
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    centres = rng.normal(size=(CLASSES, FEATURES))
    x = np.maximum(centres[y] + rng.normal(size=(ROWS, FEATURES)), 0).astype(np.float32)  # as after a ReLU
    np.savez(folder / "data.npz", x=x, y=y)


def train(folder: Path) -> dict[str, NDArray[Any]]:
    """Train every head of `folder` on its data; return weights and state as "HEAD:TENSOR"."""
    with np.load(folder / "data.npz") as data:
        x, y = data["x"], data["y"]
    order = np.random.Generator(np.random.PCG64(1)).integers(0, len(y), (STEPS, BATCH))
    found: dict[str, NDArray[Any]] = {}
    for path in sorted(folder.glob("*.tflite")):
        model = runtime.load(path)
        hyper = {name: HYPER[name] for name in model.hyper_parameters}
        for step, rows in enumerate(order):  # with l2 and mu and without them in turn
            model.train_step(x[rows], y[rows], hyper if step % 2 else hyper | {"l2": 0.0, "mu": 0.0})
        found[f"{path.stem}:weights"] = model.get_weights()
        found |= {f"{path.stem}:{name}": value for name, value in model.get_state().items()}
    return found


def difference(one: dict[str, NDArray[Any]], two: dict[str, NDArray[Any]], head: str) -> dict[str, Any]:
    """Compare what became of one head."""
    names = [name for name in one if name.split(":")[0] == head]
    if one.keys() != two.keys():
        raise ModelError("the two runtimes returned other tensors")
    relative = {
        name: float(np.abs(one[name] - two[name]).max() / max(np.abs(one[name]).max(), 1e-30))
        for name in names
    }
    same = all(one[name].tobytes() == two[name].tobytes() for name in names)
    weights = relative.pop(f"{head}:weights")
    return {"weights": weights, "state": max(relative.values()), "bit_for_bit": same}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="of the two environments")
    parser.add_argument("--train", nargs=2, type=Path, metavar=("FOLDER", "OUT"))
    options = parser.parse_args()
    if options.train:
        folder, out = options.train
        np.savez(out, **train(folder))
        print(json.dumps({"runtime": runtime.RUNTIME_NAME, "numpy": np.__version__}))
    else:
        print(json.dumps(measure(options.folder), indent=2))


if __name__ == "__main__":
    main()
