"""What a device keeps of its invitation: a file beside its key, not a database row.

line 1   the invitation, as it was pasted
line 2   the sealed request, base64: identical on every retry (PROTOCOL 7)
line 3   SHA-256 of the request, hex
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fedclient import limits
from fedclient.errors import StorageDamaged
from fedclient.storage import read_file, write_file
from fedclient.values import Invitation
from fedclient.wire.invitation import decode_invitation


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEnrolment:
    """An invitation and the request made from it."""

    pasted: str
    invitation: Invitation
    request: bytes


def save(path: Path, pasted: str, request: bytes) -> None:
    """Store an invitation and its request."""
    lines = pasted.strip(), base64.b64encode(request).decode(), hashlib.sha256(request).hexdigest()
    write_file(path, "".join(f"{line}\n" for line in lines).encode())


def load(path: Path) -> StoredEnrolment | None:
    """Return what was stored, or None where no invitation was; raises StorageDamaged, WireError."""
    if not path.exists():
        return None
    lines = read_file(path, limits.MAX_INVITATION_CHARS + 2 * limits.MAX_ENROL_BYTES).decode(
        "ascii", "replace"
    )
    pasted, request, digest = (*lines.split("\n"), "", "")[:3]
    try:
        sealed = base64.b64decode(request, validate=True)
    except ValueError:
        sealed = b""
    if hashlib.sha256(sealed).hexdigest() != digest:
        raise StorageDamaged(f"{path} is damaged: delete it and enrol again")
    return StoredEnrolment(pasted=pasted, invitation=decode_invitation(pasted), request=sealed)
