"""All measurements of the project, beside their targets; `tools/bench/run` starts it.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - tmpfs is what is wanted of it

Results = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What an issue asks for; `path` leads to the figure in the results."""

    name: str
    path: tuple[str, ...]
    bound: float
    at_least: bool = False

    def judge(self, results: Results) -> Results | None:
        """Compare, or return None where this was not measured."""
        found: Any = results
        for step in self.path:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            return None
        met = found >= self.bound if self.at_least else found <= self.bound
        return {
            "name": self.name,
            "value": found,
            "target": f"{'>=' if self.at_least else '<='} {self.bound:g}",
            "met": met,
        }


_SMALL, _LARGE = ("codec", "parameters", "12810"), ("codec", "parameters", "1000000")
_WHERE = {
    "all classes": ("bytes", "best", "iid"),
    "2 of 10": ("bytes", "best", "two_classes"),
    "2 of 10, no floor": ("bytes", "best_without_floor", "two_classes"),
}
_DIGITS = tuple(
    Target(f"digits, {name}, {plan} plan: {title}", (*path, plan, *figure), bound)
    for name, path in _WHERE.items()
    for plan in ("quick", "usual")
    for title, figure, bound in (
        ("kB until 95 %", ("until_95", "kilobytes"), 28 if name == "all classes" else 18),
        ("rounds over fp32's", ("until_95", "rounds_over_fp32"), 1.5),
        ("points below fp32", ("final", "points_below_fp32"), 0.3),
    )
)
TARGETS = (
    Target("idle memory, MiB", ("idle", "tcp", "pss_as_only_python_mib"), 30),
    Target("idle memory with TLS, MiB", ("idle", "tls", "pss_as_only_python_mib"), 34),
    Target("NumPy or TFLite files in the agent", ("idle", "tcp", "forbidden_files"), 0),
    Target("idle wake-ups /min", ("idle", "tcp", "wakeups_per_min"), 4),
    Target(
        "the same with all sensors and a watchdog, MiB",
        ("idle", "equipped", "pss_as_only_python_mib"),
        30,
    ),
    Target("idle wake-ups /min with these", ("idle", "equipped", "wakeups_per_min"), 4),
    Target("idle memory with nodes that are silent, MiB", ("idle", "nodes", "pss_as_only_python_mib"), 30),
    Target("idle wake-ups /min with these nodes", ("idle", "nodes", "wakeups_per_min"), 4),
    Target("idle MQTT bytes /min with these nodes", ("idle", "nodes", "tcp_bytes_per_min"), 10),
    Target("nodes: samples lost", ("nodes", "lost"), 0),
    Target("nodes: samples /s", ("nodes", "samples_per_s"), 990, at_least=True),
    Target("smallest heap of a node, KiB", ("micropython", "smallest_heap_kib", "py"), 192),
    Target("idle processor time, s/min", ("idle", "tcp", "cpu_s_per_min"), 0.005),
    Target("idle MQTT bytes /min", ("idle", "tcp", "tcp_bytes_per_min"), 10),
    Target("exec to subscribed, ms", ("idle", "tcp", "ready_ms", "median"), 300),
    Target("round without training and start, ms", ("round", "disk", "without_training_and_start_ms"), 30),
    Target("update of 12,810 parameters at 1 %, bytes", ("round", "disk", "update_bytes", "most"), 400),
    Target("ditto with signs, i.i.d.", ("codec", "wire", "12810", "iid", "most"), 320),
    Target(
        "ditto of a device with 2 of 10 classes",
        ("codec", "wire", "12810", "2 of 10 classes", "most"),
        280,
    ),
    # 11,510 is what a code at the bound would come to: beyond reach for independent places and signs
    Target("ditto of 1M parameters, i.i.d.", ("codec", "wire", "1000000", "iid", "most"), 10_600),
    Target("of these, at the bound", ("codec", "wire", "1000000", "iid", "limit"), 10_600),
    Target(
        "ditto of a device with 100 of 1,000 classes",
        ("codec", "wire", "1000000", "100 of 1000 classes", "most"),
        7_200,
    ),
    Target("of these, at the bound", ("codec", "wire", "1000000", "100 of 1000 classes", "limit"), 7_200),
    Target("body over the bound, 1M, i.i.d.", ("codec", "worst", "over_bound"), 1.02),
    Target("ditto at 1 % with 8 bits", ("codec", "worst", "over_bound_1%_8bit"), 1.01),
    Target("ditto over the bound of each class", ("codec", "worst", "over_class_bound"), 1.03),
    Target("pack and seal 12,810, signs, us", (*_SMALL, "topk_sign", "pack_and_seal_us"), 250),
    Target("ditto, 8 bits, us", (*_SMALL, "topk_int8", "pack_and_seal_us"), 250),
    Target("pack and seal 1M, signs, us", (*_LARGE, "topk_sign", "pack_and_seal_us"), 1500),
    Target("ditto, 8 bits, us", (*_LARGE, "topk_int8", "pack_and_seal_us"), 1500),
    Target("decode and add 1M, signs, us", (*_LARGE, "topk_sign", "decode_and_add_us"), 400),
    Target("ditto, 8 bits, us", (*_LARGE, "topk_int8", "decode_and_add_us"), 400),
    Target(
        "gateway: open, verify, decode, add /s",
        ("gateway", "open_verify_decode_add", "updates_per_cpu_s"),
        4000,
        at_least=True,
    ),
    Target(
        "gateway: with commit and receipt /s",
        ("gateway", "durable", "updates_per_wall_s"),
        1000,
        at_least=True,
    ),
    Target("12,810 parameters down, bytes a device and round", ("downlink", "most_per_device_round"), 1500),
    Target("points that such heads lose", ("downlink", "most_points_lost"), 0.3),
    Target("eligibility decision, ms", ("eligibility", "this_machine", "both_ms", "median"), 2),
    Target(
        "eligibility decision on a Pi 5's files, ms",
        ("eligibility", "raspberry_pi_5", "both_ms", "median"),
        2,
    ),
    Target("stop after a violation, s", ("stops", "slowest_s"), 3),
    Target("head step over NumPy's products, SGD", ("head_step", "sgd", "plain", "ratio"), 2),
    Target("the same with L2 and FedProx", ("head_step", "sgd", "l2_and_mu", "ratio"), 2),
    Target("head step over NumPy's products, momentum", ("head_step", "momentum", "plain", "ratio"), 2),
    Target("the same with L2 and FedProx", ("head_step", "momentum", "l2_and_mu", "ratio"), 2),
    Target("head step over NumPy's products, Adam", ("head_step", "adam", "plain", "ratio"), 2),
    Target("a head of one runtime and of the other", ("runtimes", "weights"), 1e-5),
    Target("WISDM accuracy, people not seen", ("wisdm", "accuracy", "mean"), 0.72, at_least=True),
    Target(
        "ditto, with 70 % of each person's data",
        ("personal", "unseen", "global", "accuracy"),
        0.72,
        at_least=True,
    ),
    Target("people seen: fine-tuned above global", ("personal", "gain_of_fine_tuning"), 0.03, at_least=True),
    Target(
        "people seen: personal layer above global",
        ("personal", "gain_of_personal_layer"),
        0.03,
        at_least=True,
    ),
    Target("Omniglot accuracy, drawers not seen", ("omniglot", "accuracy", "mean"), 0.86, at_least=True),
    *_DIGITS,
    Target(
        "epochs of a linear head / a backbone pass",
        ("backbone", "epochs_per_backbone_pass", "linear"),
        1,
    ),
    Target(
        "epochs of a hidden head / a backbone pass",
        ("backbone", "epochs_per_backbone_pass", "hidden_128"),
        1,
    ),
    Target("trainer with a MobileNet, peak PSS, MiB", ("backbone", "trainer", "peak_pss_mib"), 90),
    Target("broken heads adopted in place of a head, that do harm", ("adoption", "in_place_of_a_head"), 0),
    Target("ditto, or where there was none, %", ("adoption", "harmful_percent"), 0.05),
    Target("honest heads refused, %", ("adoption", "honest_percent_refused"), 10),
    Target("growth over backbone + head, %", ("backbone", "file", "growth_percent"), 1),
)


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
