"""The zoo is what it says: those that run do, those that are refused could not have run."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.model.document import Document
from fedclient.runtime.interpreter import open_signatures
from tests.model import backbones
from tests.model.backbones import REFUSED, RUNS


def inputs_for(signature, rows=1):
    """Random values for every input; the first dimension is `rows`, others that are dynamic are 5."""
    rng = np.random.default_rng(0)
    values = {}
    for port in signature.inputs:
        shape = (rows, *(5 if size < 0 else size for size in port.shape[1:]))
        if np.issubdtype(port.dtype, np.integer):
            values[port.name] = rng.integers(*((0, 256) if port.dtype == np.uint8 else (-128, 128)), shape)
        else:
            values[port.name] = rng.uniform(-1, 1, shape)
        values[port.name] = values[port.name].astype(port.dtype)
    return values


def run(model, name="serving_default", rows=1):
    signature = open_signatures(model, threads=1, delegates=False)[name]
    return signature(inputs_for(signature, rows))


@pytest.mark.parametrize("name", RUNS)
def test_those_that_run_do_and_tell_inputs_apart(name):
    outputs = run(RUNS[name]())
    for value in outputs.values():
        assert len(np.unique(value)) > 1
        assert np.isfinite(value.astype(np.float64)).all()


@pytest.mark.parametrize("name", [*RUNS, *REFUSED])
def test_the_same_call_gives_the_same_bytes_and_few(name):
    make = (RUNS | REFUSED)[name]
    assert make() == make()
    assert len(make()) < 4096


@pytest.mark.parametrize("name", REFUSED)
def test_those_that_are_refused_do_not_run(name):
    document = Document.read(REFUSED[name]())
    with pytest.raises(ModelError):
        document.require_runnable(0, range(len(document.graphs[0].operators)))
    if name != "broken_quantization":  # which the runtime may run, and wrongly
        with pytest.raises(ModelError):
            run(REFUSED[name]())


@pytest.mark.parametrize("make", [backbones.int8, backbones.uint8, backbones.int8_per_channel])
def test_quantised_ones_compute_what_the_float_one_does(make):
    (found,) = run(make()).values()
    zero = 0 if found.dtype == np.uint8 else -128
    low = 0 if found.dtype == np.uint8 else -128
    picture = np.random.default_rng(0).integers(low, low + 256, (1, 8, 8, 3))
    scaled = ((picture - (128 if found.dtype == np.uint8 else 0)) / 128).astype(np.float32)
    original = open_signatures(backbones.classifier(), threads=1, delegates=False)["serving_default"]
    wanted = original({"image": scaled})["probabilities"]
    assert np.abs((found.astype(int) - zero) / 256 - wanted).max() < 0.03


def test_only_the_stubborn_one_refuses_a_batch():
    assert run(backbones.dynamic_batch(), rows=3)["probabilities"].shape == (3, 4)
    with pytest.raises(ModelError, match="does not run here"):
        run(backbones.stubborn(), rows=3)


def test_any_side_is_taken_where_sides_are_dynamic():
    signature = open_signatures(backbones.dynamic_sides(), threads=1, delegates=False)["serving_default"]
    assert signature.inputs[0].shape == (1, -1, -1, 3)
    for side in (4, 9):
        assert signature({"image": np.ones((1, side, side, 3), np.float32)})["probabilities"].shape == (1, 4)


def test_the_recurrent_one_remembers():
    signature = open_signatures(backbones.lstm(), threads=1, delegates=False)["serving_default"]
    x = inputs_for(signature)
    assert not np.array_equal(signature(x)["probabilities"], signature(x)["probabilities"])
