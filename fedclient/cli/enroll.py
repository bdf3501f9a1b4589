"""`fedclient enroll`: take an invitation; the agent does the asking."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

from fedclient.cli.main import given
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder, open_folder
from fedclient.device.journal import Journal
from fedclient.errors import ConditionsNotMet, EnrolmentError, UsageError
from fedclient.limits import MAX_INVITATION_CHARS
from fedclient.session import Enrolment, State
from fedclient.uplink import DeviceUplink, envelope_hash
from fedclient.values import Invitation, Reason
from fedclient.wire.invitation import decode_invitation

_LOOK_AGAIN_S = 0.2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("enroll", help="join a federation with an invitation")
    parser.add_argument(
        "invitation",
        help="the invitation, a file that holds it, or - for standard input (arguments show in ps)",
    )
    parser.add_argument(
        "--wait", type=float, metavar="S", help="wait up to S seconds for the gateway's answer"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and store the invitation; with --wait, wait for what the running agent makes of it."""
    if args.wait is not None and not 0 <= args.wait < math.inf:
        raise UsageError(f"--wait is {args.wait}: give a number of seconds")
    folder = open_folder(args.settings.state)
    pasted = _read(args.invitation)
    invitation = decode_invitation(pasted)
    broker = args.settings.broker.resolve(invitation.broker)
    request = _store(folder, pasted, invitation)
    if args.wait is not None:
        _wait(folder, request, args.wait)
    done = _state(folder).enrolment is Enrolment.DONE
    key = SigningKey.load(folder.key)
    if args.json:
        print(json.dumps({"device_id": key.device_id, "federation": invitation.federation}))
        return 0
    print(f"device      {key.device_id}")
    print(f"federation  {invitation.federation} at {broker.host}:{broker.port}")
    asks = f"fedclient{given(args)} run  (it asks the gateway)"
    print(f"next        {'enrolled' if done else asks}")
    return 0


def _read(source: str) -> str:
    path, most = Path(source), 2 * MAX_INVITATION_CHARS  # white space around it is no part of it
    try:
        if source == "-":
            return sys.stdin.read(most)
        if len(source) < 256 and path.is_file():
            with path.open(encoding="ascii") as file:
                return file.read(most)
        if "/" in source:  # no invitation has one
            raise UsageError(f"{path}: there is no such file")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the invitation cannot be read: {error}") from error
    return source


def _store(folder: DeviceFolder, pasted: str, invitation: Invitation) -> bytes:
    """Store invitation and request; the same invitation again keeps the same request."""
    stored = enrolment.load(folder.enrolment)
    state = _state(folder)
    if stored is not None and stored.invitation == invitation:
        if state.refusal is not Reason.REVOKED:  # then the agent goes on asking
            _check_not_refused(state, stored.request)
        return stored.request
    if stored is not None and state.enrolment is Enrolment.DONE:
        raise EnrolmentError(
            f"this device is enrolled in {stored.invitation.federation} already: "
            "set up another state folder with `fedclient --state DIR init` for another federation"
        )
    uplink = DeviceUplink(
        federation=invitation.federation,
        key=SigningKey.load(folder.key),
        gateway_sealing_key=invitation.sealing_key,
    )
    request = uplink.enrolment(invitation.token)
    enrolment.save(folder.enrolment, pasted, request)
    return request


def _state(folder: DeviceFolder) -> State:
    database = open_database(folder)
    try:
        return Journal(database).load_state()
    finally:
        database.close()


def _check_not_refused(state: State, request: bytes) -> None:
    """Raise EnrolmentError when the gateway has refused this very request."""
    if state.enrolment is Enrolment.REFUSED and state.request == envelope_hash(request).hex():
        reason = state.refusal.name.lower().replace("_", " ")
        raise EnrolmentError(f"the gateway refused this device: {reason}; ask for a new invitation")


def _wait(folder: DeviceFolder, request: bytes, patience_s: float) -> None:
    """Watch the agent's database until the gateway's word is there."""
    until = time.monotonic() + patience_s
    wanted = envelope_hash(request).hex()
    while True:
        state = _state(folder)
        if state.request == wanted and state.enrolment is Enrolment.DONE:
            return
        _check_not_refused(state, request)
        if time.monotonic() > until:
            raise ConditionsNotMet(
                f"no answer within {patience_s:g} s: is `fedclient run` running here, and the gateway there? "
                "The invitation is stored, the agent goes on asking"
            )
        time.sleep(_LOOK_AGAIN_S)
