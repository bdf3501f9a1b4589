"""What the issues ask for: each target leads to a figure in the results of `bench.py`, and has its bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    Target("nodes: growth of memory, MiB", ("nodes", "rss_growth_of_second_half_mib"), 0.5),
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
