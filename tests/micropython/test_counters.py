"""No counter twice: killed at any moment, with a slot cut short, damaged or wiped."""

from __future__ import annotations

import json
import random
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.micropython.conftest import PROGRAMS, environment

STRIDE = 7
SLOT = 44  # bytes: the end of what is reserved, generation, floor of heads, checksum


def good(slot: Path) -> bool:
    data = slot.read_bytes() if slot.exists() else b""
    return len(data) == SLOT and data[36:] == sha256(b"fednode slot 1" + data[:36]).digest()[:8]


def flipped(data: bytes, bit: int) -> bytes:
    return b"".join(bytes([byte ^ (1 << bit % 8 if at == bit // 8 else 0)]) for at, byte in enumerate(data))


def life(
    interpreter: str,
    folder: Path,
    *,
    begin: int = 0,
    most: int = 20,
    kill_after: int | None = None,
    floor=False,
) -> tuple[Any, list[int]]:
    """Return what the slots said at boot, and the counters used until the end or the kill."""
    asked = {"stride": STRIDE, "begin": begin, "most": most, "floor": floor}
    (folder / "asked.json").write_text(json.dumps(asked))
    with subprocess.Popen(
        [interpreter, str(PROGRAMS / "counting.py"), "asked.json"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        boot = json.loads(process.stdout.readline())
        used = []
        for line in process.stdout:
            used.append(int(line))
            if kill_after is not None and len(used) > kill_after:
                process.kill()
                kill_after = None
    # What was printed and not read when it was killed counts too, but for a line cut short.
    return boot, used


@pytest.fixture
def boot(micropython: str, tmp_path: Path):
    def one(**how: Any) -> tuple[Any, list[int]]:
        return life(micropython, tmp_path, **how)

    return one


def test_a_stride_is_written_once_and_a_boot_begins_after_it(boot, tmp_path: Path) -> None:
    said, used = boot(begin=100, most=STRIDE)
    assert (said, used) == ([None, [0, 0, 0]], list(range(101, 101 + STRIDE)))
    said, used = boot(most=3)
    assert (said, used) == ([107, [0, 0, 0]], [108, 109, 110])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("slot*")}
    said, used = boot(most=0)
    assert said == [114, [0, 0, 0]]
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("slot*")}, (
        "a boot writes nothing"
    )


def test_no_counter_is_used_twice_whatever_is_killed_or_damaged(boot, tmp_path: Path, thorough: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    last, slots = 0, [tmp_path / "slot0", tmp_path / "slot1"]
    for _ in range(200 if thorough else 25):
        known = any(map(good, slots))  # a kill in the middle of a write and our damage may meet
        said, used = boot(begin=last + 1000, most=60, kill_after=rng.randrange(40))
        assert (said[0] is not None) == known
        assert used == sorted(set(used))
        assert used[0] > last
        last = used[-1]
        victim = rng.choice([slot for slot in slots if slot.exists()])
        match rng.randrange(5):
            case 0:  # cut short while it was written
                victim.write_bytes(victim.read_bytes()[: rng.randrange(SLOT)])
            case 1:
                victim.write_bytes(flipped(victim.read_bytes(), rng.randrange(8 * SLOT)))
            case 2:
                victim.unlink()
            case 3 if rng.random() < 0.3:
                for slot in slots:
                    slot.unlink(missing_ok=True)


def test_the_older_slot_is_never_more_than_a_stride_behind(boot, tmp_path: Path) -> None:
    last = boot(begin=10)[1][-1]
    for _ in range(6):  # the newest is lost at each boot
        newest = max(tmp_path.glob("slot*"), key=lambda path: path.read_bytes()[:8][::-1])
        newest.write_bytes(b"")
        used = boot(most=1)[1]  # one write
        assert used[0] > last
        last = used[-1]


def test_the_floor_of_heads_outlives_damage_to_one_slot(boot, tmp_path: Path) -> None:
    used = boot(begin=0, most=10, floor=True)[1]
    for name in ("slot0", "slot1"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(flipped(kept, 8 * SLOT - 1))
        assert boot(most=0)[0][1] == [1, used[-1], 0]
        (tmp_path / name).write_bytes(kept)


def test_a_new_secret_keeps_counting_and_forgets_the_floor(on_node, boot) -> None:
    used = boot(begin=0, most=10, floor=True)[1]
    found = on_node("renewed.py")
    assert found["base"] >= used[-1]
    assert found["floor"] == [0, 0, 0]
