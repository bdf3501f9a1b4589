"""Samples of nodes after the power went: a counter is taken where its sample is stored, and nowhere else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from fedclient.config import NodeSettings
from fedclient.nodes.intake import Intake
from fedclient.nodes.messages import NodeSample
from fedclient.nodes.receiver import Heard
from fedclient.nodes.window import Window
from fedclient.samples.store import SampleStore


def heard(counter: int) -> Heard:
    data = counter.to_bytes(2, "little")
    said = NodeSample(nonce=bytes(8), counter=counter, dtype="int16", data=data, scale=1.0)
    return Heard(node="shed", generation=1, said=said, size=60)


def whole(path: Path) -> set[int]:
    """Check a store after a cut; return the counters that are stored."""
    with SampleStore(path) as store:
        rows = store._database.execute("SELECT counter FROM samples ORDER BY counter")
        with store.node_rows() as nodes:
            found = nodes.window("shed", 1)
        window = Window() if found is None else Window.stored(*found)
        stored = {counter for (counter,) in rows}
        assert len(rows) == len(stored) == len(store)
        assert {counter for counter in range(1, 200) if window.has(counter)} == stored
        return stored


def test_a_log_cut_anywhere_holds_what_was_acknowledged(tmp_path: Path, thorough: bool) -> None:
    chance, path = random.Random(6), tmp_path / "samples.db"
    store = SampleStore(path)
    store._database.execute("PRAGMA wal_autocheckpoint = 0")
    taking, acknowledged, counters = Intake(store, NodeSettings()), [(0, set[int]())], list(range(1, 90))
    chance.shuffle(counters)
    while counters:
        group, counters = counters[:7], counters[7:]
        taking.commit([heard(one) for one in group], 0.0)
        size = Path(f"{path}-wal").stat().st_size
        acknowledged.append((size, acknowledged[-1][1] | set(group)))
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{path}.image{suffix}")
    store.close()
    log = Path(f"{path}.image-wal").read_bytes()
    first = acknowledged[1][0]
    cuts = {size + step for size, _ in acknowledged[1:] for step in (-1, 0)}
    cuts |= {chance.randrange(first, len(log)) for _ in range(500 if thorough else 25)}
    cut = tmp_path / "cut.db"
    for end in sorted(cuts):
        shutil.copy(f"{path}.image", cut)
        Path(f"{cut}-wal").write_bytes(log[:end] + chance.choice((b"", bytes(5000))))
        before = max((one for one in acknowledged if one[0] <= end), key=lambda one: one[0])[1]
        assert whole(cut) == before
    print(f"{len(cuts)} cuts of a log of {len(log)} bytes")
