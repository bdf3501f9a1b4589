"""A head out of deltas or out of its whole encoding: the bytes that the manifest names, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.device import folder as folders
from fedclient.device.assembly import AssembleArguments, named
from fedclient.device.blobs import Blobs
from fedclient.device.jobs import TrainerExit
from fedclient.errors import StorageDamaged, StorageFull
from fedclient.trainer import assemble
from fedclient.values import BlobRef, TensorSpec
from fedclient.wire.blobs import split
from fedclient.wire.topics import blob_name

TENSORS = (TensorSpec(name="bias", shape=(3,)), TensorSpec(name="kernel", shape=(8, 3)))
SIZE = 27
LISTS_ITS_MODULES = """
import json, sys
from fedclient.trainer.__main__ import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def head(seed: int) -> np.ndarray:
    """One of a series of heads, the next never far from the one before."""
    steps = np.random.default_rng(7).integers(-9, 9, size=(seed + 1, SIZE)).sum(axis=0)
    return (steps / 256).astype("<f4")


@dataclass
class Case:
    """Blobs in a folder, and what leads to head 3."""

    path: Path
    blobs: Blobs
    arguments: AssembleArguments

    def put(self, data: bytes) -> BlobRef:
        ref = split(data).ref
        self.blobs.put(ref, data)
        return ref

    def file(self, data: bytes) -> Path:
        return self.path / "blobs" / blob_name(split(data).ref.hash)

    def names(self) -> set[str]:
        return {path.name for path in (self.path / "blobs").iterdir()}


@pytest.fixture
def case(tmp_path) -> Case:
    blobs = Blobs(folders.create(tmp_path / "device").blobs)
    arguments = AssembleArguments(
        parent=os.getpid(),
        blobs=str(tmp_path / "device" / "blobs"),
        head=named(split(head(3).tobytes()).ref),
        base=None,
        steps=(),
        tensors=tuple((one.name, one.shape) for one in TENSORS),
        nice=0,
        idle=False,
        memory_mib=None,
        verbose=False,
    )
    return Case(tmp_path / "device", blobs, arguments)


def on_deltas(case: Case, begun: int = 0, **changed: object) -> AssembleArguments:
    base = case.put(head(begun).tobytes())
    deltas = [codec.delta_blob(head(at), head(at + 1), TENSORS) for at in range(begun, 3)]
    steps = tuple(named(case.put(delta)) for delta in deltas)
    return replace(case.arguments, base=named(base), steps=steps, **changed)


def on_whole(case: Case) -> AssembleArguments:
    return replace(case.arguments, steps=(named(case.put(codec.head_blob(head(3), TENSORS))),))


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_deltas_and_the_whole_head_lead_to_the_same_bytes(case, begun) -> None:
    for arguments in (on_deltas(case, begun), on_whole(case)):
        assert assemble.run(arguments) == TrainerExit.DONE
        assert case.file(head(3).tobytes()).read_bytes() == head(3).tobytes()
        case.file(head(3).tobytes()).unlink()


def lacks_a_delta(case: Case) -> AssembleArguments:
    arguments = on_deltas(case)
    return replace(arguments, steps=arguments.steps[1:])


def in_another_order(case: Case) -> AssembleArguments:
    return replace(on_deltas(case), head=named(split(head(2).tobytes()).ref))


def no_delta(case: Case) -> AssembleArguments:
    return replace(on_deltas(case), steps=(named(case.put(b"\xff" * 40)),))


def no_head(case: Case) -> AssembleArguments:
    return replace(on_whole(case), steps=(named(case.put(b"\xff" * 40)),))


def of_other_tensors(case: Case) -> AssembleArguments:
    return replace(on_whole(case), tensors=(("kernel", (1, 30)),))


@pytest.mark.parametrize("wrong", [lacks_a_delta, in_another_order, no_delta, no_head, of_other_tensors])
def test_a_route_that_leads_elsewhere_leaves_nothing(case, wrong, caplog) -> None:
    arguments = wrong(case)
    before = case.names()
    assert assemble.run(arguments) == TrainerExit.ASTRAY
    assert case.names() == before
    assert "does not lead to head" in caplog.text


@pytest.mark.parametrize("which", ["base", "delta"])
@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_a_blob_that_is_not_here_as_it_was_fetched_is_said_to_be_lost(case, which, how) -> None:
    arguments = on_deltas(case)
    data = head(0).tobytes() if which == "base" else codec.delta_blob(head(1), head(2), TENSORS)
    if how == "gone":
        case.file(data).unlink()
    else:
        case.file(data).write_bytes(bytes(len(data)))
    with pytest.raises(StorageDamaged):
        assemble.run(arguments)
    assert not case.file(data).exists(), "it is fetched again"


def test_a_full_disk_leaves_nothing(case, monkeypatch) -> None:
    arguments = on_deltas(case)
    before = case.names()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        assemble.run(arguments)
    assert case.names() == before


def test_a_head_beyond_its_memory_is_a_failure_with_one_line(case, monkeypatch, caplog) -> None:
    def beyond(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(codec, "head_after", beyond)
    assert assemble.run(on_deltas(case, memory_mib=9)) == TrainerExit.CRASHED
    assert [record.getMessage() for record in caplog.records] == ["the head does not fit into 9 MiB"]


def test_the_child_loads_no_runtime_and_opens_no_database(case) -> None:
    arguments = on_deltas(case, memory_mib=64, idle=True, nice=19)
    done = subprocess.run(
        [sys.executable, "-c", LISTS_ITS_MODULES, "assemble", json.dumps(asdict(arguments))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    modules = set(json.loads(done.stdout))
    assert "numpy" in modules
    assert not modules & {
        "fedclient.runtime",
        "tflite_runtime",
        "ai_edge_litert",
        "fedclient.samples.store",
        "nacl",
    }
    assert case.file(head(3).tobytes()).read_bytes() == head(3).tobytes()
    assert not (case.path / "device.db").exists()


def test_the_child_says_in_one_line_and_by_its_exit_code_what_is_wrong(case) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedclient.trainer", "assemble", json.dumps(asdict(lacks_a_delta(case)))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == TrainerExit.ASTRAY
    assert len(done.stderr.splitlines()) == 1, done.stderr
