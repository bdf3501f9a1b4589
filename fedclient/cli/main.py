"""The command line: find the verb, load its module only, and turn errors into one line and a code.

A verb's module has `add_parser(subparsers)`, which sets `run`: a function (args) -> exit code.
What it finds in `args`, beside its own options:

    args.config, args.state    what --config and --state said, or None
    args.settings              the Config; only for the verbs marked so below

--config, --state and -v are understood before and after the verb; a verb has no options of
these names.  Exit codes: 0 ok, 1 failed, 2 usage, 75 conditions not met (try later).
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import shlex
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import fedclient
from fedclient.cli import log
from fedclient.errors import ConditionsNotMet, FedClientError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

TRY_LATER: Final = 75  # EX_TEMPFAIL
INTERRUPTED: Final = 130  # as a shell reports SIGINT
BROKEN_PIPE: Final = 141  # as a shell reports SIGPIPE


class Verb(NamedTuple):
    """One line of `fedclient --help`."""

    module: str
    help: str
    settings: bool  # load the config before it runs
    device: bool  # then become the owner of the device's folder; the gateway has one of its own


VERBS: Final = {
    "init": Verb(
        "fedclient.cli.init",
        "make this device's keys and a commented config file",
        settings=False,
        device=False,
    ),
    "enroll": Verb(
        "fedclient.cli.enroll", "join a federation with an invitation", settings=True, device=True
    ),
    "run": Verb(
        "fedclient.cli.run", "the agent: wait for a good moment, train, send", settings=True, device=True
    ),
    "dry-run": Verb(
        "fedclient.cli.dry_run", "train here, on your data, and send nothing", settings=False, device=False
    ),
    "status": Verb(
        "fedclient.cli.status", "state, rounds and bytes of this device", settings=True, device=True
    ),
    "why": Verb(
        "fedclient.cli.why",
        "why it trains now or does not; what would change that",
        settings=True,
        device=True,
    ),
    "pause": Verb("fedclient.cli.pause", "do not train for a while", settings=True, device=True),
    "resume": Verb("fedclient.cli.pause", "end that pause", settings=True, device=True),
    "samples": Verb("fedclient.cli.samples", "import, count and purge samples", settings=True, device=True),
    "nodes": Verb(
        "fedclient.cli.nodes",
        "microcontrollers that send samples here: add them, list them, end them",
        settings=True,
        device=True,
    ),
    "model": Verb("fedclient.cli.model", "write and check trainable models", settings=False, device=False),
    "replay": Verb(
        "fedclient.cli.replay",
        "when a policy would have trained, over recorded readings",
        settings=False,
        device=False,
    ),
    "gateway": Verb(
        "fedclient.cli.gateway", "the other end: invite devices, publish heads", settings=True, device=False
    ),
    "boards": Verb(
        "fedclient.cli.boards",
        "known boards; which one this is, and what it can read",
        settings=False,
        device=False,
    ),
    "doctor": Verb(
        "fedclient.cli.doctor",
        "check board, runtime, broker and permissions; writes nothing",
        settings=False,
        device=False,
    ),
    "service": Verb(
        "fedclient.cli.service", "the systemd units: install or remove them", settings=False, device=False
    ),
    "demo": Verb(
        "fedclient.cli.demo", "a broker, a gateway and devices on this machine", settings=False, device=False
    ),
}


_EVERYWHERE: Final = "Everywhere: --config PATH, --state DIR, -v."
_ALONE: Final = ("-h", "--help", "--version")  # what may stand before a verb, or without one
_EXIT_CODES: Final = "Exit codes: 0 ok, 1 failed, 2 usage, 75 not now, try later."


class _Parser(argparse.ArgumentParser):
    """A parser whose verbs, at any depth, begin their help with their line of the list they are in."""

    def add_subparsers(self, **options: Any) -> Any:
        """Add verbs that describe themselves."""
        verbs: Any = super().add_subparsers(**options)
        add_parser = verbs.add_parser

        def described(name: str, **options: Any) -> _Parser:
            line = options.get("help", "")
            texts = {"description": f"{line[:1].upper()}{line[1:]}.", "epilog": _EVERYWHERE}
            parser: _Parser = add_parser(name, **{**texts, **options})
            return parser

        verbs.add_parser = described
        return verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:  # None: closed by the shell
            sys.stdout.flush()  # here, where a closed pipe or a full disk can still be handled
    except SystemExit as stop:  # argparse: help, version or usage
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except FedClientError as error:
        _report(str(error))
        return 2 if isinstance(error, UsageError) else TRY_LATER if isinstance(error, ConditionsNotMet) else 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _defect(error)
        _drop_output()
        _report("standard output cannot be written: the disk that it goes to is full")
        return 1
    except Exception as error:  # noqa: BLE001 - the last frame: a defect is one line, too
        return _defect(error)
    return code


def _defect(error: Exception) -> int:
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{Path(last.filename).name}:{last.lineno}"
    _report(f"a defect in fedclient: {type(error).__name__}: {error} ({where}); please report it")
    return 1


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more as it ends


def given(args: argparse.Namespace) -> str:
    """Return --config and --state as they were given, for a command that is to be run next."""
    found = (("--config", args.config), ("--state", args.state))
    return "".join(f" {name} {shlex.quote(str(path))}" for name, path in found if path is not None)


def become_owner(state: Path) -> None:
    """Give up root for the owner of the state folder, so that what is written there stays theirs.

    Does nothing without root, for a folder of root's, and where there is none.
    Raises StorageError when the kernel refuses.
    """
    if os.geteuid() != 0 or not state.is_dir():
        return
    import pwd  # noqa: PLC0415 - for root only

    found = state.stat()
    if found.st_uid == 0:
        return
    try:
        owner = pwd.getpwuid(found.st_uid)
        group, groups = owner.pw_gid, os.getgrouplist(owner.pw_name, owner.pw_gid)
    except KeyError:  # an id without a name, as in a container
        group, groups = found.st_gid, [found.st_gid]
    try:
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(found.st_uid)
    except OSError as error:
        raise StorageError(
            f"cannot become user {found.st_uid}, who owns {state}: {error.strerror}; run as that user"
        ) from error
    os.umask(0o007)  # the group shares samples/ and current/; keys have their own mode


def _run(argv: Sequence[str]) -> int:
    gc.disable()  # imports make objects that last: looking for garbage among them is a tenth of the start
    try:
        args = _prepare(argv)
    finally:
        gc.enable()
    code: int = args.run(args)
    return code


def _prepare(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments, load the verb's module, and the settings if it wants them."""
    common = _common()
    args, rest = common.parse_known_args(argv)
    if rest and rest[0].startswith("-") and rest[0] not in _ALONE:
        raise UsageError(f"there is no option {rest[0]} before a verb: `fedclient --help` lists them")
    args = _parser(common, next((word for word in rest if not word.startswith("-")), None)).parse_args(
        rest, args
    )
    log.setup(verbose=args.verbose)
    verb = VERBS[args.command]
    if verb.settings:
        from fedclient import config  # noqa: PLC0415 - half of the verbs need none

        args.settings = config.load(args.config, os.environ, args.state)
        if verb.device:
            become_owner(args.settings.state)
    return args


def _common() -> argparse.ArgumentParser:
    """Return the options that are understood anywhere."""
    parser = argparse.ArgumentParser(prog="fedclient", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="PATH", help="settings (TOML)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the state folder")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more, on standard error")
    return parser


def _parser(common: argparse.ArgumentParser, verb: str | None) -> argparse.ArgumentParser:
    """Return the parser with the one verb's options, or with the list of verbs."""
    parser = _Parser(
        prog="fedclient",
        epilog=_EXIT_CODES,
        description="Federated learning of a model's head, on embedded Linux.",
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fedclient {fedclient.__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="VERB")
    if verb in VERBS:
        import_module(VERBS[verb].module).add_parser(verbs)
    elif verb is None:
        for name, known in VERBS.items():
            verbs.add_parser(name, help=known.help)
    else:
        raise UsageError(
            f"there is no verb {verb}{_meant(verb)}: `fedclient --help` lists {', '.join(VERBS)}"
        )
    return parser


def _meant(verb: str) -> str:
    """Guess which verb was meant."""
    import difflib  # noqa: PLC0415 - for a mistake only

    near = difflib.get_close_matches(verb, VERBS, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _report(sentence: str) -> None:
    """Print the one line, after the traceback if that was asked for."""
    if os.environ.get("FEDCLIENT_DEBUG") == "1":
        traceback.print_exc()
    priority = "<3>" if log.under_journald(os.environ, sys.stderr) else ""
    print(f"{priority}fedclient: {sentence}", file=sys.stderr)
