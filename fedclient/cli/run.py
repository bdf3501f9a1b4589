"""`fedclient run`: the agent, as a daemon or for one round."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from fedclient import boards, daemon
from fedclient import config as settings
from fedclient.cli.broker import nodes_opener, opener
from fedclient.client.agent import Agent
from fedclient.client.service import DeviceService
from fedclient.config import Config
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder, open_folder
from fedclient.device.journal import Journal
from fedclient.errors import ConditionsNotMet, ConfigError, EnrolmentError, FinalError
from fedclient.limits import MAX_DEVICE_PACKET_BYTES, MAX_NODE_PACKET_BYTES
from fedclient.session import Enrolment
from fedclient.values import Reason

log = logging.getLogger(__name__)

PATIENCE_S = 60.0  # how long `--once` waits for the gateway's next word


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("run", help="the agent: wait for a good moment, train, send")
    parser.add_argument(
        "--once", action="store_true", help="one round at most, then end; exit 75 when conditions are not met"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="read /sys and /proc below DIR; for tests"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the agent until a signal, or for one round."""
    config = args.settings
    folder = open_folder(config.state)
    agent = _agent(args, folder, config)
    files = ",".join(map(str, config.files)) or "none"
    log.info("agent starts device=%s state=%s config=%s", agent.device_id, folder.path, files)
    if not args.once:
        _say_if_out(folder)
        renew = None if os.isatty(2) else lambda: _renewed(args, folder)  # whoever closes a terminal is done
        return daemon.run(_service(folder, config, agent), reload=renew, headline=_headline)
    once = _Once(agent)
    code = daemon.run(once, done=once.is_over)
    return code or once.result()


def _agent(args: argparse.Namespace, folder: DeviceFolder, config: Config) -> Agent:
    return Agent(folder, config, opener(config, MAX_DEVICE_PACKET_BYTES), root=args.root)


def _service(folder: DeviceFolder, config: Config, agent: Agent) -> DeviceService:
    return DeviceService(folder, config, agent, nodes_opener(config, MAX_NODE_PACKET_BYTES))


def _renewed(args: argparse.Namespace, folder: DeviceFolder) -> Callable[[], DeviceService]:
    """Read the settings again, and return what opens the agent on them; raises ConfigError."""
    config = settings.load(args.config, os.environ, args.state)
    if config.state != folder.path:
        raise ConfigError(f"the state folder is now {config.state}, not {folder.path}: this takes a restart")
    from fedclient.client.nodes import refuse_federation  # noqa: PLC0415 - most devices have no nodes

    config.policy_on(boards.here(args.root))  # refused here, not after the old agent has ended
    joined = enrolment.load(folder.enrolment)
    if joined is not None:
        broker = config.broker.resolve(joined.invitation.broker)
        opener(config, MAX_DEVICE_PACKET_BYTES)(broker, "")
    if config.nodes.enabled:
        refuse_federation(folder, config)
        nodes_opener(config, MAX_NODE_PACKET_BYTES)("")
    return lambda: _service(folder, config, _agent(args, folder, config))


def _headline(service: daemon.Service) -> str:
    """Say in one line what the agent is doing, for `systemctl status`."""
    assert isinstance(service, DeviceService)  # noqa: S101 - for the type checker
    agent = service.agent
    if agent.down_reason:
        return f"{agent.state.phase.value}; no connection: {agent.down_reason}"
    return "; ".join(filter(None, (agent.state.phase.value, agent.disk_reason or agent.work.why_not)))


def _say_if_out(folder: DeviceFolder) -> None:
    """Say that this device is in no federation: the agent waits for an invitation without a word."""
    database = open_database(folder)
    state = Journal(database).load_state()
    database.close()
    if state.enrolment is Enrolment.REFUSED:
        reason = state.refusal.words
        log.warning("the gateway refused this device: %s; waiting for another `fedclient enroll`", reason)
    elif not folder.enrolment.exists():
        log.warning("not enrolled: waiting for `fedclient enroll INVITATION`")


class _Once:
    """An agent that ends after one round, or when there will be none."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._now_s = self._heard_s = 0.0
        self._before: object = None

    def start(self, now_s: float) -> None:
        """Start the agent."""
        self._heard_s = now_s
        self._agent.start(now_s)

    def interests(self) -> dict[int, int]:
        """Wait for what the agent waits for."""
        return self._agent.interests()

    def stop(self) -> None:
        """End the agent."""
        self._agent.stop()

    def deadline_s(self) -> float | None:
        """Wake up at the end of patience too."""
        own = self._agent.deadline_s()
        patience = self._heard_s + PATIENCE_S
        return patience if own is None else min(own, patience)

    def service(self, ready: Collection[int], now_s: float) -> None:
        """Let the agent work, and note when anything happens."""
        self._agent.service(ready, now_s)
        self._now_s = now_s
        state = self._agent.state
        if state != self._before or state.running or state.judging is not None:
            self._before, self._heard_s = state, now_s

    def is_over(self) -> bool:
        """Whether a round is done, or none will come."""
        agent = self._agent
        state = agent.state
        if state.enrolment is Enrolment.NONE or agent.settled:
            return True
        if state.enrolment is Enrolment.REFUSED and state.refusal is not Reason.REVOKED:
            return True  # one that was revoked asks whether it was reinstated
        if agent.down_reason or agent.disk_reason or agent.work.failure or agent.heads.trouble:
            return True
        if state.running or state.judging is not None or state.unsettled is not None:
            return self._impatient()
        return self._nothing_new() or bool(agent.work.closed_gates) or self._impatient()

    def _nothing_new(self) -> bool:
        state = self._agent.state
        busy = state.running or state.unsettled is not None or state.wanted is not None or state.may_train
        return self._agent.saw_manifest and not busy

    def _impatient(self) -> bool:
        return self._now_s > self._heard_s + PATIENCE_S

    def result(self) -> int:
        """Return the exit code; raises what stands in the way."""
        agent = self._agent
        if agent.settled:
            return 0
        if agent.state.enrolment is Enrolment.NONE:
            raise EnrolmentError("this device is not enrolled: run `fedclient enroll INVITATION`")
        if agent.state.enrolment is Enrolment.REFUSED:
            raise EnrolmentError(f"the gateway refused this device: {agent.state.refusal.words}")
        if agent.work.failure:
            raise FinalError(f"training failed: {agent.work.failure}; the trainer's own line is above")
        if not_now := agent.disk_reason or agent.heads.trouble:
            raise ConditionsNotMet(f"not now: {not_now}")
        if agent.down_reason:
            raise ConditionsNotMet(f"no connection: {agent.down_reason}")
        if agent.work.closed_gates:
            raise ConditionsNotMet(f"not now: {agent.work.why_not}")
        if self._impatient():
            raise ConditionsNotMet(
                f"the gateway has not answered for {PATIENCE_S:.0f} s: nothing is lost, try later"
            )
        if not self._nothing_new():
            raise ConditionsNotMet("stopped before the round was done: nothing is lost, try later")
        if agent.state.current is None:
            raise FinalError(
                "no head was taken: the gateway's is not allowed here, or older than one this device has seen"
            )
        print("nothing to do: the current head was trained on already", file=sys.stderr)
        return 0
