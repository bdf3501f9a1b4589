"""What heads cost the devices that fetch them, and whether a head suffers from being fetched so.

    tools/bench/run --only downlink

A head of 12,810 parameters is trained for 50 rounds on the digits of ten devices (`digits.py`), beside the
same federation with a gateway that rounds nothing.  Every manifest, delta and head is the real one, signed
and chained as `gateway/collection.py` does.  What a device fetches is what `device/routes.py` says, and the
MQTT packets around it are counted to the byte:

    ten devices from the first round on, and one more each ten rounds, which fetches the whole head

`per_device_round` is the mean over devices and the rounds since they joined of all that they receive, and of
what they send to receive that.  The model is not in it: it is fetched once.  `some_away` is the same, over
the rounds in which a device is there, where each is away in one of five, drawn by chance, and fetches what
it has missed when it is back.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from digits import DEVICES, task
from federation import above_the_floor
from linear import LinearFederation, accuracy_of
from parallel import together

from fedclient.crypto.keys import SigningKey
from fedclient.device.routes import shortest
from fedclient.downlink import GatewayDownlink
from fedclient.gateway.collection import chain
from fedclient.transport.base import packet_bytes, publish_wire_bytes
from fedclient.values import (
    BlobRef,
    Codec,
    CodecMode,
    HeadVersion,
    Manifest,
    Plan,
    Receipt,
    ReceiptStatus,
)
from fedclient.wire import messages
from fedclient.wire.blobs import chunk_count, split
from fedclient.wire.topics import Topics

ROUNDS: Final = 50
SEEDS: Final = 3
JOINS_EVERY: Final = 10
AWAY: Final = 0.2
LAST: Final = 5  # rounds whose accuracy is averaged
ACK = 4  # PUBACK and UNSUBACK; a SUBACK has a byte more
SETTINGS: Final = {
    "sign 1 %": Codec(mode=CodecMode.TOPK_SIGN, density=0.01),
    "8 bit 1 %": Codec(density=0.01),
}
SPLITS: Final = ("iid", "two_classes")
HARDEST: Final = ("two_classes", "sign 1 %")
BUDGETS: Final = (256, 450, 600, 700, 1000)  # of a delta, tried on the hardest
FEDERATION: Final = "lab"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation to run."""

    split: str
    setting: str
    seed: int
    rounds: int
    max_delta_bytes: int | None = None  # None: the usual budget


@dataclass(kw_only=True)
class Shelf:
    """What the gateway has published."""

    manifests: dict[HeadVersion, Manifest] = field(default_factory=dict)
    _link: GatewayDownlink = field(
        default_factory=lambda: GatewayDownlink(federation=FEDERATION, key=SigningKey.generate())
    )

    def add(self, federation: LinearFederation, plan: Plan) -> None:
        """Publish the head that is current."""
        canonical, number = federation.canonical, len(self.manifests) + 1
        before = self.manifests.get(HeadVersion(1, number - 1))
        full = split(canonical.full)
        published = federation.versions[-1] if before is not None else canonical.full
        delta = None if published == canonical.full else split(published)
        version = HeadVersion(1, number)
        self.manifests[version] = Manifest(
            head_version=version,
            model=BlobRef(hash=bytes(range(32)), size=60_000),
            head=split(canonical.head.astype("<f4").tobytes()).ref,
            full=full.ref,
            tensors=federation.model.tensors,
            labels=tuple(str(digit) for digit in range(10)),
            plan=plan,
            plan_hash=bytes(32),
            deltas=chain(delta, before.deltas if before else (), full.ref.size),
        )

    def manifest_bytes(self, version: HeadVersion) -> int:
        return len(self._link.manifest(self.manifests[version]))

    def receipt_bytes(self, device: str, version: HeadVersion) -> int:
        receipt = Receipt(
            counter=version.version, envelope_hash=bytes(32), status=ReceiptStatus.COUNTED, current=version
        )
        return len(self._link.receipt(device, receipt))


@dataclass(kw_only=True)
class Fetcher:
    """One device, its connection open, and what came and went for the heads it trained on."""

    joins: int
    here: set[bytes] = field(default_factory=set)  # hashes of heads that are stored
    device: str = field(default_factory=lambda: SigningKey.generate().device_id)
    parts: dict[str, int] = field(default_factory=dict)
    rounds: int = 0

    def round(self, shelf: Shelf, version: HeadVersion) -> None:
        """Hear of a head, fetch it, and have an update on it counted."""
        topics, manifest = Topics(FEDERATION), shelf.manifests[version]
        self._came("manifest", topics.manifest, shelf.manifest_bytes(version))
        route = shortest(manifest, shelf.manifests.get, lambda ref: ref.hash in self.here)
        for step in route.steps:
            kind = "head, whole" if route.base is None else "deltas"
            for topic, size in _chunks(topics, step):
                self._came(kind, topic, size)
                asked = packet_bytes(2 + 2 + len(topic) + 1) + packet_bytes(2 + 2 + len(topic))
                self._add("to subscribe and unsubscribe", asked + ACK + 1 + ACK)
        self.here = {manifest.head.hash}  # the newest is kept
        self._came("receipt", topics.receipt(self.device), shelf.receipt_bytes(self.device, version))
        self._add("acknowledgement of the update", ACK)
        self.rounds += 1

    def _came(self, kind: str, topic: str, size: int) -> None:
        self._add(kind, publish_wire_bytes(topic, size, qos=1))
        self._add("acknowledgements sent", ACK)

    def _add(self, kind: str, size: int) -> None:
        self.parts[kind] = self.parts.get(kind, 0) + size


def _chunks(topics: Topics, ref: BlobRef) -> Iterator[tuple[str, int]]:
    assert chunk_count(ref) == 1, "heads of this bench are short"
    yield topics.blob(ref.hash, 1), ref.size


def run(case: Case) -> dict[str, Any]:
    digits = task("features", case.split, case.seed)
    plan = Plan(codec=SETTINGS[case.setting], norm_bound=100.0, momentum=0.0)
    people = above_the_floor(digits.devices)
    rounded, exact = (LinearFederation.of(digits.model, plan, list(map(replace, people))) for _ in range(2))
    exact.rounds_heads, rounded.max_delta_bytes = False, case.max_delta_bytes
    chance = np.random.Generator(np.random.PCG64([case.seed, case.rounds]))
    joins = [0] * DEVICES + list(range(JOINS_EVERY, case.rounds, JOINS_EVERY))
    devices, others = ([Fetcher(joins=number) for number in joins] for _ in range(2))
    shelf, accuracy = Shelf(), []
    for number in range(case.rounds):
        shelf.add(rounded, plan)
        version = HeadVersion(1, number + 1)
        for device, other in zip(devices, others, strict=True):
            if number >= device.joins:
                device.round(shelf, version)
                if number == device.joins or chance.random() >= AWAY:
                    other.round(shelf, version)
        rounded.run(1)
        exact.run(1)
        accuracy.append([accuracy_of(one.head, digits.holdout) for one in (rounded, exact)])
    rounds = sum(device.rounds for device in devices)
    kinds = sorted({kind for device in devices for kind in device.parts})
    parts = {kind: sum(device.parts.get(kind, 0) for device in devices) / rounds for kind in kinds}
    late = [device for device in devices if device.joins == max(joins)]
    newest = shelf.manifests[HeadVersion(1, case.rounds)]
    return {
        "parts": parts,
        "total": sum(parts.values()),
        "last_to_join": statistics.mean(sum(one.parts.values()) / one.rounds for one in late),
        "some_away": sum(sum(one.parts.values()) for one in others) / sum(one.rounds for one in others),
        "accuracy": [statistics.mean(last) for last in zip(*accuracy[-LAST:], strict=True)],
        "manifest": manifest_parts(newest, shelf.manifest_bytes(newest.head_version)),
        "full": newest.full.size,
        "delta": statistics.mean(one.deltas[0].size for one in shelf.manifests.values() if one.deltas),
        "listed": statistics.mean(len(one.deltas) for one in shelf.manifests.values()),
    }


def manifest_parts(manifest: Manifest, signed_bytes: int) -> dict[str, int]:
    """Say what the bytes of a signed manifest are."""
    payload = len(messages.encode_manifest(manifest))

    def less(**without: Any) -> int:
        return payload - len(messages.encode_manifest(replace(manifest, **without)))

    found = {
        "signature, key's name and frame": signed_bytes - payload,
        "hashes of model, head and full head": 3 * 32,
        "deltas": less(deltas=()),
        "tensors": less(tensors=manifest.tensors[:1]) + 2 + len(manifest.tensors[0].name),
        "labels": less(labels=()),
        "plan": len(messages.encode_plan(manifest.plan)),
    }
    return found | {"versions, sizes and frames": signed_bytes - sum(found.values()), "total": signed_bytes}


def measure(rounds: int = ROUNDS, seeds: int = SEEDS) -> dict[str, Any]:
    cases = [
        Case(split=split_, setting=setting, seed=seed, rounds=rounds)
        for split_ in SPLITS
        for setting in SETTINGS
        for seed in range(seeds)
    ]
    hardest = [case for case in cases if (case.split, case.setting) == HARDEST]
    cases += [replace(case, max_delta_bytes=size) for size in BUDGETS for case in hardest]
    found = dict(zip(cases, together(run, cases), strict=True))
    results: dict[str, Any] = {
        "rounds": rounds,
        "seeds": seeds,
        "devices": DEVICES,
        "away": AWAY,
        "joins_every": JOINS_EVERY,
    }
    for split_ in SPLITS:
        for setting in SETTINGS:
            own = Case(split=split_, setting=setting, seed=0, rounds=rounds)
            results.setdefault(split_, {})[setting] = _digest(_of(found, own))
    tables = [table for split_ in SPLITS for table in results[split_].values()]
    split_, setting = HARDEST
    budgets = {
        size: _digest(
            _of(found, Case(split=split_, setting=setting, seed=0, rounds=rounds, max_delta_bytes=size))
        )
        for size in BUDGETS
    }
    return results | {
        "budgets": {
            str(size): {name: one[name] for name in ("per_device_round", "delta_bytes", "points_lost")}
            for size, one in budgets.items()
        },
        "most_per_device_round": max(table["per_device_round"] for table in tables),
        "most_points_lost": max(table["points_lost"] for table in tables),
    }


def _of(found: dict[Case, dict[str, Any]], wanted: Case) -> list[dict[str, Any]]:
    """Return the results of a case's seeds."""
    return [one for case, one in found.items() if replace(case, seed=wanted.seed) == wanted]


def _digest(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return round(statistics.mean(one[name] for one in runs), 1)

    rounded, exact = (statistics.mean(one["accuracy"][at] for one in runs) for at in (0, 1))
    kinds = sorted({kind for one in runs for kind in one["parts"]})
    return {
        "per_device_round": mean("total"),
        "of_these": {
            kind: round(statistics.mean(one["parts"].get(kind, 0) for one in runs), 1) for kind in kinds
        },
        "of_the_last_to_join": mean("last_to_join"),
        "some_away": mean("some_away"),
        "delta_bytes": mean("delta"),
        "full_bytes_at_the_end": mean("full"),
        "deltas_listed": mean("listed"),
        "manifest": runs[0]["manifest"],
        "accuracy": round(rounded, 4),
        "accuracy_of_a_gateway_that_rounds_nothing": round(exact, 4),
        "points_lost": round(100 * (exact - rounded), 2),
    }


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(measure(*map(int, sys.argv[1:])), indent=2))
