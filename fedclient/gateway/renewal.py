"""After an upgrade: a head that an earlier fedclient published, published again in the form of this one.

Its manifest is one that no device of this fedclient reads, so nobody would ever train on it.
"""

from __future__ import annotations

import logging

import numpy as np

from fedclient.gateway.desk import Desk, is_read, manifest_of
from fedclient.gateway.releases import Content, publish
from fedclient.values import HeadVersion

log = logging.getLogger(__name__)


def renew(desk: Desk) -> HeadVersion | None:
    """Begin a generation with the current content where its manifest is of an earlier form.

    None where it is not, and while the database waits for `recover`.
    """
    newest = desk.store.releases(1)
    if not newest or is_read(newest[0]) or desk.store.seen() > desk.store.current():
        return None
    manifest = manifest_of(newest[0])
    head = np.frombuffer(desk.store.blob(manifest.head.hash), dtype="<f4").astype(np.float32)
    version = publish(
        desk,
        Content(
            model=desk.store.blob(manifest.model.hash),
            head=head,
            tensors=manifest.tensors,
            labels=manifest.labels,
            plan=manifest.plan,
        ),
    )
    log.warning(
        "head %s is of an earlier fedclient: published again as %s, for devices that are upgraded too",
        manifest.head_version,
        version,
    )
    return version
