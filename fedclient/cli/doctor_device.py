"""Checks of this device: settings, state folder, key, database, federation, broker, agent and service."""

from __future__ import annotations

import os
import pwd
import re
import select
import selectors
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import fedclient
from fedclient import daemon
from fedclient.cli import broker as brokers
from fedclient.cli import service as units
from fedclient.cli.doctor_finding import Finding, Patient, fail, ok, warning
from fedclient.client import console
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment as invitations
from fedclient.device.database import MIGRATIONS
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, StorageError, StorageReadOnly, Unreachable
from fedclient.limits import MAX_DEVICE_PACKET_BYTES
from fedclient.samples.store import features_path
from fedclient.session import Enrolment, State
from fedclient.storage import Database
from fedclient.transport.base import Connected, Disconnected, Transport
from fedclient.values import Broker

ANSWER_S: Final = 20.0  # of a broker, once there is a connection; the transport gives up before
AGENT_S: Final = 5.0
UNIT: Final = "fedclient.service"
_WANTS: Final = units.UNITS / "multi-user.target.wants" / UNIT
_START: Final = re.compile(r"^ExecStart=(\S+)", re.MULTILINE)
_GROUPS: Final = ("samples", "current")  # folders that apps of the group use, too


def settings(patient: Patient) -> Finding:
    """Tell whether the settings are valid, on this board, and readable for the one who runs the agent."""
    if patient.config_error:
        return fail(patient.config_error, "until then the other lines are about the defaults")
    files = patient.config.files
    hidden = [path for path in files if not os.access(path, os.R_OK, effective_ids=True)]
    if hidden:
        return fail(f"{hidden[0]}: {_me()} may not read it", f"chmod 0644 {hidden[0]}: it holds no secrets")
    gate = patient.readings.own_gate
    if patient.policy.gate is not None and gate.value is None:
        return fail(gate.reason, "mend that function; until then it does not train")
    for section, path in (("trace", patient.config.trace.file), ("metrics", patient.config.metrics.file)):
        if path is not None and (trouble := _unwritable(path)):
            return warning(f"[{section}] file {path}: {trouble}", "make it possible, or name another file")
    found = ", ".join(map(str, files))
    return ok(found or f"no file: the defaults hold ({patient.command('init')} writes them, commented)")


def _unwritable(path: Path) -> str:
    """Return why a file cannot be written, as far as one can tell without doing it; empty when it can."""
    folder = path.parent
    if path.is_dir():
        return "this is a folder"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{_me()} may not write in {folder}"


def state(patient: Patient) -> Finding:
    """Tell whether there is a state folder, whose it is, and who may look into it."""
    folder = patient.config.state
    try:
        if not folder.is_dir():
            return warning(
                f"there is no {folder} yet", f"{patient.command('init')} makes it, the key and a config file"
            )
        if (folder / "gateway.db").exists():
            return fail(f"{folder} is a gateway's", "give the device its own with --state DIR")
        owner = folder.stat().st_uid
        rights = {one: _mode(one) for one in [folder, *(folder / name for name in ("keys", "blobs"))]}
    except PermissionError:
        return fail(f"{folder}: {_me()} may not look into it", "run this as root, or as the folder's owner")
    open_ = [path for path, mode in rights.items() if mode & 0o007 or (path != folder and mode & 0o070)]
    if open_:
        kept = 0o750 if open_[0] == folder else 0o700
        return fail(f"{open_[0]}: others may look into it", f"chmod {kept:o} {open_[0]}")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return fail(f"{folder} is on a disk that is mounted read-only", "mount it writable, and see dmesg")
    closed = [one for one in (folder, *_inside(folder)) if not os.access(one, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        return fail(f"{closed[0]}: {_me()} may not write in it", f"chown -R {_name(owner)} {folder}")
    return ok(f"{folder}, of {_name(owner)}, mode {rights[folder]:04o}")


def _inside(folder: Path) -> list[Path]:
    return [path for name in ("keys", "blobs", *_GROUPS) if (path := folder / name).exists()]


def room(patient: Patient) -> Finding:
    """Tell how much room is left where the state is, or would be."""
    reading, least = patient.readings.free_disk_mib, patient.policy.min_free_disk_mib
    if reading.value is None:
        return warning(f"unknown: {reading.reason}", "see whether that disk is mounted")
    found = f"{reading.value:,.0f} MiB free ({reading.source})"
    if least is not None and reading.value < least:
        return warning(
            found, f"it trains with {least:g} MiB or more: make room, or [schedule] min_free_disk_mib"
        )
    return ok(found)


def key(patient: Patient) -> Finding:
    """Tell whether the key is whole, nobody else's business, and of the folder's owner."""
    path = patient.folder.key
    if not _there(path):
        return warning("there is none yet", f"{patient.command('init')} makes it")
    try:
        found = SigningKey.load(path)
    except StorageError as error:
        return fail(str(error), "a key is mode 0600, and its owner's alone")
    owner, of_folder = path.stat().st_uid, patient.config.state.stat().st_uid
    if owner != of_folder:
        return fail(
            f"{path} is {_name(owner)}'s, the folder {_name(of_folder)}'s", f"chown {_name(of_folder)} {path}"
        )
    return ok(f"device {found.device_id}, mode {_mode(path):04o}, of {_name(owner)}")


def database(patient: Patient) -> Finding:
    """Read every page of the databases, and write nothing."""
    folder = patient.folder
    schemas: dict[Path, Sequence[str] | None] = {
        folder.database: MIGRATIONS,
        folder.samples: None,
        features_path(folder.samples): None,
    }
    sizes = []
    for path, migrations in schemas.items():
        if not _there(path):
            continue
        if not _can_be_looked_at(path):
            return warning(
                f"{path}-wal cannot be read without writing", "the agent takes it in when it starts"
            )
        with closing(Database.open_to_look(path)) as found:
            found.check(migrations)
        sizes.append(f"{path.name} {path.stat().st_size / 1024:,.0f} KiB")
    return ok(
        f"every page of {', '.join(sizes)} can be read" if sizes else "there is none yet: the agent makes it"
    )


def membership(patient: Patient) -> Finding:
    """Tell whether this device is in a federation."""
    if not _there(patient.folder.enrolment):
        return warning("not enrolled yet", patient.command("enroll INVITATION"))
    stored = invitations.load(patient.folder.enrolment)
    if stored is None:  # it went away just now
        return warning("not enrolled yet", patient.command("enroll INVITATION"))
    name, state_ = stored.invitation.federation, _state(patient)
    if state_ is None:
        return warning(f"invited to {name}; more is in the database, which waits for the agent", "start it")
    if state_.enrolment is Enrolment.DONE:
        return ok(f"enrolled in {name}")
    if state_.enrolment is Enrolment.REFUSED:
        return fail(
            f"the gateway of {name} refused this device: {state_.refusal.words}", "get a new invitation"
        )
    return warning(
        f"invited to {name}, no answer so far", f"{patient.command('run')} asks; is the gateway running?"
    )


def _can_be_looked_at(path: Path) -> bool:
    """Tell whether SQLite can read without writing: not where a log's index is missing."""
    return not Path(f"{path}-wal").exists() or Path(f"{path}-shm").exists()


def _state(patient: Patient) -> State | None:
    """Return where the session stands, None where it cannot be read without writing."""
    path = patient.folder.database
    if not _there(path):
        return State()
    if not _can_be_looked_at(path):
        return None
    with closing(Database.open_to_look(path)) as database_:
        return Journal(database_).load_state()


def broker(patient: Patient) -> Finding:
    """Connect to the broker as the agent does."""
    stored = invitations.load(patient.folder.enrolment) if _there(patient.folder.enrolment) else None
    if stored is None and patient.config.broker.host is None:
        return warning("not set yet", "an invitation brings it, or [broker] host")
    try:
        wanted = patient.config.broker.resolve(None if stored is None else stored.invitation.broker)
        transport = brokers.opener(patient.config, MAX_DEVICE_PACKET_BYTES)(wanted, client_id(patient))
        return attempt(transport, wanted)
    except ConfigError as error:
        return fail(str(error), "see [broker] in the settings")


def client_id(patient: Patient) -> str:
    """Return the agent's own, which a broker may know; another while an agent is connected with it."""
    try:
        own = SigningKey.load(patient.folder.key).device_id
    except StorageError:
        return "fedclient-doctor"
    return f"{own}-doctor" if patient.folder.in_use() else own


def attempt(transport: Transport, wanted: Broker) -> Finding:
    """Take one attempt to its end."""
    started = daemon.boottime_s()
    with closing(transport):
        transport.connect(started)
        ready: list[int] = []
        while daemon.boottime_s() < started + ANSWER_S:
            for event in transport.service(ready, daemon.boottime_s()):
                if isinstance(event, Connected):
                    took_ms = 1000 * (daemon.boottime_s() - started)
                    how = "TLS" if wanted.tls else "without TLS"
                    return ok(f"{wanted.host}:{wanted.port} took the connection ({how}, {took_ms:.0f} ms)")
                if isinstance(event, Disconnected):
                    found, _, remedy = event.reason.rpartition(": ")
                    return fail(found or remedy, remedy)
            ready = _wait(transport)
    return fail(f"no answer from {wanted.host}:{wanted.port}", "see the broker's log")


def _wait(transport: Transport) -> list[int]:
    interests, deadline_s = transport.interests(), transport.deadline_s()
    patience_s = 1.0 if deadline_s is None else min(max(0.0, deadline_s - daemon.boottime_s()), 1.0)
    if not interests:
        time.sleep(min(patience_s, 0.05))
        return []
    writers = [fd for fd, events in interests.items() if events & selectors.EVENT_WRITE]
    readable, writable, _ = select.select(list(interests), writers, [], patience_s)
    return [*readable, *writable]


def agent(patient: Patient) -> Finding:
    """Tell whether the agent runs, and what it says."""
    folder = patient.folder
    if not folder.in_use():
        if not _there(folder.enrolment):
            return ok("not running: there is nothing to do before this device is enrolled")
        start = "sudo systemctl start fedclient" if _unit(patient) else patient.command("run")
        return warning("not running", start)
    try:
        said = console.ask(folder.path, {"ask": "status"}, AGENT_S)
    except Unreachable as error:
        return warning(f"running, and does not answer: {error}", "see its log: journalctl -u fedclient")
    return ok(f"running; {said['sentence']}" if said else "running")


def service(patient: Patient) -> Finding:
    """Tell whether systemd starts the agent."""
    unit = _unit(patient)
    if not unit:
        if not patient.runs_systemd:
            return ok("this system does not run systemd: `fedclient run` is started by what it has instead")
        return warning("not installed: nothing starts the agent", "sudo fedclient service install")
    found = _START.search(unit)
    program = Path(found[1]) if found else None
    if program is None or not patient.tree.exists(str(program)):
        return fail(
            f"{UNIT} starts {program or 'nothing'}, which is not there", "sudo fedclient service install"
        )
    if not os.path.lexists(patient.root / _WANTS.relative_to("/")):
        return warning(f"{UNIT} starts {program}, but not with the system", f"sudo systemctl enable {UNIT}")
    return ok(f"{UNIT} starts {program} with the system")


def _unit(patient: Patient) -> str:
    """Return the unit's text, empty where it is not installed."""
    path = str(units.UNITS / UNIT)
    return patient.tree.text(path) if patient.tree.exists(path) else ""


def installation(patient: Patient) -> Finding:
    """Tell whether who runs the agent can read the program."""
    needed = [
        Path(sys.prefix),
        Path(sys.executable).resolve(),
        Path(sys.base_prefix),
        Path(fedclient.__file__),
    ]
    closed = [path for path in needed if not os.access(path, os.R_OK, effective_ids=True)]
    if closed:
        return fail(f"{closed[0]}: {_me()} may not read it", units.ELSEWHERE)
    found = f"{Path(fedclient.__file__).parent} in {sys.prefix}"
    why, remedy = next((said for path in needed if (said := units.unreachable(path))[0]), ("", ""))
    if not why or not patient.runs_systemd:
        return ok(found)
    if _unit(patient):
        return fail(why, remedy)
    return warning(f"{found}: good for {patient.command('run')}, not for the service: {why}", remedy)


def _there(path: Path) -> bool:
    """Tell whether there is such a file; raises StorageError where it may not be looked for."""
    try:
        return path.exists()
    except PermissionError:
        raise StorageReadOnly(f"{path}: {_me()} may not look for it") from None


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0


def _me() -> str:
    return f"the user {_name(os.geteuid())}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
