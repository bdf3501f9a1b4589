"""The messages of tests/vectors/messages.json: fixed values, signed with keys from fixed seeds.

Run as a program it prints the vectors anew; they change only with the wire format.
"""

from __future__ import annotations

import hashlib
import json
import sys

from nacl import bindings

from fedclient.crypto import cose, keys
from fedclient.downlink import GatewayDownlink
from fedclient.values import (
    Base,
    BlobRef,
    Broker,
    Codec,
    CodecMode,
    Command,
    CommandKind,
    EnrolmentRequest,
    HeadVersion,
    Invitation,
    Judgement,
    Manifest,
    MessageType,
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
)
from fedclient.wire import messages
from fedclient.wire.envelope import encode_envelope, up_aad
from fedclient.wire.invitation import encode_invitation

FEDERATION = "farm"
DEVICE = keys.SigningKey(b"d" * 32)
GATEWAY = keys.SigningKey(b"g" * 32)
SEALING = keys.SealingKey(b"s" * 32)
EPHEMERAL = b"e" * 32
PLAN = Plan(
    epochs=2,
    batch_size=8,
    learning_rate=0.1,
    codec=Codec(mode=CodecMode.TOPK_SIGN, density=0.05),
    norm_bound=3.0,
    max_examples=500,
    max_staleness=2,
    momentum=0.5,
    l2=0.001,
    mu=0.01,
    schedule=Schedule.COSINE,
    balanced=True,
    budget_s=60.0,
    statistics=True,
    max_update_bytes=340,
    max_bytes_per_day=10_000,
)
MANIFEST = Manifest(
    head_version=HeadVersion(3, 42),
    model=BlobRef(hash=b"m" * 32, size=100_000),
    head=BlobRef(hash=b"h" * 32, size=4 * (3 + 6)),
    full=BlobRef(hash=b"f" * 32, size=30),
    tensors=(TensorSpec(name="output/bias", shape=(3,)), TensorSpec(name="output/kernel", shape=(3, 2))),
    labels=("walk", "sit", "ü"),
    plan=PLAN,
    plan_hash=hashlib.sha256(messages.encode_plan(PLAN)).digest(),
    deltas=(BlobRef(hash=b"1" * 8, size=9), BlobRef(hash=b"2" * 8, size=11)),
)
BASE = Base(head_version=HeadVersion(3, 42), head_hash=b"h" * 32, plan_hash=MANIFEST.plan_hash)
UPDATE = Update(
    counter=7, head_version=HeadVersion(3, 42), bucket=9, accuracy_percent=87, body=b"\x02\x00", epochs=1
)
STATUS = Status(
    start=4,
    sequence=2,
    phase=Phase.WAITING,
    closed_gates=("power", "load"),
    floor=HeadVersion(3, 42),
    software="fedclient 0.1.0",
    judgement=Judgement(head_version=HeadVersion(3, 41), verdict=Verdict.KEPT_PREVIOUS),
)
ENROLMENT = EnrolmentRequest(public_key=DEVICE.public, token=b"t" * 16)
RECEIPT = Receipt(
    counter=7,
    envelope_hash=b"e" * 32,
    status=ReceiptStatus.REFUSED,
    reason=Reason.CONFLICT,
    current=HeadVersion(3, 43),
    retry_window_s=(5, 60),
    last_counter=9,
)
COMMAND = Command(sequence=1_800_000_000, kind=CommandKind.PAUSE, seconds=1800)
INVITATION = Invitation(
    broker=Broker(host="broker.example", port=8883, tls=True),
    federation=FEDERATION,
    signing_key=b"s" * 32,
    sealing_key=b"x" * 32,
    token=b"t" * 16,
    expires_unix_s=1_800_000_000,
    floor=HeadVersion(3, 41),
)


def _up(kind: MessageType, payload: bytes, base: Base | None = None) -> dict[str, str]:
    """A message up: the COSE_Sign1 it stands for, what of it is sealed, and what travels."""
    aad = up_aad(kind, (FEDERATION, DEVICE.device_id), keys.kid(SEALING.public), base)
    signed = cose.sign_compact(DEVICE, payload, aad)
    found = {
        "payload": payload,
        "aad": aad,
        "sign1": cose.sign(DEVICE, payload, aad),
        "signed": signed,
        "envelope": encode_envelope(_sealed(signed)),
    }
    return {name: data.hex() for name, data in found.items()}


def _sealed(data: bytes) -> bytes:
    """Seal as crypto_box_seal does, but always with one ephemeral key: its own are random."""
    public = bindings.crypto_scalarmult_base(EPHEMERAL)
    nonce = hashlib.blake2b(public + SEALING.public, digest_size=24).digest()
    return public + bindings.crypto_box(data, nonce, SEALING.public, EPHEMERAL)


def vectors() -> dict[str, object]:
    """Everything that is in the file."""
    down = GatewayDownlink(federation=FEDERATION, key=GATEWAY)
    return {
        "keys": {
            "device_seed": (b"d" * 32).hex(),
            "device_id": DEVICE.device_id,
            "gateway_signing_seed": (b"g" * 32).hex(),
            "gateway_sealing_secret": (b"s" * 32).hex(),
            "ephemeral_secret": EPHEMERAL.hex(),
        },
        "update": _up(MessageType.UPDATE, messages.encode_update(UPDATE), BASE),
        "status": _up(MessageType.STATUS, messages.encode_status(STATUS)),
        "enrolment": _up(MessageType.ENROL, messages.encode_enrolment(ENROLMENT)),
        "receipt": {
            "payload": messages.encode_receipt(RECEIPT).hex(),
            "sign1": down.receipt(DEVICE.device_id, RECEIPT).hex(),
        },
        "command": {
            "payload": messages.encode_command(COMMAND).hex(),
            "sign1": down.command(DEVICE.device_id, COMMAND).hex(),
        },
        "plan": {"payload": messages.encode_plan(PLAN).hex()},
        "manifest": {
            "payload": messages.encode_manifest(MANIFEST).hex(),
            "sign1": down.manifest(MANIFEST).hex(),
        },
        "invitation": encode_invitation(INVITATION),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vectors(), indent=1) + "\n")
