"""All measurements of the project, beside their targets (`targets.py`); `tools/bench/run` starts it.

    idle     an agent with nothing to do: memory, wake-ups, processor time, bytes, time until ready
    round    a round on loopback, by stage, with the state on disk and in memory
    fsync    what a round flushes to the disk, by stage (needs strace)
    codec    time and size of packing and unpacking, against the entropy and on real deltas
    gateway  updates per second
    nodes    1,000 samples a second from 50 nodes: what is lost, memory, processor time for each
    micropython  a node: size of its compiled files, heap, the smallest heap (needs tools/get_micropython)
    replay   seconds for a week of readings, and bytes of a trace, by kind of week
    wisdm    accuracy of a federation of 36 people (needs ../shared)
    personal heads of their own for these people, FedProx and balanced sampling (ditto)
    omniglot  accuracy of a federation of 20 drawers on a MobileNet's features (ditto)
    backbone  what that MobileNet costs: time, memory of the trainer, bytes (ditto)
    adoption  whether devices keep broken heads from apps, and refuse honest ones
    bytes     kilobytes that a device sends until a head is right on 95 % of digits, and where it ends
    budgets   accuracy of the people and the drawers under byte budgets from 200 B to 20 kB (needs ../shared)
    tuning    plans for `bytes`, tried on splits that it does not use
    feedback  error feedback in other ways than the project's
    downlink  what heads cost the devices that fetch them, and whether that harms the head
    eligibility  an eligibility decision: all probes, all gates
    stops    how soon a training stops after each kind of violation
    head_step  a training step of a head beside NumPy's matrix products
    runtimes   the same head trained on both runtimes (makes two virtual environments)

Standard output has one JSON object: {"setting": ..., PART: ..., "targets": [{name, value, target, met}]}.
Figures are of this machine as it is: look at `setting.load` before you believe a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from targets import TARGETS, Results

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - tmpfs is what is wanted of it


def idle(options: argparse.Namespace) -> Results:
    import idle as part  # noqa: PLC0415 - each part loads what it needs

    watch = {"seconds": options.idle_s, "starts": options.starts}
    found = {
        "tcp": part.measure(tls=False, broker=options.broker, **watch),
        "equipped": part.measure(tls=False, broker=options.broker, more="equipped", **watch),
        "nodes": part.measure(tls=False, broker=options.broker, more="nodes", **watch),
    }
    if options.broker != "embedded":  # it has no TLS
        found["tls"] = part.measure(tls=True, broker="mosquitto", **watch)
    return found


def round_(options: argparse.Namespace) -> Results:
    import rounds  # noqa: PLC0415 - ditto

    disk = rounds.measure(options.rounds, options.broker, None)
    tmpfs = rounds.measure(options.rounds, options.broker, str(MEMORY_DISK)) if MEMORY_DISK.is_dir() else None
    return {"disk": disk, "tmpfs": tmpfs}


def fsync(options: argparse.Namespace) -> Results | None:
    import rounds  # noqa: PLC0415 - ditto

    return rounds.count_fsyncs(options.rounds, options.broker)


def codec(_: argparse.Namespace) -> Results:
    return _script("codec.py")


def gateway(options: argparse.Namespace) -> Results:
    return _script("gateway.py", "--updates", str(options.updates))


def wisdm(options: argparse.Namespace) -> Results | None:
    import wisdm as part  # noqa: PLC0415 - ditto

    return part.measure(options.wisdm_folds, options.wisdm_rounds)


def personal(options: argparse.Namespace) -> Results | None:
    import personal as part  # noqa: PLC0415 - ditto

    return part.measure(options.wisdm_folds, options.wisdm_rounds)


def omniglot(options: argparse.Namespace) -> Results | None:
    import omniglot as part  # noqa: PLC0415 - ditto

    return part.measure(
        options.omniglot_folds, options.omniglot_rounds, options.omniglot_fleet, options.broker
    )


def backbone(options: argparse.Namespace) -> Results | None:
    import backbone as part  # noqa: PLC0415 - ditto

    return part.measure(options.backbone_samples, options.broker)


def adoption(options: argparse.Namespace) -> Results:
    import adoption as part  # noqa: PLC0415 - ditto

    return part.measure(options.wisdm_rounds, options.adoption_seeds)


def bytes_(options: argparse.Namespace) -> Results:
    import kilobytes as part  # noqa: PLC0415 - ditto

    return part.measure(**_study(options, "seeds"))


def tuning(_: argparse.Namespace) -> Results:
    import kilobytes as part  # noqa: PLC0415 - ditto

    return part.tune()


def budgets(options: argparse.Namespace) -> Results | None:
    import budgets as part  # noqa: PLC0415 - ditto

    return part.measure(**_study(options, "folds"))


def feedback(options: argparse.Namespace) -> Results:
    import feedback as part  # noqa: PLC0415 - ditto

    return part.measure(**_study(options, "seeds"))


def _study(options: argparse.Namespace, repeats: str) -> dict[str, int]:
    """Return what was asked for: else each part has its own."""
    asked = {repeats: options.study_seeds, "longest": options.study_rounds}
    return {name: value for name, value in asked.items() if value}


def downlink(_: argparse.Namespace) -> Results:
    import downlink as part  # noqa: PLC0415 - ditto

    return part.measure()


def eligibility(options: argparse.Namespace) -> Results:
    import eligibility as part  # noqa: PLC0415 - ditto

    return part.measure(options.looks)


def stops(options: argparse.Namespace) -> Results:
    import stops as part  # noqa: PLC0415 - ditto

    found = part.measure(options.broker)
    return {**found, "slowest_s": max(found["stop_s"].values())}


def head_step(_: argparse.Namespace) -> Results:
    return _script("head_step.py")


def runtimes(_: argparse.Namespace) -> Results | None:
    import runtimes as part  # noqa: PLC0415 - ditto

    return part.measure()


def nodes(options: argparse.Namespace) -> Results | None:
    import nodes as part  # noqa: PLC0415 - ditto

    return part.measure(nodes=50, per_second=1000, seconds=options.nodes_s)


def replay(_: argparse.Namespace) -> Results:
    return _script("replay.py")


def micropython(_options: argparse.Namespace) -> Results | None:
    import micropython as part  # noqa: PLC0415 - ditto

    return part.measure()


PARTS: dict[str, Callable[[argparse.Namespace], Results | None]] = {
    "idle": idle,
    "round": round_,
    "fsync": fsync,
    "codec": codec,
    "gateway": gateway,
    "replay": replay,
    "micropython": micropython,
    "nodes": nodes,
    "wisdm": wisdm,
    "personal": personal,
    "omniglot": omniglot,
    "backbone": backbone,
    "adoption": adoption,
    "bytes": bytes_,
    "tuning": tuning,
    "budgets": budgets,
    "feedback": feedback,
    "downlink": downlink,
    "eligibility": eligibility,
    "stops": stops,
    "head_step": head_step,
    "runtimes": runtimes,
}


def main() -> int:
    options = _options()
    results: Results = {"setting": _setting()}
    for name in options.only:
        _say(f"measuring {name} ...")
        results[name] = PARTS[name](options)
        if results[name] is None:
            _say(f"{name} LEFT OUT: what it needs is not here")
    judged = [one for one in (target.judge(results) for target in TARGETS) if one is not None]
    results["targets"] = judged
    _table(results)
    print(json.dumps(results))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help="some parts only")
    parser.add_argument(
        "--broker",
        choices=("mosquitto", "embedded"),
        default="mosquitto",
        help="embedded where there is no mosquitto",
    )
    parser.add_argument(
        "--idle-s", type=float, default=120.0, metavar="S", help="how long to watch an idle agent (120)"
    )
    parser.add_argument(
        "--nodes-s",
        type=float,
        default=60.0,
        metavar="S",
        help="how long nodes send 1,000 samples a second (60)",
    )
    parser.add_argument("--starts", type=int, default=5, metavar="N", help="starts of an agent to time (5)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="rounds to time (8)")
    parser.add_argument(
        "--updates", type=int, default=4000, metavar="N", help="updates for the gateway (4000)"
    )
    parser.add_argument("--looks", type=int, default=1000, metavar="N", help="decisions to time (1000)")
    parser.add_argument("--wisdm-folds", type=int, default=5, metavar="N")
    parser.add_argument("--wisdm-rounds", type=int, default=40, metavar="N")
    parser.add_argument("--adoption-seeds", type=int, default=5, metavar="N", help="per device (5)")
    parser.add_argument("--omniglot-folds", type=int, default=5, metavar="N")
    parser.add_argument("--omniglot-rounds", type=int, default=60, metavar="N")
    parser.add_argument(
        "--omniglot-fleet", type=int, default=0, metavar="N", help="rounds of real processes beside them (0)"
    )
    parser.add_argument(
        "--study-seeds", type=int, metavar="N", help="or folds, of bytes, budgets and feedback (3, 2, 2)"
    )
    parser.add_argument("--study-rounds", type=int, metavar="N", help="of these, at most (100, 40, 40)")
    parser.add_argument(
        "--backbone-samples",
        type=int,
        default=520,
        metavar="N",
        help="samples of a job with a backbone (520)",
    )
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [name for name in options.only if name not in PARTS]
    if unknown:
        parser.error(f"--only {unknown[0]}: the parts are {', '.join(PARTS)}")
    return options


def _setting() -> Results:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "realtime": os.sched_getscheduler(0) in {os.SCHED_FIFO, os.SCHED_RR},
    }


def _script(name: str, *arguments: str) -> Results:
    """Run one of the scripts beside this one in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *arguments], check=True, capture_output=True, text=True
    )
    found: Results = json.loads(done.stdout)
    return found


def _table(results: Results) -> None:
    setting = results["setting"]
    _say("\n" + ", ".join(f"{name} {value}" for name, value in setting.items()))
    for name in filter(results.get, PARTS):
        for path, value in _leaves(results[name], (name,)):
            _say(f"  {' '.join(path):<78} {value}")
    _say("")
    for one in results["targets"]:
        _say(
            f"  {'ok    ' if one['met'] else 'MISSED'} {one['name']:<44} {one['value']:>10}   {one['target']}"
        )


def _leaves(found: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(found, dict):
        return [leaf for name, inner in found.items() for leaf in _leaves(inner, (*path, name))]
    return [(path, found)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
