"""An app beside the agent: it records labelled samples, and predicts with the head they helped to train.

    python examples/record_and_predict.py --state DIR        # what `fedclient --state DIR init` made

The federation's head takes as many numbers as `--features` says: 4, as `fedclient model new-head --features 4
--classes 2` writes it, or 64 for the head of the README.

The agent (`fedclient --state DIR run`) trains and sends in its own time; this app never waits for it.
"""

import argparse
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np

import fedclient

rng = np.random.default_rng()


def measure(features: int) -> tuple[np.ndarray, int]:
    """Stand in for a sensor, and for somebody who says what it was: numbers, and their sum's sign."""
    x = rng.normal(size=features).astype(np.float32)
    return x, int(x.sum() > 0)


def main(state: Path, every_s: float, features: int) -> None:
    """Predict, record, wait; for ever."""
    model = None
    with fedclient.SampleStore(state / "samples" / "samples.db") as store:
        for seen in count(1):
            x, label = measure(features)
            try:
                model = model or fedclient.load_model(state)
                if model.refresh():
                    print(f"head {model.version} took over")
                print(f"sample {seen} is {label}; head {model.version} says {model.predict(x).argmax()}")
            except fedclient.NoModelYet:
                print(f"sample {seen} is {label}; no head yet")
            store.append(x, label, source="record_and_predict")
            time.sleep(every_s)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default="/var/lib/fedclient", metavar="DIR")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two samples")
    parser.add_argument("--features", type=int, default=4, metavar="N", help="numbers in one sample (4)")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        main(options.state, options.every, options.features)
