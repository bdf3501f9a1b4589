"""The values that cross borders between parts: frozen, keyword-only, units in the names.

Nothing here knows how a value is encoded, stored or computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from math import prod


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Name and shape of one float32 tensor of a head."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_personal(self) -> bool:
        """Whether it belongs to a layer named `personal`: trained and kept on the device, never sent."""
        return self.name.startswith("personal/")

    @property
    def is_statistic(self) -> bool:
        """Whether it holds feature statistics: averaged over devices once, never trained."""
        return self.name in {MEAN, MEAN_SQUARE}

    @property
    def is_in_deltas(self) -> bool:
        """Whether a delta moves it, on a device and at the gateway."""
        return not (self.is_personal or self.is_statistic)


MEAN, MEAN_SQUARE = "normalize/mean", "normalize/mean_square"  # each float32 [D], of the features
_FLOAT_BYTES = 4  # of a scale, or of a statistic


def parameters(tensors: tuple[TensorSpec, ...]) -> int:
    """Count the elements of all `tensors`: the length of a flat head, P in other docstrings."""
    return sum(tensor.size for tensor in tensors)


def fixed_body_bytes(plan: Plan, tensors: tuple[TensorSpec, ...]) -> int | None:
    """Return the most bytes of an update's body that cannot be made smaller; None: what is left out waits."""
    mode = plan.body_codec.mode
    if mode is CodecMode.EXACT:
        return 1 + _FLOAT_BYTES * sum(tensor.size for tensor in tensors if tensor.is_statistic)
    if mode is CodecMode.DENSE_INT8:
        return 1 + parameters(tensors) + _FLOAT_BYTES * len(tensors)
    return None


@dataclass(frozen=True, order=True, slots=True)
class HeadVersion:
    """Which head: generation first, version second, so that comparing them orders heads."""

    generation: int
    version: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.version}"


NO_HEAD = HeadVersion(0, 0)  # below every head that was ever published


class CodecMode(IntEnum):
    """How an update becomes bytes; the numbers are on the wire."""

    TOPK_INT8 = 1
    TOPK_SIGN = 2
    DENSE_INT8 = 3
    EXACT = 4  # feature statistics as they are, no delta: what a plan with `statistics` means
    FITTED = 5  # the largest elements; how many, and how exact, is what a byte budget has room for


PLAN_CODECS = tuple(mode for mode in CodecMode if mode is not CodecMode.EXACT)  # those that a plan may name


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """The plan's choice of codec; `density` is the share of elements sent, in (0, 1], of FITTED at most."""

    mode: CodecMode = CodecMode.TOPK_INT8
    density: float = 0.01
    bits: int = 8  # of a value of TOPK_INT8, the sign included: 2 to 8


class Schedule(IntEnum):
    """How the learning rate goes over the steps of one job; the numbers are on the wire."""

    CONSTANT = 0
    LINEAR = 1  # to 0 after the plan's last step
    COSINE = 2  # half a cosine, to 0 after the plan's last step (Loshchilov and Hutter 2017, no restart)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a gateway asks of each local training; a device's own bounds come first."""

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.1
    codec: Codec = Codec()
    norm_bound: float = 10.0  # L2, of the whole delta
    max_examples: int = 10_000
    max_staleness: int = 0  # versions an update may be behind and still count
    momentum: float = 0.9  # for a head that was written with it
    l2: float = 0.0  # weight decay of the kernels
    mu: float = 0.0  # FedProx (Li et al. 2020): pull towards the head that the job began with
    schedule: Schedule = Schedule.CONSTANT
    balanced: bool = False  # draw each class as often as any other
    budget_s: float = 0.0  # local training shall take no longer, after one epoch; 0: all epochs
    statistics: bool = False  # this version collects feature statistics; those after it train
    max_update_bytes: int = 0  # of one update as an MQTT message, all included; 0: as many as the codec takes
    max_bytes_per_day: int = 0  # of one device's updates in any 24 hours; 0: no bound

    @property
    def body_codec(self) -> Codec:
        """How the updates of this plan are encoded."""
        return Codec(mode=CodecMode.EXACT) if self.statistics else self.codec


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRef:
    """A blob by content: SHA-256 of the SHA-256 hashes of its chunks, and of a delta the first bytes."""

    hash: bytes
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What the gateway publishes when a head becomes current."""

    head_version: HeadVersion
    model: BlobRef
    head: BlobRef  # float32, as devices compute it; what travels is `full` or `deltas`
    full: BlobRef  # the head, encoded by itself
    tensors: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    plan: Plan
    plan_hash: bytes
    deltas: tuple[BlobRef, ...] = ()  # the newest leads here from the version before, the next to there, ...

    @property
    def base(self) -> Base:
        """What the signature of an update on this head is bound to."""
        return Base(head_version=self.head_version, head_hash=self.head.hash, plan_hash=self.plan_hash)


class MessageType(IntEnum):
    """The second element of every envelope, and part of what is signed."""

    ENROL = 1
    UPDATE = 2
    STATUS = 3
    RECEIPT = 4
    MANIFEST = 5
    COMMAND = 6


class ReceiptStatus(IntEnum):
    """What became of a message; only DEFER leaves an outbox row unsettled."""

    COUNTED = 1
    NOT_COUNTED = 2
    REFUSED = 3
    DEFER = 4
    ENROLLED = 5


class Reason(IntEnum):
    """Why; numbers go to devices, words to the gateway's log."""

    NONE = 0
    LATE = 1
    CLOSED = 2
    GENERATION = 3
    NORM = 10
    SHAPE = 11
    NONFINITE = 12
    SAMPLES = 13
    REVOKED = 14
    UNOPENABLE = 15
    CONFLICT = 16
    INVITATION_USED = 20
    INVITATION_EXPIRED = 21

    @property
    def words(self) -> str:
        """For a person."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The gateway's signed word on one envelope, named by the hash of its bytes."""

    counter: int  # of the update; 0 for an enrolment or where it could not be read
    envelope_hash: bytes
    status: ReceiptStatus
    reason: Reason = Reason.NONE
    current: HeadVersion = NO_HEAD
    retry_window_s: tuple[int, int] = (0, 0)
    last_counter: int = 0  # with CONFLICT: the highest counter the gateway has seen


class CommandKind(IntEnum):
    """What a gateway may ask of one device at any time; the numbers are on the wire."""

    PAUSE = 1
    RESUME = 2  # ends the gateway's own pause, nobody else's


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The gateway's signed wish for one device; only one above every earlier sequence is followed."""

    sequence: int
    kind: CommandKind
    seconds: int = 0  # of a pause, counted from when the device received it first; 0: until resumed


@dataclass(frozen=True, kw_only=True, slots=True)
class Broker:
    """Where an MQTT broker listens, as an invitation or the config says it."""

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """What a device needs to join: one string on the outside, this on the inside."""

    broker: Broker
    federation: str
    signing_key: bytes  # the gateway's Ed25519 public key, 32 bytes
    sealing_key: bytes  # the gateway's X25519 public key, 32 bytes
    token: bytes  # 16 random bytes, good once
    expires_unix_s: int  # judged by the gateway only
    floor: HeadVersion


class Phase(str, Enum):
    """What a device is doing, for status and logs."""

    UNENROLLED = "unenrolled"
    ENROLLING = "enrolling"
    REFUSED = "refused"
    IDLE = "idle"  # nothing to do until the next head
    FETCHING = "fetching"
    WAITING = "waiting"  # for a good moment
    TRAINING = "training"
    SENDING = "sending"  # an update without a receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What an update's signature binds it to, and both ends know: PROTOCOL 3."""

    head_version: HeadVersion
    head_hash: bytes
    plan_hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One device's trained delta and the little the gateway cannot know without being told."""

    counter: int
    head_version: HeadVersion
    bucket: int  # floor(log2(samples trained on))
    accuracy_percent: int | None  # of the base head on the device's samples
    body: bytes
    epochs: int | None = None  # passes over its samples, where the device's time ended them early


class Verdict(IntEnum):
    """What a device made of a head that arrived; the numbers are on the wire."""

    ADOPTED = 1
    KEPT_PREVIOUS = 2  # worse on its own samples: apps go on with the head before
    UNJUDGED = 3  # adopted with too few samples to tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One device's verdict on one head."""

    head_version: HeadVersion
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """State and gate names, never values: PROTOCOL 8.  (start, sequence) orders statuses."""

    start: int  # how often this agent has been started
    sequence: int  # within this start
    phase: Phase
    closed_gates: tuple[str, ...]
    floor: HeadVersion
    software: str
    judgement: Judgement | None = None  # on the head that was judged last


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentRequest:
    """A device's proof that it holds its key, and its invitation's token."""

    public_key: bytes
    token: bytes
