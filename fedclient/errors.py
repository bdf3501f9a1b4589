"""Every error fedclient raises, as one tree.

    FedClientError                 one sentence for the operator, in `str(error)`
    ├── TransientError             try again later: nothing was lost
    │   ├── ConditionsNotMet       a gate is closed; the sentence says which
    │   ├── StorageBusy            another process held the database longer than the timeout
    │   ├── StorageFull            no room on the disk
    │   └── Unreachable            the broker or the network is not there
    └── FinalError                 the same input will fail the same way: drop it, and report
        ├── UsageError             a command was called in a way that cannot be carried out
        ├── ConfigError            a setting is missing, unknown or contradictory
        ├── EnrolmentError         an invitation or a key that cannot be used
        ├── WireError              bytes that are not what docs/wire-format.md allows
        │   ├── CodecError         an update's body that does not decode
        │   ├── AstrayHead         blobs that lead to another head than the manifest names
        │   └── UnknownHead        an update on a head that this gateway never published
        ├── CryptoError            a message that does not open or verify, a key that is no key
        ├── ModelError             a .tflite file that cannot be trained here
        │   └── NoModelYet         no head is in use on this device so far
        ├── DataError              samples or labels that do not fit
        │   └── PrivacyFloor       fewer samples than the owner's floor
        ├── AlreadyRunning         another process has this state folder
        └── StorageError           a state folder or database that cannot be used
            ├── StorageReadOnly    it cannot be written
            ├── StorageDamaged     its bytes are not what was written
            └── NewerSchema        it was written by a newer fedclient

Decoders raise nothing else.  Programming mistakes (a call out of order, a wrong type) stay
ordinary Python errors: they are for the developer, not for the operator.
"""

from __future__ import annotations


class FedClientError(Exception):
    """Base of every error that fedclient raises on purpose."""


class TransientError(FedClientError):
    """Trying again later may succeed; nothing was lost."""


class ConditionsNotMet(TransientError):
    """The scheduler says no for now."""


class StorageBusy(TransientError):
    """Another process held the database for longer than the timeout."""


class StorageFull(TransientError):
    """The disk has no room; what was stored before is intact."""


class Unreachable(TransientError):
    """The broker did not answer or refused the connection."""


class FinalError(FedClientError):
    """The same input will fail the same way."""


class UsageError(FinalError):
    """A command was called in a way that cannot be carried out."""


class ConfigError(FinalError):
    """A setting is missing, unknown or contradictory."""


class EnrolmentError(FinalError):
    """An invitation or a key cannot be used."""


class WireError(FinalError):
    """Bytes are not what `docs/wire-format.md` allows."""


class CodecError(WireError):
    """An update's body does not decode."""


class AstrayHead(WireError):
    """What was fetched leads to another head than the one that the manifest names, or to none."""


class UnknownHead(WireError):
    """An update names a head that this gateway never published, so nothing can verify it."""


class CryptoError(FinalError):
    """A message does not open or verify, or a key is no key."""


class ModelError(FinalError):
    """A .tflite file cannot be trained here."""


class NoModelYet(ModelError):
    """No head has arrived on this device so far."""


class DataError(FinalError):
    """Samples or labels do not fit the model, or are not numbers."""


class PrivacyFloor(DataError):
    """There are fewer samples than the owner's privacy floor asks for."""


class AlreadyRunning(FinalError):
    """Another process has this state folder."""


class StorageError(FinalError):
    """A state folder or database cannot be used."""


class StorageReadOnly(StorageError):
    """The state folder cannot be written."""


class StorageDamaged(StorageError):
    """Stored bytes are not what was written."""


class NewerSchema(StorageError):
    """The database was written by a newer fedclient."""
