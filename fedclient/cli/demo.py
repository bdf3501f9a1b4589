"""`fedclient demo`: a broker, a gateway and devices as processes on this machine, on real data.

The same head is trained centrally, on all samples in one place, and by plain FedAvg with fp32
deltas; the demo succeeds only if the federation comes close to one of them and lost no update.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final, TextIO

from fedclient.cli.broker import parse
from fedclient.errors import ConfigError, Unreachable, UsageError
from fedclient.values import Broker, Phase

if TYPE_CHECKING:
    from fedclient.gateway.store import Round
    from fedclient.testing.digits import Task
    from fedclient.testing.fleet import Fleet

FINAL_ROUNDS: Final = 5  # final accuracy is the mean of so many
OF_CENTRALISED, OF_FEDAVG = 0.03, 0.01  # how far below them is good enough
FP32_BYTES: Final = 4 * (64 * 10 + 10)  # one delta of the demo's head, without any header
_EPSILON = 1e-9  # of sums of floats
_DEVICES, _ROUNDS = (2, 30), (1, 900)  # more devices leave each too few samples; a history has 1000 rows
_ROUND_S = 60.0  # a round takes one
_LINES_EVERY = 5  # rounds, where there is no terminal
_PLOT_ROWS, _PLOT_COLUMNS = 8, 60
_BROKER_S = 5.0
_LOOK_S = 0.2  # between two looks at memory and phases


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round: the head it led to, and MQTT bytes of all devices' updates and from the gateway."""

    round: int
    accuracy: float
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `--json` prints; accuracies of 0 to 1, on held-out data."""

    rounds: tuple[RoundReport, ...]
    devices: int
    final_accuracy: float
    centralised_accuracy: float
    fp32_fedavg_accuracy: float
    fp32_bytes_up_per_round: int  # all devices' deltas as float32, without any header
    agent_peak_pss_mib: float
    trainer_peak_pss_mib: float
    updates_counted: int
    updates_lost: int  # finished by a device, and not known on both ends as counted

    @property
    def ok(self) -> bool:
        """Whether the demo shows what it promises."""
        near = close_enough(self.final_accuracy, self.centralised_accuracy, self.fp32_fedavg_accuracy)
        return near and not self.updates_lost


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """MQTT bytes of one device in one round, on average: everything but TCP."""

    up: float
    down: float

    @classmethod
    def of(cls, fleet: Fleet) -> Traffic:
        """Add up what the devices counted."""
        settled = sum(1 for device in fleet.devices for one in device.history() if one.status)
        up, down = (sum(bytes_) for bytes_ in zip(*(one.traffic() for one in fleet.devices), strict=True))
        return cls(up=up / max(1, settled), down=down / max(1, settled))


def close_enough(final: float, centralised: float, fedavg: float) -> bool:
    """Whether `final` is within 3 points of centralised training or within 1 point of FedAvg."""
    return final >= min(centralised - OF_CENTRALISED, fedavg - OF_FEDAVG) - _EPSILON


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("demo", help="a broker, a gateway and devices on this machine")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this broker (default: one of its own)")
    parser.add_argument("--devices", type=int, default=5, metavar="N", help="how many (5)")
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="how many (40)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split of the data (0)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep all state and logs in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when it shows what it promises."""
    for option, value, (low, high) in (("devices", args.devices, _DEVICES), ("rounds", args.rounds, _ROUNDS)):
        if not low <= value <= high:
            raise UsageError(f"--{option} {value}: give {low} to {high}")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give 0 or more")
    _need("flatbuffers", *(() if args.broker else ("amqtt",)))
    with ExitStack() as stack:
        stack.enter_context(_interruptible())
        root = stack.enter_context(_folder(args.keep))
        broker = _reachable(args.broker) if args.broker else stack.enter_context(_own_broker())
        report, traffic = _Demo(args, root, broker).run()
    print(summary(report, traffic), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(asdict(report)))
    return 0 if report.ok else 1


class _Demo:
    """One run: sets up, watches, measures."""

    def __init__(self, args: argparse.Namespace, root: Path, broker: Broker) -> None:
        self._args = args
        self._root = root
        self._broker = broker
        self._agent_peak_mib = 0.0
        self._look_at_s = 0.0
        self._progress = Progress(args.rounds, sys.stderr)

    def run(self) -> tuple[Report, Traffic]:
        """Run the rounds, and what they are compared with."""
        from fedclient.testing import digits  # noqa: PLC0415 - NumPy and the runtime are for this verb only

        rounds = self._args.rounds
        task = digits.task(self._args.devices, self._args.seed)
        with self._fleet(task) as fleet, ExitStack() as stack:
            if self._args.broker:
                stack.callback(fleet.clear_broker)
            fleet.start()
            for number in range(1, rounds + 1):
                self._wait_for(fleet, number)
            self._progress.end()
            fleet.drain()
            compared = digits.centralised(task, rounds), digits.fp32_fedavg(task, rounds)
            return self._report(fleet, *compared), Traffic.of(fleet)

    def _wait_for(self, fleet: Fleet, number: int) -> None:
        fleet.wait_until(lambda: self._made(fleet) >= number, _ROUND_S, f"round {number}")

    def _fleet(self, task: Task) -> Fleet:
        """Set up the gateway and the devices, and say what will run."""
        from fedclient.config import GatewaySettings  # noqa: PLC0415 - ditto
        from fedclient.testing import digits  # noqa: PLC0415 - ditto
        from fedclient.testing.fleet import Fleet  # noqa: PLC0415 - ditto

        holdout = self._root / "holdout.npz"
        task.save_holdout(holdout)
        devices = len(task.devices)
        settings = GatewaySettings(cohort=devices, min_devices=devices, holdout=holdout)
        # another demo on the same broker has another name
        fleet = Fleet(self._root, self._broker, settings, federation=f"demo-{os.urandom(3).hex()}")
        fleet.publish(task.model, digits.PLAN)
        for own in task.devices:
            fleet.add_device(own.x, own.y.tolist())
        samples = sorted(len(own) for own in task.devices)
        plan = digits.PLAN
        print(
            f"{devices} devices with {samples[0]} to {samples[-1]} handwritten digits of"
            f" {digits.CLASSES_PER_DEVICE} classes each, {self._args.rounds} rounds",
            f"broker    {self._broker.host}:{self._broker.port}",
            f"state     {self._root}",
            f"plan      {plan.epochs} epochs, batches of {plan.batch_size}, learning rate"
            f" {plan.learning_rate}, {plan.codec.mode.name.lower()}, density {plan.codec.density}",
            f"policy    {fleet.policy}; the privacy floor as it comes",
            sep="\n",
            file=sys.stderr,
        )
        return fleet

    def _made(self, fleet: Fleet) -> int:
        """Look at the fleet, show it, and return how many rounds are done."""
        made = fleet.rounds()
        if time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + _LOOK_S
            self._agent_peak_mib = max(self._agent_peak_mib, *(device.pss_mib() for device in fleet.devices))
            training = [
                number
                for number, device in enumerate(fleet.devices, 1)
                if device.state().phase is Phase.TRAINING
            ]
            self._progress.show(made, training)
        self._progress.tell(made)
        return len(made)

    def _report(self, fleet: Fleet, centralised: list[float], fedavg: list[float]) -> Report:
        made = fleet.rounds()[: self._args.rounds]
        finished = {(device.id, one.counter): one for device in fleet.devices for one in device.history()}
        settled = {update for update, one in finished.items() if one.status == "counted"}
        counted = fleet.counted()
        peaks = [one.report.get("peak_pss_mib") for one in finished.values()]
        return Report(
            rounds=tuple(
                RoundReport(
                    round=number,
                    accuracy=one.accuracy or 0.0,
                    bytes_up=one.bytes_up,
                    bytes_down=one.bytes_down,
                    seconds=round(one.seconds, 3),
                )
                for number, one in enumerate(made, 1)
            ),
            devices=len(fleet.devices),
            final_accuracy=final([one.accuracy or 0.0 for one in made]),
            centralised_accuracy=final(centralised),
            fp32_fedavg_accuracy=final(fedavg),
            fp32_bytes_up_per_round=len(fleet.devices) * FP32_BYTES,
            agent_peak_pss_mib=round(self._agent_peak_mib, 1),
            trainer_peak_pss_mib=round(max((one for one in peaks if isinstance(one, float)), default=0.0), 1),
            updates_counted=len(counted),
            updates_lost=len(finished.keys() - (settled & counted)),
        )


class Progress:
    """How far it is: a line that changes on a terminal, else a line every few rounds."""

    def __init__(self, rounds: int, stream: TextIO) -> None:
        self._rounds = rounds
        self._stream = stream
        self._terminal = stream.isatty()
        self._told = 0

    def show(self, made: Sequence[Round], training: Sequence[int]) -> None:
        """Draw the line of the terminal again."""
        if self._terminal:
            who = f"training: {', '.join(map(str, training)) or '-'}"
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{self._line(made)}  {who}"[: width + 4])
            self._stream.flush()

    def tell(self, made: Sequence[Round]) -> None:
        """Print a line now and then, where there is no terminal."""
        if not self._terminal and len(made) // _LINES_EVERY > self._told // _LINES_EVERY:
            print(self._line(made), file=self._stream, flush=True)
        self._told = len(made)

    def end(self) -> None:
        """Leave the line as it is."""
        if self._terminal:
            self._stream.write("\n")

    def _line(self, made: Sequence[Round]) -> str:
        head = f"round {len(made)} of {self._rounds}"
        if not made:
            return head
        last = made[-1]
        return (
            f"{head}  accuracy {100 * (last.accuracy or 0.0):.1f} %"
            f"  up {last.bytes_up} B  down {last.bytes_down} B  {last.seconds:.1f} s"
        )


def final(accuracies: Sequence[float]) -> float:
    """Mean of the last rounds."""
    return round(fmean(accuracies[-FINAL_ROUNDS:]), 4)


def summary(report: Report, traffic: Traffic) -> str:
    """Say how it went, for people."""
    rounds = report.rounds
    update = sum(one.bytes_up for one in rounds) / len(rounds) / report.devices
    lines = {
        "final accuracy": f"{report.final_accuracy:.1%}, mean of the last {FINAL_ROUNDS} rounds",
        "centralised": f"{report.centralised_accuracy:.1%}, the same head and passes, all samples together",
        "fp32 FedAvg": f"{report.fp32_fedavg_accuracy:.1%}, the same split and plan, whole deltas",
        "an update": f"{update:,.0f} B on the wire; its fp32 delta alone is {FP32_BYTES:,} B",
        "device and round": f"{traffic.up:,.0f} B up, {traffic.down:,.0f} B down, all of MQTT",
        "peak PSS": f"agent {report.agent_peak_pss_mib} MiB, trainer {report.trainer_peak_pss_mib} MiB",
        "updates": f"{report.updates_counted} counted, {report.updates_lost} lost",
        "time": f"{sum(one.seconds for one in rounds):.0f} s for {len(rounds)} rounds",
        "verdict": verdict(report),
    }
    return "\n".join(
        [
            "accuracy on held-out digits, round by round",
            *plot([one.accuracy for one in rounds]),
            *(f"{name:<18}{text}" for name, text in lines.items()),
        ]
    )


def verdict(report: Report) -> str:
    """Say whether the demo shows what it promises, and why not."""
    below = 100 * (report.centralised_accuracy - report.final_accuracy)
    if report.updates_lost:
        return f"FAILED: {report.updates_lost} updates were lost"
    if not report.ok:
        return f"FAILED: {below:.1f} points below centralised (3 allowed), and not within 1 of fp32 FedAvg"
    near = report.final_accuracy >= report.centralised_accuracy - OF_CENTRALISED - _EPSILON
    return "ok: " + ("within 3 points of centralised" if near else "within 1 point of fp32 FedAvg")


def plot(values: Sequence[float]) -> list[str]:
    """Draw shares as a curve of characters; more of them than columns are averaged."""
    columns = min(len(values), _PLOT_COLUMNS)
    edges = [len(values) * column // columns for column in range(columns + 1)]
    means = [fmean(values[low:high]) for low, high in pairwise(edges)]
    bottom = math.floor(10 * min(means)) / 10 if min(means) < 1 else 0.9
    step = (1 - bottom) / _PLOT_ROWS
    heights = [min(_PLOT_ROWS - 1, int((mean - bottom) / step)) for mean in means]
    lines = [
        f"{bottom + row * step:6.1%} |"
        + "".join("*" if height == row else " " for height in heights).rstrip()
        for row in reversed(range(_PLOT_ROWS))
    ]
    return [*lines, "       +" + "-" * columns]


def _need(*modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"the demo needs {' and '.join(missing)}: pip install 'fedclient[demo]'")


@contextmanager
def _interruptible() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C: with everything that was started, and the folder gone."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield a folder that is removed afterwards, or the one to keep."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="fedclient-demo-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        used = any(keep.iterdir())
    except OSError as error:
        raise UsageError(f"--keep {keep}: {error.strerror}") from None
    if used:
        raise UsageError(f"--keep {keep}: there is something in it already, name an empty or new folder")
    yield keep.absolute()


@contextmanager
def _own_broker() -> Iterator[Broker]:
    from fedclient.testing.broker import EmbeddedBroker  # noqa: PLC0415 - ditto

    with EmbeddedBroker() as broker:
        yield Broker(host="127.0.0.1", port=broker.port)


def _reachable(address: str) -> Broker:
    """Return the broker at HOST:PORT if something listens there."""
    broker = parse(address)
    try:
        socket.create_connection((broker.host, broker.port), _BROKER_S).close()
    except OSError as error:
        raise Unreachable(f"no broker at {address}: {error.strerror or error}; is it running?") from None
    return broker
