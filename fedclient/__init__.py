"""fedclient: federated learning of a model's head, on embedded Linux.

    import fedclient
    store = fedclient.SampleStore()          # record labelled samples
    model = fedclient.load_model()           # predict with the current head

Names load on first use (PEP 562), so that an app which only records samples pays for
neither NumPy nor PyNaCl.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedclient.app import CurrentModel, load_model
    from fedclient.errors import FedClientError, NoModelYet
    from fedclient.samples.store import SampleStore

__version__ = "0.1.0"
__all__ = ["CurrentModel", "FedClientError", "NoModelYet", "SampleStore", "load_model"]

_HOMES = {
    "CurrentModel": "fedclient.app",
    "FedClientError": "fedclient.errors",
    "NoModelYet": "fedclient.errors",
    "SampleStore": "fedclient.samples.store",
    "load_model": "fedclient.app",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedclient' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
