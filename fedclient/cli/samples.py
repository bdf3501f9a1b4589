"""`fedclient samples`: import, count and purge what this device trains on."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING
from zlib import crc32

from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Jobs
from fedclient.device.journal import Journal
from fedclient.device.outbox import Outbox
from fedclient.device.personal import PersonalLayer
from fedclient.device.residual import Residual
from fedclient.device.slots import Slots
from fedclient.device.tuned import TunedHead
from fedclient.errors import ConfigError, StorageDamaged, StorageError, UsageError
from fedclient.nodes import headfile
from fedclient.samples.store import SampleStore
from fedclient.storage import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedclient.samples.importer import Dataset
    from fedclient.storage import Database
    from fedclient.values import Manifest

_BATCH = 128  # rows in one transaction, and between two steps of the progress line


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    verbs = subparsers.add_parser("samples", help="import, count and purge samples").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    add = verbs.add_parser("import", help="store samples from a file or a function")
    add.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="FILE.npz (x, y), FILE.csv (last column: label) or package.module:function that yields (x, y)",
    )
    add.add_argument("--source", default="import", metavar="S", help="kept with each row (default: import)")
    add.add_argument(
        "--holdout-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="share of contents never trained on (default: 0)",
    )
    add.set_defaults(run=import_)
    stats_ = verbs.add_parser("stats", help="count what is stored")
    stats_.add_argument("--json", action="store_true", help="print one JSON object")
    stats_.set_defaults(run=stats)
    purge_ = verbs.add_parser("purge", help="delete samples, and what was derived from them, for good")
    purge_.add_argument("--before-id", type=int, metavar="N", help="only rows with an id below N")
    purge_.add_argument("--node", metavar="NODE", help="only what this node sent (`fedclient nodes list`)")
    purge_.add_argument("--yes", action="store_true", help="do not ask")
    purge_.set_defaults(run=purge)


def import_(args: argparse.Namespace) -> int:
    """Store every sample of `--data`, or none if one of them is no sample."""
    from fedclient.samples.importer import load  # noqa: PLC0415 - NumPy is for this command only

    if not 0.0 <= args.holdout_fraction < 1.0:
        raise UsageError(f"--holdout-fraction is {args.holdout_fraction}: choose a share from 0 to below 1")
    dataset = load(args.data)
    held = _held_out(dataset, args.holdout_fraction)
    with _store(args) as store:
        before = store.stats().dropped
        for start in _progress(len(dataset.y)):
            for holdout in (False, True):
                rows = [row for row in range(start, min(start + _BATCH, len(held))) if held[row] == holdout]
                store.append_many(
                    dataset.x[rows], [dataset.y[row] for row in rows], source=args.source, holdout=holdout
                )
        after = store.stats()
    marked = f"{sum(held)} of them marked hold-out"
    print(f"imported {len(held)} samples, {marked}; the store now has {after.rows}")
    if after.dropped > before:
        print(f"{after.dropped - before} older ones made room ([limits] samples_max_rows, samples_max_mib)")
    return 0


def stats(args: argparse.Namespace) -> int:
    """Print what the store holds and what it has let go."""
    with _store(args) as store:
        found = store.stats()
    if args.json:
        labels = [{"label": label, "rows": rows} for label, rows in found.per_label]
        print(json.dumps({**asdict(found), "per_label": labels}))
        return 0
    print(
        f"samples      {found.rows} of at most {found.max_rows}, {found.bytes:,} of {found.max_bytes:,} bytes"
    )
    print(f"labelled     {found.labelled}, hold-out {found.holdout}, distinct to train on {found.distinct}")
    for label, rows in found.per_label:
        print(f"  {label!s:<10} {rows}")
    print(f"let go       {found.dropped} for room, {found.damaged} damaged")
    return 0


def purge(args: argparse.Namespace) -> int:
    """Delete rows for good; asks on a terminal unless told not to."""
    every = args.before_id is None and args.node is None
    which = "all samples"
    if args.node is not None:
        which = f"{which} of node {args.node}"
    if args.before_id is not None:
        which = f"{which} with an id below {args.before_id}"
    if not args.yes and not sys.stdin.isatty():
        raise UsageError(f"purge deletes {which} for good: say --yes to do it without a question")
    if not args.yes and input(f"delete {which} of this device for good? [y/N] ").strip().lower() != "y":
        print("nothing was deleted")
        return 1
    with _store(args) as store:
        folder = DeviceFolder(args.settings.state)
        derived = open_database(folder) if folder.database.exists() else None
        count = store.purge(args.before_id, node=args.node)
        TunedHead(folder.current).remove()
        headfile.forget(folder.node_heads)  # the agent has them made of what is left
        _forget_damaged(folder, every=every)
        if derived is not None:
            _forget(derived)
            _forget_layer(folder, derived)
            derived.close()
    print(f"purged {count} samples, and features, checkpoint, residual and personal head that came of any")
    return 0


def _forget(database: Database) -> None:
    """Clear what trainers derived from samples (PROTOCOL 8); an update that waits for its receipt stays.

    After the samples: a trainer that starts in between derives nothing from those that are gone.
    """
    database.execute("PRAGMA secure_delete = ON")
    with database.transaction():
        Residual(database).reset()
        PersonalLayer(database).reset()
        Jobs(database).drop()
        Outbox(database).forget_returned()
    database.shrink()


def _forget_layer(folder: DeviceFolder, database: Database) -> None:
    """Take the personal layer out of what apps predict with: they go on with the head as it was published."""
    slots = Slots(folder.current)
    slot = slots.active()
    if slot is None:
        return
    try:
        _adopt_as_published(folder, slots, Journal(database).manifest(slot.version))
    except StorageError as error:
        raise StorageError(
            f"the samples are purged, but until the next head is adopted apps use one with what was "
            f"learnt from them in its personal layer, if it has one: {error}"
        ) from error
    slots.forget_previous()


def _adopt_as_published(folder: DeviceFolder, slots: Slots, manifest: Manifest | None) -> None:
    if manifest is None:
        raise StorageDamaged("its manifest is gone")
    if any(tensor.is_personal for tensor in manifest.tensors):
        blobs = Blobs(folder.blobs)
        slots.adopt(manifest, blobs.read(manifest.model), blobs.read(manifest.head))


def _forget_damaged(folder: DeviceFolder, *, every: bool) -> None:
    """Delete what was moved aside as damaged: nobody can tell which samples are in it."""
    databases = folder.samples, folder.database
    aside = [path for one in databases for path in sorted(one.parent.glob(f"{one.name}.damaged-*"))]
    for path in aside:
        if every:
            with disk_errors(path):
                path.unlink(missing_ok=True)
        else:
            print(f"{path} is damaged and may hold purged samples: delete it", file=sys.stderr)


def _store(args: argparse.Namespace) -> SampleStore:
    if not args.settings.state.is_dir():
        raise ConfigError(
            f"no device is set up in {args.settings.state}: "
            "run `fedclient init` first, or name another --state DIR"
        )
    limits = args.settings.limits
    return SampleStore(
        DeviceFolder(args.settings.state).samples,
        max_rows=limits.samples_max_rows,
        max_bytes=limits.samples_max_mib << 20,
        holdout=args.settings.adoption.holdout,  # else it counts none until an agent has run
    )


def _held_out(dataset: Dataset, fraction: float) -> list[bool]:
    """Choose by content, so that equal samples are on one side, today and in the next import."""
    return [crc32(row.tobytes()) < fraction * 2**32 for row in dataset.x]


def _progress(total: int) -> Iterator[int]:
    """Yield the start of each batch, and say on a terminal how far we are."""
    for start in range(0, total, _BATCH):
        yield start
        if sys.stderr.isatty():
            done = min(start + _BATCH, total)
            print(f"\rimporting: {done} of {total}", end="\n" if done == total else "", file=sys.stderr)
