"""Judge a head on this device's own samples, next to the one that apps use; writes down the verdict.

`python -m fedclient.trainer judge` does this alone; the trainer of a job does it first where the agent
asks for it.  Either way it is one transaction at the end (`device/judgement.py`), and nothing else.

On which rows: the hold-out, which no head was trained on here.  Where it is too small to tell a loss of
`margin` from chance, the newest rows that are trained on fill it up: both heads have seen them in the
same way.  With fewer rows than `min_judged` in all there is no telling, and the head is adopted; but not
where the head in use has as many: one that takes other samples, or has other labels, would serve no app.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedclient import runtime
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, JobArguments, TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.judgement import JudgeArguments, Judgements, Told
from fedclient.device.personal import PersonalLayer
from fedclient.device.slots import Slot, Slots, model_file
from fedclient.errors import DataError, FedClientError, ModelError, NoModelYet, StorageDamaged, StorageError
from fedclient.runtime import TrainableModel
from fedclient.samples.store import SampleStore
from fedclient.storage import Database
from fedclient.trainer.assemble import put_together
from fedclient.trainer.loading import AskedToStop, features, load
from fedclient.trainer.workplace import Workplace
from fedclient.training.dataset import Prepared, class_number, fits, prepare
from fedclient.training.loop import Examples
from fedclient.training.verdict import Measured, Overlap, decide, enough_rows, loses_classes, measure
from fedclient.values import HeadVersion, Judgement, Manifest, Verdict

log = logging.getLogger(__name__)

MOST_ROWS = 1000  # the newest: more tell little more, and a backbone takes its time for each


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How the owner wants heads judged."""

    margin: float
    min_judged: int
    feature_batch: int | None = None
    threads: int = 1

    @classmethod
    def of(cls, arguments: JobArguments | JudgeArguments, threads: int) -> Terms:
        return cls(
            margin=arguments.margin,
            min_judged=arguments.min_judged,
            feature_batch=arguments.feature_batch,
            threads=threads,
        )


def run(arguments: JudgeArguments, should_stop: Callable[[], bool]) -> TrainerExit:
    """Judge one head and end.  Raises FedClientError for what `__main__` turns into an exit code."""
    folder = DeviceFolder(Path(arguments.state))
    terms = Terms.of(arguments, arguments.threads)
    try:
        Court(folder, open_database(folder), terms, should_stop).judge(HeadVersion(*arguments.head))
    except AskedToStop:
        return TrainerExit.STOPPED
    return TrainerExit.DONE


@dataclass(frozen=True, kw_only=True)
class Case:
    """A head, its model, and the newest rows that it can be asked about."""

    model: TrainableModel
    head: NDArray[np.float32]
    labels: tuple[str, ...]
    rows: Prepared
    held_out: int  # of the rows

    def measured(self, rows: Prepared, ids: tuple[int, ...] | None = None) -> Measured:
        """Measure the head on rows, or on those with these ids, which are some of them in the same order."""
        self.model.set_weights(self.head)
        if ids is None or len(ids) == len(rows.ids):
            return measure(self.model, rows.examples)
        at = np.flatnonzero(np.isin(rows.ids, ids))
        return measure(self.model, Examples(x=rows.examples.x[at], y=rows.examples.y[at]))


@dataclass(frozen=True, kw_only=True)
class Used:
    """The head that apps use, as the one that is judged finds it; `found` on all rows of its own."""

    slot: Slot
    case: Case
    found: Measured | None
    shared: tuple[int, ...]  # rows that the new head is judged on, and this one can be asked about
    on_shared: Measured | None


def first(place: Workplace, job: Job, should_stop: Callable[[], bool]) -> bool:
    """Judge the head that a job is about to train on; False when the trainer shall stop.

    The job goes on without a verdict: the agent sees that there is none.
    """
    terms = Terms.of(place.arguments, job.threads)
    try:
        Court(place.folder, place.database, terms, should_stop).judge(job.head_version)
    except AskedToStop:
        return False
    except FedClientError as error:
        log.error("head %s is not judged: %s", job.head_version, error)
    return True


class Court:
    """Everything that is needed for one verdict."""

    def __init__(
        self, folder: DeviceFolder, database: Database, terms: Terms, should_stop: Callable[[], bool]
    ) -> None:
        self._folder = folder
        self._database = database
        self._terms = terms
        self._should_stop = should_stop
        self._store = SampleStore(folder.samples)
        self._blobs = Blobs(folder.blobs)
        self._journal = Journal(database)

    def judge(self, version: HeadVersion) -> Verdict:
        """Come to a verdict on a head whose model is stored and all that leads to it, and write it down."""
        manifest = self._journal.manifest(version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {version} is gone")
        put_together(self._blobs, manifest, self._journal.manifest)
        try:
            verdict, why, report = self._without_model(manifest) or self._verdict(manifest)
        except ModelError as error:  # it cannot be run here, or is not finite
            verdict, why, report = Verdict.KEPT_PREVIOUS, str(error), {}
        told = Told(judgement=Judgement(head_version=version, verdict=verdict), why=why, report=report)
        with self._database.transaction():
            Judgements(self._database).save(told)
        return verdict

    def _without_model(self, manifest: Manifest) -> tuple[Verdict, str, dict[str, object]] | None:
        """Return the verdict where too few samples have a label that the head knows.

        None where there are enough, now or for the head in use, whose labels were others.
        """
        needed = self._terms.min_judged
        labelled = self._store.labelled(manifest.labels)
        if labelled >= needed or self._could_judge_before(manifest):
            return None
        if not np.isfinite(_flat(self._blobs.read(manifest.head))).all():
            raise ModelError("the head holds NaN or infinity")
        return Verdict.UNJUDGED, f"{labelled} labelled samples, {needed} are needed to judge", {}

    def _could_judge_before(self, manifest: Manifest) -> bool:
        slot = Slots(self._folder.current).active()
        if slot is None or slot.labels == manifest.labels:
            return False
        return self._store.labelled(slot.labels) >= self._terms.min_judged

    def _verdict(self, manifest: Manifest) -> tuple[Verdict, str, dict[str, object]]:
        case = self._case(manifest)
        rows = len(case.rows.ids)
        used = self._used(manifest, case)
        if rows < self._terms.min_judged:
            return self._too_few(rows, used)
        new = case.measured(case.rows)
        if used is not None and (lost := self._lost(case, new, used)):
            return Verdict.KEPT_PREVIOUS, lost, {"rows": rows}
        ids, current = case.rows.ids, None
        if used is not None and len(used.shared) >= self._terms.min_judged:  # else it cannot be asked
            ids, current = used.shared, used.on_shared
            new = case.measured(case.rows, ids)
        verdict, why = decide(new, current, case.model.classes, self._terms.margin)
        report: dict[str, object] = {"rows": len(ids), "held_out": case.held_out, **asdict(new)}
        if used is not None and current is not None:
            against = {"against": str(used.slot.version), "its_accuracy": current.accuracy}
            report = {**report, **against, "its_loss": current.loss}
        return verdict, why, report

    def _too_few(self, rows: int, used: Used | None) -> tuple[Verdict, str, dict[str, object]]:
        """Take a head that cannot be judged, unless apps have one that could be: that serves them better."""
        words = f"{rows} labelled samples fit the model, {self._terms.min_judged} are needed to judge"
        if used is None or len(used.case.rows.ids) < self._terms.min_judged:
            return Verdict.UNJUDGED, words, {"rows": rows}
        words = f"{words}; {len(used.case.rows.ids)} fit the head in use (a purge of samples forgets them)"
        return Verdict.KEPT_PREVIOUS, words, {"rows": rows}

    def _lost(self, case: Case, new: Measured, used: Used) -> str:
        """Say what a head with other classes than the one in use does not know any more; "" for little."""
        before = used.case
        if used.found is None or (before.labels, before.model.classes) == (case.labels, case.model.classes):
            return ""
        overlap = Overlap(
            both=len(used.shared),
            only_used=self._nameless(before.rows.ids, case),
            only_new=self._nameless(case.rows.ids, before),
        )
        if overlap.both + overlap.only_used < self._terms.min_judged:
            return ""
        return loses_classes(new, used.found, overlap, self._terms.margin)

    def _nameless(self, ids: tuple[int, ...], by: Case) -> int:
        """Count the rows that a model takes, and that it has no class for or none with a name."""
        classes = max(by.model.classes, 2)
        named = range(min(classes, len(by.labels)) if by.labels else classes)
        return sum(
            fits(row, by.model) and class_number(row.label, by.labels, classes) not in named
            for row in self._store.read(ids)
        )

    # --- the head that arrived --------------------------------------------------------------------------
    def _case(self, manifest: Manifest) -> Case:
        model, base = load(self._folder, manifest, self._terms.threads)
        head = PersonalLayer(self._database).over(base.astype("<f4").tobytes(), manifest, self._store.epoch)
        rows, held_out = self._rows((model, manifest.model.hash), manifest.labels)
        return Case(model=model, head=_flat(head), labels=manifest.labels, rows=rows, held_out=held_out)

    def _rows(self, reader: tuple[TrainableModel, bytes], labels: tuple[str, ...]) -> tuple[Prepared, int]:
        """Return what to judge on, and how many of these rows are hold-out."""
        model, _ = reader
        shape = model.sample_shape if model.has_features else None
        enough = enough_rows(self._terms.margin)
        held_out = self._store.usable(MOST_ROWS, labels, shape=shape, holdout=True)
        trained_on = self._store.usable(MOST_ROWS, labels, shape=shape)
        for filled in (max(0, enough - len(held_out)), MOST_ROWS):
            rows = self._prepared((*held_out, *trained_on[:filled]), reader, labels)
            if len(rows.ids) >= self._terms.min_judged:  # else too few of them fit this model
                break
        return rows, len(set(rows.ids).intersection(held_out))

    def _prepared(
        self, ids: tuple[int, ...], reader: tuple[TrainableModel, bytes], labels: tuple[str, ...]
    ) -> Prepared:
        """Read rows for a model with this hash; none when none fits."""
        rows = features(
            self._folder,
            *reader,
            at_once=self._terms.feature_batch,
            should_stop=self._should_stop,
        )
        try:
            return prepare(self._store.read(ids), reader[0], labels, rows)
        except DataError:
            nothing = Examples(x=np.empty((0, *reader[0].x_shape), np.float32), y=np.empty(0, np.int32))
            return Prepared(examples=nothing, ids=(), skipped=len(ids), distinct=0)

    # --- the head in use --------------------------------------------------------------------------------
    def _used(self, manifest: Manifest, case: Case) -> Used | None:
        """Measure the head that apps use: on the rows of `case` that it can be asked about, and on its own.

        None without one, or where it is damaged: a head that knows nothing is what is compared with then.
        """
        try:
            slot, model_data, head = Slots(self._folder.current).read()
        except NoModelYet:
            return None
        except StorageError as error:
            log.warning("the head in use cannot be compared with: %s", error)
            return None
        try:
            if slot.model_file == model_file(manifest) and slot.labels == manifest.labels:
                before, shared = replace(case, head=_flat(head)), case.rows
            else:
                before, shared = self._before(slot, model_data, head, case)
            on_shared = before.measured(shared) if shared.ids else None
            found = on_shared if shared is before.rows else None
            if found is None and before.rows.ids:
                found = before.measured(before.rows)
        except ModelError as error:
            log.warning("the head in use cannot be compared with: %s", error)
            return None
        return Used(slot=slot, case=before, found=found, shared=shared.ids, on_shared=on_shared)

    def _before(self, slot: Slot, model_data: bytes, head: bytes, case: Case) -> tuple[Case, Prepared]:
        """Return the head in use with the rows of its own, and those of `case` that it can be asked about."""
        reader = runtime.load(model_data, threads=self._terms.threads), self._model_hash(slot)
        rows, held_out = self._rows(reader, slot.labels)
        before = Case(model=reader[0], head=_flat(head), labels=slot.labels, rows=rows, held_out=held_out)
        return before, self._prepared(case.rows.ids, reader, slot.labels)

    def _model_hash(self, slot: Slot) -> bytes:
        """Return under which name features of the model in use are cached."""
        known = self._journal.manifest(slot.version)
        same = known is not None and model_file(known) == slot.model_file
        return known.model.hash if known is not None and same else bytes.fromhex(slot.model_sha256)


def _flat(head: bytes) -> NDArray[np.float32]:
    return np.frombuffer(head, "<f4").astype(np.float32)
