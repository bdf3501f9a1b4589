"""What an agent and its trainers make of a head for one person, with the real trainer."""

from __future__ import annotations

import select
import time
from dataclasses import replace

import numpy as np
import pytest

from fedclient import load_model
from fedclient.client.child import Child
from fedclient.config import AdoptionSettings
from fedclient.device.personal import PersonalKey, PersonalLayer, extract
from fedclient.device.slots import Slots
from fedclient.model.head import HeadOptions, write_head
from fedclient.samples.store import SampleStore
from fedclient.values import MessageType, ReceiptStatus
from tests.client.harness import V1, V2, Device
from tests.trainer.setup import CLASSES, FEATURES, samples


@pytest.fixture
def device(device):
    device.config = replace(device.config, adoption=AdoptionSettings(personal="finetune"))
    with SampleStore(device.folder.samples) as store:
        store.append_many(*samples(60))
        store.append_many(*samples(60, seed=2), holdout=True)
    device.judges = Child
    return device


def turn_until_it_ends(device: Device) -> None:
    """Let the agent look once in a while, as it does, until the trainer is gone."""
    child = device.agent.work.child
    until = time.monotonic() + 60
    while not select.select([child.gone_descriptor], [], [], 0.05)[0]:
        assert time.monotonic() < until
        device.turn(1.0)
    device.turn()


def test_after_a_job_apps_have_a_copy_of_the_head_that_was_judged_in_it(device, gateway) -> None:
    device.join(gateway)
    gateway.publish(V1)
    device.turn()
    turn_until_it_ends(device)
    (envelope,) = gateway.envelopes(MessageType.UPDATE)
    app = load_model(device.folder.path)
    assert (app.version, app.personal) == (V1, True)
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    device.agent.work.conditions.pause("owner", 0, device.now_s)
    gateway.publish(V2)
    device.turn()
    turn_until_it_ends(device)  # only judged
    assert app.refresh()
    assert (app.version, app.personal) == (V2, False)


def test_an_owner_who_wants_it_no_longer_has_it_gone_with_the_next_start(device, gateway) -> None:
    device.join(gateway)
    gateway.publish(V1)
    device.turn()
    turn_until_it_ends(device)
    app = load_model(device.folder.path)
    assert app.personal
    device.stop()
    device.start()
    assert not app.refresh()
    device.stop()
    device.config = replace(device.config, adoption=AdoptionSettings())
    device.start()
    assert app.refresh()
    assert (app.version, app.personal) == (V1, False)


def test_the_next_head_comes_to_apps_with_the_layer_that_was_trained_here(device, gateway) -> None:
    device.config = replace(device.config, adoption=AdoptionSettings())
    gateway.model = write_head(FEATURES, CLASSES, options=HeadOptions(personal=True))
    device.join(gateway)
    manifest = gateway.publish(V1)
    device.turn()
    turn_until_it_ends(device)
    with SampleStore(device.folder.samples) as store:
        layer = PersonalLayer(device.agent._database).load(PersonalKey.of(manifest, store.epoch))
    assert layer is not None
    (envelope,) = gateway.envelopes(MessageType.UPDATE)
    body, values = gateway.open(device, envelope).body, {layer[at : at + 4] for at in range(0, len(layer), 4)}
    assert len(values) > 10
    assert not any(value in body for value in values)
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    device.agent.work.conditions.pause("owner", 0, device.now_s)
    shared = np.zeros(len(layer) // 4 * 2, "<f4").tobytes()
    following = gateway.publish(V2, weights=shared)
    device.turn()
    turn_until_it_ends(device)
    slot, _, head = Slots(device.folder.current).read()
    assert slot.version == V2
    assert extract(head, following.tensors) == layer
    assert not any(head[: -len(layer)])  # what came is all that is beside it
    x, y = (np.array(part) for part in samples(200, seed=9))
    right = load_model(device.folder.path).predict(x).argmax(axis=1) == y
    assert right.mean() > 0.7  # by the layer alone: the head that was published knows nothing
