"""Every payload as CBOR: values in, bytes out, and back with each field checked.

What each byte means stands in docs/wire-format.md; the numbers of fields are the same
there.  Nothing here signs, seals or decides: it only refuses what is malformed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from fedclient import limits
from fedclient.errors import WireError
from fedclient.values import (
    PLAN_CODECS,
    BlobRef,
    Codec,
    CodecMode,
    Command,
    CommandKind,
    EnrolmentRequest,
    Judgement,
    Manifest,
    Phase,
    Plan,
    Reason,
    Receipt,
    ReceiptStatus,
    Schedule,
    Status,
    TensorSpec,
    Update,
    Verdict,
    parameters,
)
from fedclient.wire import cbor
from fedclient.wire.fields import (
    DELTA_HASH_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    TOKEN_BYTES,
    array,
    head_version,
    integer,
    number,
    octets,
    text,
    typed,
)


def encode_update(update: Update) -> bytes:
    version = update.head_version
    metrics: object = update.accuracy_percent
    if update.epochs is not None:
        metrics = [update.accuracy_percent, update.epochs]
    fields = (update.counter, version.generation, version.version, update.bucket, metrics)
    return cbor.encode_sequence(fields) + update.body


def decode_update(payload: bytes) -> Update:
    """Read an update's payload; raises WireError.  What its body holds is for the codec to say."""
    if len(payload) > limits.MAX_UPDATE_BYTES:
        raise WireError(f"update has {len(payload)} bytes, at most {limits.MAX_UPDATE_BYTES} are allowed")
    fields, body = cbor.decode_sequence(payload, 5, max_bytes=limits.MAX_UPDATE_FIELDS_BYTES)
    counter, generation, version, bucket, metrics = fields
    accuracy, epochs = _metrics(metrics)
    return Update(
        counter=integer(counter, "counter", 1, limits.COUNTER_MAX),
        head_version=head_version(generation, version),
        bucket=integer(bucket, "bucket", 0, limits.MAX_BUCKET),
        accuracy_percent=accuracy,
        body=body,
        epochs=epochs,
    )


def _metrics(value: object) -> tuple[int | None, int | None]:
    """Return accuracy and epochs; there are epochs only in an array."""
    accuracy, epochs = value, None
    if isinstance(value, list):
        accuracy, done = array(value, "metrics", 2)
        epochs = integer(done, "epochs", 1, limits.MAX_EPOCHS)
    return None if accuracy is None else integer(accuracy, "accuracy", 0, 100), epochs


def encode_status(status: Status) -> bytes:
    floor = status.floor
    return cbor.encode(
        [
            status.start,
            status.sequence,
            status.phase.value,
            list(status.closed_gates),
            floor.generation,
            floor.version,
            status.software,
            _judgement_fields(status.judgement),
        ]
    )


def _judgement_fields(judgement: Judgement | None) -> list[int] | None:
    if judgement is None:
        return None
    version = judgement.head_version
    return [int(judgement.verdict), version.generation, version.version]


def _judgement(value: object) -> Judgement | None:
    if value is None:
        return None
    verdict, generation, version = array(value, "judgement", 3)
    try:
        known = Verdict(typed(verdict, int, "verdict"))
    except ValueError:
        raise WireError("status has a verdict that is not known here") from None
    return Judgement(head_version=head_version(generation, version), verdict=known)


def decode_status(payload: bytes) -> Status:
    """Read a status' payload; raises WireError."""
    fields = array(cbor.decode(payload, max_bytes=limits.MAX_STATUS_BYTES), "status", 8)
    start, sequence, phase, gates, generation, version, software, judgement = fields
    try:
        known_phase = Phase(text(phase, "phase", limits.MAX_NAME_BYTES))
    except ValueError:
        raise WireError("status has a phase that is not known here") from None
    closed = array(gates, "gates", max_size=limits.MAX_GATES)
    return Status(
        start=integer(start, "start", 0, limits.COUNTER_MAX),
        sequence=integer(sequence, "sequence", 0, limits.COUNTER_MAX),
        phase=known_phase,
        closed_gates=tuple(text(gate, "gate", limits.MAX_NAME_BYTES) for gate in closed),
        floor=head_version(generation, version),
        software=text(software, "software", limits.MAX_NAME_BYTES),
        judgement=_judgement(judgement),
    )


def encode_enrolment(request: EnrolmentRequest) -> bytes:
    return cbor.encode([request.public_key, request.token])


def decode_enrolment(payload: bytes) -> EnrolmentRequest:
    """Read an enrolment request's payload; raises WireError."""
    key, token = array(cbor.decode(payload, max_bytes=limits.MAX_ENROL_BYTES), "enrolment", 2)
    return EnrolmentRequest(
        public_key=octets(key, "public key", KEY_BYTES), token=octets(token, "token", TOKEN_BYTES)
    )


# --- payloads down ---------------------------------------------------------------------------------
def encode_receipt(receipt: Receipt) -> bytes:
    current = receipt.current
    return cbor.encode(
        [
            receipt.counter,
            receipt.envelope_hash,
            int(receipt.status),
            int(receipt.reason),
            current.generation,
            current.version,
            list(receipt.retry_window_s),
            receipt.last_counter,
        ]
    )


def decode_receipt(payload: bytes) -> Receipt:
    """Read a receipt's payload; raises WireError."""
    fields = array(cbor.decode(payload, max_bytes=limits.MAX_RECEIPT_BYTES), "receipt", 8)
    counter, envelope_hash, status, reason, generation, version, window, last = fields
    try:
        known = ReceiptStatus(typed(status, int, "status")), Reason(typed(reason, int, "reason"))
    except ValueError:
        raise WireError("receipt has a status or reason that is not known here") from None
    low, high = (
        integer(edge, "retry window", 0, limits.MAX_RETRY_WINDOW_S)
        for edge in array(window, "retry window", 2)
    )
    if low > high:
        raise WireError("receipt's retry window ends before it starts")
    return Receipt(
        counter=integer(counter, "counter", 0, limits.COUNTER_MAX),
        envelope_hash=octets(envelope_hash, "envelope hash", HASH_BYTES),
        status=known[0],
        reason=known[1],
        current=head_version(generation, version),
        retry_window_s=(low, high),
        last_counter=integer(last, "last counter", 0, limits.COUNTER_MAX),
    )


def encode_command(command: Command) -> bytes:
    return cbor.encode([command.sequence, int(command.kind), command.seconds])


def decode_command(payload: bytes) -> Command:
    """Read a command's payload; raises WireError."""
    fields = array(cbor.decode(payload, max_bytes=limits.MAX_COMMAND_BYTES), "command", 3)
    sequence, kind, seconds = fields
    try:
        known = CommandKind(typed(kind, int, "kind"))
    except ValueError:
        raise WireError("command is of a kind that is not known here") from None
    longest_s = limits.MAX_PAUSE_S if known is CommandKind.PAUSE else 0
    return Command(
        sequence=integer(sequence, "sequence", 1, limits.COUNTER_MAX),
        kind=known,
        seconds=integer(seconds, "seconds", 0, longest_s),
    )


def encode_plan(plan: Plan) -> bytes:
    usual = Plan()
    return cbor.encode(
        {
            1: plan.epochs,
            2: plan.batch_size,
            3: float(plan.learning_rate),
            4: [int(plan.codec.mode), float(plan.codec.density), *_bits_if_unusual(plan.codec)],
            5: float(plan.norm_bound),
            6: plan.max_examples,
            7: plan.max_staleness,
        }
        | {
            number: kind(getattr(plan, name))
            for number, (name, kind, _) in _PLAN_OPTIONS.items()
            if getattr(plan, name) != getattr(usual, name)
        }
    )


_MAX_SCHEDULE = max(Schedule)
# Fields that are on the wire only where they are not the default: number -> (name, as written, as read).
_PLAN_OPTIONS: Final[dict[int, tuple[str, Callable[[Any], object], Callable[[object], object]]]] = {
    8: ("momentum", float, lambda value: number(value, "momentum", *limits.MOMENTA)),
    9: ("l2", float, lambda value: number(value, "l2", *limits.PENALTIES)),
    10: ("mu", float, lambda value: number(value, "mu", *limits.PENALTIES)),
    11: ("schedule", int, lambda value: Schedule(integer(value, "schedule", 0, _MAX_SCHEDULE))),
    12: ("balanced", bool, lambda value: typed(value, bool, "balanced")),
    13: ("budget_s", float, lambda value: number(value, "budget_s", 0.0, limits.MAX_BUDGET_S)),
    14: ("statistics", bool, lambda value: typed(value, bool, "statistics")),
    15: ("max_update_bytes", int, lambda value: integer(value, "max_update_bytes", *limits.UPDATE_BYTES)),
    16: ("max_bytes_per_day", int, lambda value: integer(value, "max_bytes_per_day", *limits.DAY_BYTES)),
}


def decode_plan(data: bytes) -> Plan:
    """Read a plan; raises WireError, also for values no device would follow."""
    fields = typed(cbor.decode(data, max_bytes=limits.MAX_MANIFEST_BYTES), dict, "plan")
    if not set(range(1, 8)) <= set(fields) <= set(range(1, 8)) | _PLAN_OPTIONS.keys():
        raise WireError(f"plan has the fields {sorted(fields)[:16]}, expected 1 to 7 and some of 8 to 16")
    options: dict[str, Any] = {
        name: read(fields[at]) for at, (name, _, read) in _PLAN_OPTIONS.items() if at in fields
    }
    if said := [name for name, value in options.items() if value == getattr(Plan(), name)]:
        raise WireError(f"plan says {said[0]!r} although it is the default")
    plan = Plan(
        epochs=integer(fields[1], "epochs", 1, limits.MAX_EPOCHS),
        batch_size=integer(fields[2], "batch size", 1, limits.MAX_BATCH),
        learning_rate=number(fields[3], "learning rate", *limits.LEARNING_RATES),
        codec=_codec(fields[4]),
        norm_bound=number(fields[5], "norm bound", *limits.NORM_BOUNDS),
        max_examples=integer(fields[6], "max examples", 1, limits.MAX_EXAMPLES),
        max_staleness=integer(fields[7], "max staleness", 0, limits.MAX_STALENESS),
        **options,
    )
    if plan.codec.mode is CodecMode.FITTED and not plan.max_update_bytes:
        raise WireError(
            "plan has the codec mode fitted and no max_update_bytes, which decides how much is sent"
        )
    return plan


def _bits_if_unusual(codec: Codec) -> list[int]:
    return [codec.bits] if codec.bits != Codec().bits else []


def _codec(value: object) -> Codec:
    parts = array(value, "codec", max_size=3)
    if len(parts) < 2:
        raise WireError("plan has a codec without a density")
    mode = next((one for one in PLAN_CODECS if one == typed(parts[0], int, "codec mode")), None)
    if mode is None:
        raise WireError(f"plan asks for codec mode {parts[0]}, which is not known here")
    density = number(parts[1], "density", *limits.DENSITIES)
    if len(parts) == 2:
        return Codec(mode=mode, density=density)
    bits = integer(parts[2], "bits", *limits.VALUE_BITS)
    if mode is not CodecMode.TOPK_INT8:
        raise WireError(f"plan says bits = {bits}: only the codec mode topk_int8 has a choice of bits")
    if bits == Codec().bits:
        raise WireError(f"plan says bits = {bits} although it is the default")
    return Codec(mode=mode, density=density, bits=bits)


def encode_manifest(manifest: Manifest) -> bytes:
    return cbor.encode(
        {
            1: manifest.head_version.generation,
            2: manifest.head_version.version,
            3: [manifest.model.hash, manifest.model.size],
            4: [manifest.head.hash, manifest.full.hash, manifest.full.size],
            5: [[tensor.name, list(tensor.shape)] for tensor in manifest.tensors],
            6: list(manifest.labels),
            7: encode_plan(manifest.plan),
        }
        | ({8: [[delta.hash, delta.size] for delta in manifest.deltas]} if manifest.deltas else {})
    )


def decode_manifest(payload: bytes) -> Manifest:
    """Read a manifest's payload; raises WireError."""
    fields = typed(cbor.decode(payload, max_bytes=limits.MAX_MANIFEST_BYTES), dict, "manifest")
    if not set(range(1, 8)) <= set(fields) <= set(range(1, 9)):
        raise WireError(f"manifest has the fields {sorted(fields)[:16]}, expected 1 to 7 and at most 8")
    tensors = _tensors(fields[5])
    head_hash, *full = array(fields[4], "head", 3)
    labels = array(fields[6], "labels", max_size=limits.MAX_LABELS)
    plan = typed(fields[7], bytes, "plan")
    return Manifest(
        head_version=head_version(fields[1], fields[2]),
        model=_blob_ref(fields[3], "model"),
        head=BlobRef(hash=octets(head_hash, "head hash", HASH_BYTES), size=4 * parameters(tensors)),
        full=_blob_ref(full, "full head"),
        tensors=tensors,
        labels=tuple(text(label, "label", limits.MAX_LABEL_BYTES) for label in labels),
        plan=decode_plan(plan),
        plan_hash=hashlib.sha256(plan).digest(),
        deltas=_deltas(fields[8]) if 8 in fields else (),
    )


def decode_earlier_manifest(payload: bytes) -> Manifest:
    """Read a manifest of before heads were encoded, when the head itself travelled; raises WireError."""
    fields = typed(cbor.decode(payload, max_bytes=limits.MAX_MANIFEST_BYTES), dict, "manifest")
    head_hash, size = array(fields.get(4), "head", 2)
    return decode_manifest(cbor.encode(fields | {4: [head_hash, head_hash, size]}))


def _deltas(value: object) -> tuple[BlobRef, ...]:
    found = array(value, "deltas", max_size=limits.MAX_DELTAS)
    if not found:
        raise WireError("manifest says that it has no deltas, which goes without saying")
    return tuple(_blob_ref(delta, "delta", DELTA_HASH_BYTES) for delta in found)


def _blob_ref(value: object, name: str, hash_bytes: int = HASH_BYTES) -> BlobRef:
    blob_hash, size = array(value, name, 2)
    largest = limits.MAX_BLOB_CHUNKS * limits.MAX_CHUNK_BYTES
    return BlobRef(
        hash=octets(blob_hash, f"{name} hash", hash_bytes), size=integer(size, f"{name} size", 1, largest)
    )


def _tensors(value: object) -> tuple[TensorSpec, ...]:
    found = []
    for item in array(value, "tensors", max_size=limits.MAX_TENSORS):
        name, shape = array(item, "tensor", 2)
        dims = array(shape, "shape", max_size=limits.MAX_TENSOR_RANK)
        found.append(
            TensorSpec(
                name=text(name, "tensor name", limits.MAX_TENSOR_NAME_BYTES),
                shape=tuple(integer(dim, "dimension", 1, limits.MAX_HEAD_PARAMETERS) for dim in dims),
            )
        )
    names = [tensor.name.encode() for tensor in found]
    if not names or names != sorted(set(names)):
        raise WireError("manifest's tensors are missing, repeated or not in the order of their names")
    if parameters(tuple(found)) > limits.MAX_HEAD_PARAMETERS:
        raise WireError(f"manifest's head has more than {limits.MAX_HEAD_PARAMETERS} parameters")
    return tuple(found)
