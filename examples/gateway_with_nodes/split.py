"""What the nodes and the other houses see of this repository's handwritten digits: `split.py DIGITS.npz`.

hall/ and porch/ are the flash of the two nodes; one shows its node the digits 0 to 3, the other 4 to 7, so
that nobody in this house ever sees an 8 or a 9.  The other houses see all ten.
"""

import sys
from pathlib import Path

import numpy as np

SHOWN = {"hall": (0, 1, 2, 3), "porch": (4, 5, 6, 7)}
OTHERS = ("house2", "house3")
OF_NODE, OF_HOUSE = 240, 500  # samples
KEPT = 200  # digits that nobody trains with: every node tries each head on them

with np.load(sys.argv[1]) as file:
    x, y = file["x"].astype(np.int8), file["y"].astype(np.int8)
order = np.random.default_rng(6).permutation(len(y))
kept, order = order[:KEPT], order[KEPT:]


def save(path: Path, rows: np.ndarray) -> None:
    """Write rows for a board: 64 bytes of pixels, 0 to 16, and the digit."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.column_stack([x[rows], y[rows]]).tobytes())


for name, digits in SHOWN.items():
    mine = order[np.isin(y[order], digits)][:OF_NODE]
    order = np.setdiff1d(order, mine, assume_unique=True)
    save(Path(name) / "samples.bin", mine)
    save(Path(name) / "kept.bin", kept)
np.random.default_rng(7).shuffle(order)
for number, name in enumerate(OTHERS):
    mine = order[number * OF_HOUSE : (number + 1) * OF_HOUSE]
    np.savez(f"{name}.npz", x=x[mine] / np.float32(16), y=y[mine])
np.savez("kept.npz", x=x[kept] / np.float32(16), y=y[kept])
