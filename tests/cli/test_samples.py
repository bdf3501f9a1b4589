from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedclient.cli import main
from fedclient.device import folder
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.jobs import Checkpoint, Jobs
from fedclient.device.journal import Journal
from fedclient.device.outbox import Outbox, Row
from fedclient.device.personal import PersonalKey, PersonalLayer, overlay
from fedclient.device.residual import Residual, ResidualKey
from fedclient.device.slots import Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import SampleStore, database_path, features_path
from fedclient.session import Outcome
from fedclient.values import HeadVersion, TensorSpec
from fedclient.wire.blobs import split
from tests.wire.golden import MANIFEST


@pytest.fixture
def state(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def run(state, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        code = main.main(
            ["--config", str(state.parent / "empty.toml"), "--state", str(state), "samples", *map(str, words)]
        )
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def data(tmp_path):
    x = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=np.concatenate([x, x]), y=np.arange(600) % 3)
    return tmp_path / "data.npz"


def test_import_stores_every_row_in_order_with_its_source(run, data, state):
    code, out, err = run("import", "--data", data, "--source", "lab")
    assert (code, err) == (0, "")
    assert out == "imported 600 samples, 0 of them marked hold-out; the store now has 600\n"
    with SampleStore(database_path(state)) as store:
        found = list(store.read(range(1, 601)))
        assert [sample.label for sample in found] == [row % 3 for row in range(600)]
        assert b"".join(sample.array.data for sample in found) == np.load(data)["x"].tobytes()
        assert store._database.execute("SELECT DISTINCT source FROM samples") == [("lab",)]


def test_holdout_is_chosen_by_content(run, data, state):
    assert run("import", "--data", data, "--holdout-fraction", "0.2")[0] == 0
    with SampleStore(database_path(state), holdout=0.0) as store:  # the owner's share goes by number
        held = store.usable(1000, holdout=True)
        assert 60 < len(held) < 180
        held_contents = {sample.array.data for sample in store.read(held)}
        assert not held_contents & {sample.array.data for sample in store.read(store.usable(1000))}


def test_the_owners_share_is_counted_before_an_agent_has_run(run, data):
    assert run("import", "--data", data)[0] == 0
    assert 30 < json.loads(run("stats", "--json")[1])["holdout"] < 90  # a tenth of 600


def test_bad_data_is_one_sentence_and_nothing_is_stored(run, tmp_path, state):
    (tmp_path / "bad.csv").write_text("1,2,a\n" * 500 + "1,nan,a\n")
    code, out, err = run("import", "--data", tmp_path / "bad.csv")
    assert (code, out) == (1, "")
    assert err == (
        f"fedclient: {tmp_path}/bad.csv: line 501: a column before the last is not a finite number\n"
    )
    assert not (state / "samples").exists()
    assert run("import", "--data", "x.csv", "--holdout-fraction", "1")[0] == 2


def test_the_owners_bounds_hold(run, data, state):
    (state.parent / "empty.toml").write_text("[limits]\nsamples_max_rows = 250\n")
    code, out, _ = run("import", "--data", data)
    assert code == 0
    assert out.splitlines()[1].startswith("350 older ones made room")
    assert json.loads(run("stats", "--json")[1])["max_rows"] == 250


def test_stats_as_one_json_object_and_as_text(run, data):
    run("import", "--data", data)
    code, out, err = run("stats", "--json")
    stats = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert stats["per_label"] == [{"label": label, "rows": 200} for label in range(3)]
    assert (stats["rows"], stats["bytes"], stats["distinct"], stats["newest_id"]) == (600, 12_000, 300, 600)
    code, out, _ = run("stats")
    assert code == 0
    assert "600 of at most 50000" in out


def test_purge_needs_a_yes(run, data, monkeypatch):
    run("import", "--data", data)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = run("purge")
    assert (code, err) == (
        2,
        "fedclient: purge deletes all samples for good: say --yes to do it without a question\n",
    )
    refused = run("purge", "--node", "shed", "--before-id", "9")[2]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run("purge")[:2] == (1, "nothing was deleted\n")
    assert "purge deletes all samples of node shed with an id below 9 for good" in refused
    assert run("purge", "--node", "shed", "--yes")[1].startswith("purged 0 samples")
    assert run("purge", "--before-id", "101", "--yes")[1].startswith("purged 100 samples")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert run("purge")[1].startswith("purged 500 samples")
    assert json.loads(run("stats", "--json")[1])["rows"] == 0


def test_progress_is_on_a_terminal_only(data, state):
    words = ["--config", state.parent / "empty.toml", "--state", state, "samples", "import", "--data", data]
    terminal, side = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "import sys; from fedclient.cli.main import main; sys.exit(main())",
        *words,
    ]
    assert subprocess.run(command, stderr=side, stdout=subprocess.PIPE, check=False).returncode == 0
    os.close(side)
    assert os.read(terminal, 10_000).endswith(b"importing: 600 of 600\r\n")
    os.close(terminal)
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stderr == b""


def test_purge_clears_what_trainers_derived(run, data, state):
    """PROTOCOL 8: nothing that came of them stays, but an update without a receipt (PROTOCOL 4.1)."""
    code, _, _ = run("import", "--data", data)
    assert code == 0
    device = folder.create(state)
    mark = b"derived from samples that were deleted" * 3
    database = open_database(device)
    outbox, jobs, residual = Outbox(database), Jobs(database), Residual(database)
    base = {"head_version": HeadVersion(1, 1), "model_hash": b"m", "samples_epoch": 1}
    with database.transaction():
        residual.save(ResidualKey(model_hash=b"m", generation=1, samples_epoch=1, shape="w[2]"), mark)
        job = jobs.new(HeadVersion(1, 2), threads=1)
        jobs.save_checkpoint(job, Checkpoint(epoch=1, step=0, weights=mark, state=b"", report="{}"))
        outbox.put(Row(counter=1, envelope=b"e1", body=mark, **base))
        outbox.settle(1, Outcome.RETURNED)
        outbox.put(Row(counter=2, envelope=b"e2", body=b"on its way", **base))
        PersonalLayer(database).save(PersonalKey(model_hash=b"m", samples_epoch=1, shape="w[2]"), mark)
    known = Tuned(
        generation=1, version=1, adopted_sha256="", head_sha256="", samples_epoch=1, holdout=20,
        accuracy=1.0, adopted_accuracy=0.5,
    )  # fmt: skip
    TunedHead(device.current).save(known, mark)
    FeatureCache(features_path(device.samples)).put(b"m", {1: np.frombuffer(mark[:112], np.float32)})
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert any(mark in path.read_bytes() for path in state.rglob("*") if path.is_file())
    # one purged sample is enough: what was derived was derived from all of them together
    assert run("purge", "--before-id", "2", "--yes")[0] == 0
    assert (jobs.current(), jobs.checkpoint(job), outbox.returned()) == (None, None, ((), ()))
    assert database.one("SELECT * FROM residual") is database.one("SELECT * FROM personal") is None
    assert TunedHead(device.current).stored() is None
    assert not features_path(device.samples).exists()
    unsettled = outbox.unsettled()
    assert unsettled is not None
    assert unsettled.body == b"on its way"
    assert not any(mark[:40] in path.read_bytes() for path in state.rglob("*") if path.is_file())
    database.close()


def test_purge_takes_the_personal_layer_out_of_what_apps_use(run, data, state):
    run("import", "--data", data)
    device = folder.create(state)
    specs = tuple(TensorSpec(name=name, shape=(20,)) for name in ("output/bias", "personal/bias"))
    database = open_database(device)
    plain, mark = bytes(160), b"learnt of one person" * 4
    for number in (1, 2, 3):
        model = split(b"model %d" % number)
        manifest = replace(
            MANIFEST,
            head_version=HeadVersion(1, number),
            model=model.ref,
            head=split(plain).ref,
            tensors=specs,
        )
        Journal(database).save_manifest(manifest, keep=())
        Slots(device.current).adopt(manifest, b"model %d" % number, overlay(plain, specs, mark))
    code, _, said = run("purge", "--yes")
    assert code == 1
    assert "apps use one with what was learnt" in said
    for blob in (split(plain), model):
        for chunk in blob.chunks:
            Blobs(device.blobs).append(blob.ref, chunk)
    assert sum(mark in path.read_bytes() for path in state.rglob("*") if path.is_file()) == 1  # one content
    assert run("purge", "--yes")[0] == 0
    slot, _, head = Slots(device.current).read()
    assert (slot.version, head) == (HeadVersion(1, 3), plain)
    assert not any(mark in path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert len(list(device.current.iterdir())) == 3  # the list, the model, the head
    database.execute("DELETE FROM manifest")  # as after a damaged database
    code, _, said = run("purge", "--yes")
    assert code == 1
    assert "in its personal layer, if it has one: its manifest is gone" in said
    database.close()


def test_purge_leaves_no_head_before_with_a_layer(run, data, state):
    run("import", "--data", data)
    device = folder.create(state)
    database = open_database(device)
    mark = b"learnt of one person" * 4
    for number, name in ((1, "personal/bias"), (2, "output/bias")):
        manifest = replace(
            MANIFEST,
            head_version=HeadVersion(1, number),
            head=split(bytes(80)).ref,
            tensors=(TensorSpec(name=name, shape=(20,)),),
        )
        Journal(database).save_manifest(manifest, keep=())
        Slots(device.current).adopt(manifest, b"model", mark if number == 1 else bytes(80))
    assert run("purge", "--yes")[0] == 0
    assert Slots(device.current).read()[2] == bytes(80)
    assert not any(mark in path.read_bytes() for path in state.rglob("*") if path.is_file())
    database.close()


def test_purge_deletes_what_was_moved_aside_as_damaged(run, data, state):
    run("import", "--data", data)
    device = folder.create(state)
    for path in (device.samples, device.database):
        for suffix in ("", "-wal"):
            path.with_name(f"{path.name}.damaged-1{suffix}").write_bytes(b"a person's samples")
    code, _, said = run("purge", "--before-id", "2", "--yes")
    assert code == 0
    assert said.count("may hold purged samples: delete it") == 4
    assert run("purge", "--yes")[0] == 0
    assert not list(state.rglob("*.damaged-*"))


def test_purge_begins_nothing_where_no_device_is(run, data, state):
    run("import", "--data", data)
    assert run("purge", "--yes")[0] == 0
    assert [path.name for path in state.iterdir()] == ["samples"]
