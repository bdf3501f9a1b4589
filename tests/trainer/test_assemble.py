"""A head out of deltas or out of its whole encoding: the bytes that the manifest names, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.device import folder as folders
from fedclient.device.blobs import Blobs
from fedclient.device.jobs import TrainerExit
from fedclient.device.judgement import Judgements
from fedclient.errors import AstrayHead, StorageDamaged, StorageFull, WireError
from fedclient.trainer.assemble import put_together
from fedclient.values import BlobRef, HeadVersion, Manifest, TensorSpec, Verdict
from fedclient.wire.blobs import split
from fedclient.wire.topics import blob_name
from tests.trainer.setup import Bench, run
from tests.trainer.test_judge import arguments
from tests.wire.golden import MANIFEST

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
    """Blobs in a folder, and manifests of what is there; head 3 is the one that is wanted."""

    path: Path
    blobs: Blobs
    known: dict[HeadVersion, Manifest] = field(default_factory=dict)

    def put(self, data: bytes) -> BlobRef:
        ref = split(data).ref
        self.blobs.put(ref, data)
        return ref

    def file(self, data: bytes) -> Path:
        return self.path / blob_name(split(data).ref.hash)

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}

    def put_together(self, manifest: Manifest) -> bytes:
        put_together(self.blobs, manifest, self.known.get)
        return self.blobs.read(manifest.head)


@pytest.fixture
def case(tmp_path) -> Case:
    path = folders.create(tmp_path / "device").blobs
    return Case(path, Blobs(path))


def manifest(version: int, *deltas: BlobRef, full: BlobRef | None = None) -> Manifest:
    ref = split(head(version).tobytes()).ref
    return replace(
        MANIFEST,
        head_version=HeadVersion(1, version),
        head=ref,
        full=full or replace(ref, hash=b"not here".ljust(32)),
        tensors=TENSORS,
        deltas=deltas,
    )


def on_deltas(case: Case, begun: int = 0) -> Manifest:
    case.put(head(begun).tobytes())
    case.known[HeadVersion(1, begun)] = manifest(begun)
    deltas = [case.put(codec.delta_blob(head(at), head(at + 1), TENSORS)) for at in range(begun, 3)]
    return manifest(3, *reversed(deltas))


def on_whole(case: Case) -> Manifest:
    return manifest(3, full=case.put(codec.head_blob(head(3), TENSORS)))


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_deltas_and_the_whole_head_lead_to_the_same_bytes(case, begun) -> None:
    for wanted in (on_deltas(case, begun), on_whole(case)):
        assert case.put_together(wanted) == head(3).tobytes()
        case.file(head(3).tobytes()).unlink()


def test_what_is_together_is_left_alone(case) -> None:
    case.put(head(3).tobytes())
    put_together(case.blobs, manifest(3), case.known.get)
    assert case.names() == {case.file(head(3).tobytes()).name}


def one_delta_for_all(case: Case) -> Manifest:
    wanted = on_deltas(case)
    return replace(wanted, deltas=wanted.deltas[:1] * 3)


def to_another_head(case: Case) -> Manifest:
    return replace(on_deltas(case), head=split(head(2).tobytes()).ref)


def no_delta(case: Case) -> Manifest:
    return replace(on_deltas(case, 2), deltas=(case.put(b"\xff" * 40),))


def no_head(case: Case) -> Manifest:
    return manifest(3, full=case.put(b"\xff" * 40))


def of_other_tensors(case: Case) -> Manifest:
    return replace(on_whole(case), tensors=(TensorSpec(name="kernel", shape=(1, 30)),))


@pytest.mark.parametrize("wrong", [one_delta_for_all, to_another_head, no_delta, no_head, of_other_tensors])
def test_a_route_that_leads_elsewhere_leaves_nothing(case, wrong) -> None:
    wanted = wrong(case)
    before = case.names()
    with pytest.raises(AstrayHead, match=r"does not lead to head 1\.3"):
        case.put_together(wanted)
    assert case.names() == before


@pytest.mark.parametrize("which", ["base", "delta"])
@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_a_blob_that_is_not_here_as_it_was_fetched_is_said_to_be_lost(case, which, how) -> None:
    wanted = on_deltas(case)
    data = head(0).tobytes() if which == "base" else codec.delta_blob(head(1), head(2), TENSORS)
    if how == "gone":
        case.file(data).unlink()
    else:
        case.file(data).write_bytes(bytes(len(data)))
    with pytest.raises(StorageDamaged, match="fetched again"):
        case.put_together(wanted)
    assert not case.file(data).exists(), "it is fetched again"


def test_a_full_disk_leaves_nothing(case, monkeypatch) -> None:
    wanted = on_deltas(case)
    before = case.names()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        case.put_together(wanted)
    assert case.names() == before


def test_a_head_beyond_its_memory_is_a_failure_with_one_line(case, monkeypatch) -> None:
    monkeypatch.setattr(codec, "head_after", lambda *_: bytearray(100 << 20))
    with pytest.raises(WireError, match=r"head 1\.3 does not fit into 16 MiB"):
        case.put_together(on_deltas(case))
    bytearray(100 << 20)  # afterwards it may be had


# --- in the children that need it ---------------------------------------------------------------------------
def only_fetched(device: Bench, wanted: HeadVersion, *, to: np.ndarray | None = None) -> Manifest:
    """Leave of a head that is published only its encoding; `to`: or that of another one."""
    made = device.publish(wanted)
    data = Blobs(device.folder.blobs).read(made.head)
    other = np.frombuffer(data, "<f4").astype(np.float32) if to is None else to
    full = codec.head_blob(other, made.tensors)
    blobs = Blobs(device.folder.blobs)
    blobs.put(split(full).ref, full)
    blobs.remove((made.head,))
    made = replace(made, full=split(full).ref)
    device.journal.save_manifest(made, keep=())
    return made


V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)


@pytest.mark.parametrize("judges", [True, False])
def test_the_trainer_of_a_job_puts_its_head_together(device, judges) -> None:
    made = only_fetched(device, V1)
    device.jobs.new(V1, threads=1)
    assert run(device, judges=judges) == TrainerExit.DONE
    assert Blobs(device.folder.blobs).has(made.head)
    assert device.opened(device.outbox.unsettled()).head_version == V1


def test_a_trainer_does_so_before_it_looks_at_the_model(device) -> None:
    """So that what decoding takes is given back before the runtime takes its part."""
    made = only_fetched(device, V1, to=np.ones(18, np.float32))
    (device.folder.blobs / blob_name(made.model.hash)).write_bytes(b"no model")
    device.jobs.new(V1, threads=1)
    for judges in (True, False):
        with pytest.raises(AstrayHead):
            run(device, judges=judges)
    assert Judgements(device.database).load() is None


def test_a_judge_without_samples_needs_no_runtime(device) -> None:
    device.store.purge()
    made = only_fetched(device, V2)
    done = subprocess.run(
        [sys.executable, "-c", LISTS_ITS_MODULES, "judge", json.dumps(asdict(arguments(device)))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not set(json.loads(done.stdout)) & {"tflite_runtime", "ai_edge_litert"}
    assert Blobs(device.folder.blobs).has(made.head)
    assert Judgements(device.database).load().judgement.verdict is Verdict.UNJUDGED


def test_a_child_says_in_one_line_and_by_its_exit_code_what_is_wrong(device) -> None:
    only_fetched(device, V2, to=np.ones(18, np.float32))
    done = subprocess.run(
        [sys.executable, "-m", "fedclient.trainer", "judge", json.dumps(asdict(arguments(device)))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == TrainerExit.ASTRAY
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert Judgements(device.database).load() is None
