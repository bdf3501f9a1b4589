"""What leaves a device of a trained head, and what stays (PROTOCOL 5.2 to 5.4, 8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient import codec, runtime
from fedclient.errors import ModelError
from fedclient.model.head import HeadOptions, write_head
from fedclient.trainer.pack import fold, pack
from fedclient.training.loop import Examples, HeadTraining
from fedclient.values import PLAN_CODECS, Codec, CodecMode, Plan, TensorSpec

MODES = pytest.mark.parametrize("mode", PLAN_CODECS, ids=lambda mode: mode.name)
TENSORS = (TensorSpec(name="a", shape=(3,)), TensorSpec(name="b", shape=(4, 5)))
RARE = 2  # of this class there are 3 samples, of the others 20 each


def norm(vector) -> float:
    return float(np.linalg.norm(np.asarray(vector, np.float64)))


def trained(model: bytes, plan: Plan) -> tuple[HeadTraining, np.ndarray]:
    generator = np.random.default_rng(5)
    y = np.array([0] * 20 + [1] * 20 + [RARE] * 3, np.int32)
    x = generator.normal(size=(43, 6)).astype(np.float32)
    x[np.arange(43), y] += 3
    work = HeadTraining(model=runtime.load(model), examples=Examples(x=x, y=y), plan=plan, seed=1)
    base = work.model.get_weights()
    assert work.run(lambda: False, lambda _: None)
    return work, base


def decoded(body: bytes, tensors, plan: Plan) -> np.ndarray:
    total = np.zeros(sum(tensor.size for tensor in tensors))
    codec.decode(body, tensors, plan.codec).add_to(total, 1.0)
    return total


def plan_of(mode: CodecMode, density: float = 0.3, norm_bound: float = 1.0) -> Plan:
    return Plan(
        epochs=3,
        batch_size=8,
        learning_rate=0.5,
        codec=Codec(mode=mode, density=density),
        norm_bound=norm_bound,
    )


@MODES
@pytest.mark.parametrize("bound", [0.01, 1.0, 100.0])
def test_rule_5_4_neither_update_nor_residual_is_longer_than_the_bound(mode, bound) -> None:
    plan = plan_of(mode, norm_bound=bound)
    work, base = trained(write_head(6, 3), plan)
    long = np.random.default_rng(1).normal(size=len(base)).astype(np.float32) * 1000
    for residual in (np.zeros_like(base), long):
        packed = pack(work, base, residual, 1)
        assert norm(decoded(packed.body, work.model.tensors, plan)) <= bound
        assert norm(packed.residual) <= bound * (1 + 1e-6)
        assert np.isfinite(packed.residual).all()


@MODES
def test_rule_5_2_what_is_not_sent_is_kept_bit_by_bit(mode) -> None:
    plan = plan_of(mode, norm_bound=1e6)
    work, base = trained(write_head(6, 3), plan)
    before = np.random.default_rng(2).normal(size=len(base)).astype(np.float32)
    packed = pack(work, base, before, 1)
    wanted = (work.model.get_weights() - base) + before
    sent = decoded(packed.body, work.model.tensors, plan).astype(np.float32)
    assert packed.residual.tobytes() == (wanted - sent).tobytes()


@MODES
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("hidden", [None, 3, 4], ids=["linear", "hidden 3", "hidden 4"])
def test_rule_8_a_rare_classs_row_is_neither_sent_nor_kept(mode, density, hidden) -> None:
    plan = plan_of(mode, density)
    work, base = trained(write_head(6, 3, hidden, seed=1), plan)
    after = work.model.get_weights()
    packed = pack(work, base, np.ones_like(base), 8)  # an old residual has something in that row too
    assert packed.suppressed_classes == (RARE,)
    sent, at, rows = decoded(packed.body, work.model.tensors, plan), 0, 0
    for tensor in work.model.tensors:
        part = slice(at, at + tensor.size)
        at += tensor.size
        if tensor.name.startswith("output/"):
            for vector in (sent, packed.residual):
                assert not vector[part].reshape(tensor.shape)[RARE].any(), tensor.name
            assert (after - base)[part].reshape(tensor.shape)[RARE].any()
            rows += 1
    assert rows == 2
    assert sent.any()
    assert work.model.get_weights().tobytes() == after.tobytes()


@MODES
def test_rule_8_enough_samples_of_each_class_withhold_nothing(mode) -> None:
    work, base = trained(write_head(6, 3), plan_of(mode, 1.0))
    packed = pack(work, base, np.zeros_like(base), 3)
    assert packed.suppressed_classes == ()
    assert decoded(packed.body, work.model.tensors, work.plan).reshape(-1)[RARE] != 0


@pytest.mark.parametrize(("rare", "withheld"), [(7, True), (8, False)])
def test_rule_8_the_shared_models_row_is_withheld_below_the_minimum(shared: Path, rare, withheld) -> None:
    model = runtime.load(shared / "models" / "training_model.tflite")
    y = np.array([0] * 20 + [1] * rare, np.int32)
    x = np.linspace(-1, 1, len(y), dtype=np.float32)[:, None]
    plan = plan_of(CodecMode.DENSE_INT8)
    work = HeadTraining(model=model, examples=Examples(x=x, y=y), plan=plan, seed=1)
    base = model.get_weights()
    assert work.run(lambda: False, lambda _: None)
    packed = pack(work, base, np.ones_like(base), 8)
    assert decoded(packed.body, model.tensors, plan).any() != withheld
    assert packed.suppressed_classes == ((0,) if withheld else ())
    if withheld:
        assert not packed.residual.any()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-20, 1e20), mode=st.sampled_from(PLAN_CODECS))
@settings(max_examples=40, deadline=None)
def test_rule_5_4_any_residual_is_taken(seed, scale, mode) -> None:
    work, base = trained(write_head(6, 3), Plan(codec=Codec(mode=mode, density=0.2), norm_bound=2.0))
    residual = np.random.default_rng(seed).normal(size=len(base)).astype(np.float32) * np.float32(scale)
    packed = pack(work, base, residual, 1)
    assert norm(decoded(packed.body, work.model.tensors, work.plan)) <= 2.0
    assert norm(packed.residual) <= 2.0 * (1 + 1e-6)


@MODES
def test_rule_5_3_a_returned_update_goes_back_whole(mode) -> None:
    plan = plan_of(mode)
    generator = np.random.default_rng(3)
    vectors = [generator.normal(size=23).astype(np.float32) for _ in range(3)]
    encoded = [codec.encode(vector, TENSORS, plan.codec) for vector in vectors]
    residual = generator.normal(size=23).astype(np.float32)
    folded = fold(residual, [one.body for one in encoded], plan, TENSORS)
    expected = residual.astype(np.float64) + sum(one.decoded.astype(np.float64) for one in encoded)
    assert folded.tobytes() == expected.astype(np.float32).tobytes()
    assert fold(residual, [], plan, TENSORS).tobytes() == residual.tobytes()


def test_a_returned_update_that_does_not_decode_stands_in_nobodys_way(caplog) -> None:
    residual = np.ones(23, np.float32)
    body = codec.encode(residual, TENSORS, Codec(mode=CodecMode.DENSE_INT8)).body
    for bad in (body, b"", b"\x01\xff"):
        assert fold(residual, [bad], plan_of(CodecMode.TOPK_INT8), TENSORS).tobytes() == residual.tobytes()
    assert caplog.text.count("returned update is dropped") == 3


@MODES
def test_with_fewer_epochs_the_bound_is_as_much_less(mode) -> None:
    """As the gateway will judge it: it counts each epoch's share of the delta the same."""
    work, base = trained(write_head(6, 3), plan_of(mode, norm_bound=0.3))
    for done, bound in ((3, 0.3), (2, 0.2), (1, 0.1)):
        work.epoch = done
        packed = pack(work, base, np.ones_like(base), 1)
        assert norm(decoded(packed.body, work.model.tensors, work.plan)) == pytest.approx(bound, rel=0.5)
        assert norm(decoded(packed.body, work.model.tensors, work.plan)) <= bound
        assert norm(packed.residual) <= bound * (1 + 1e-6)


EXTRAS = HeadOptions(personal=True, normalize=True)


def with_extras(work: HeadTraining, seed: int) -> np.ndarray:
    """Give the model's personal layer and statistics other values; returns where they are."""
    weights = work.model.get_weights()
    kept = np.concatenate(
        [
            np.full(tensor.size, tensor.name.startswith(("personal/", "normalize/")))
            for tensor in work.model.tensors
        ]
    )
    noise = np.random.default_rng(seed).uniform(1, 1000, len(weights)).astype(np.float32)
    work.model.set_weights(np.where(kept, noise, weights))
    return kept


@MODES
@pytest.mark.parametrize("minimum", [1, 8], ids=["all classes", "a rare class"])
@pytest.mark.parametrize("hidden", [None, 4], ids=["linear", "hidden"])
def test_nothing_of_a_personal_layer_or_of_statistics_is_sent_or_kept(mode, hidden, minimum) -> None:
    """Whatever they hold, body and residual are the same bytes: nobody can tell anything of them."""
    work, base = trained(write_head(6, 3, hidden, seed=1, options=EXTRAS), plan_of(mode))
    residual = np.random.default_rng(4).normal(size=len(base)).astype(np.float32)
    first = pack(work, base, residual, minimum)
    for seed in (1, 2):
        kept = with_extras(work, seed)
        mixed = np.where(kept, np.float32(seed * 1e3), residual)  # as an earlier version might have left it
        again = pack(work, base, mixed, minimum)
        assert again.body == first.body
        assert again.residual.tobytes() == first.residual.tobytes()
    sent = decoded(first.body, work.model.tensors, work.plan)
    assert not sent[kept].any()
    assert not first.residual[kept].any()
    assert sent[~kept].any()
    assert norm(sent) <= work.plan.norm_bound
    assert kept.sum() > (~kept).sum() // 2  # there was something to tell


@MODES
def test_the_density_counts_what_can_be_sent(mode) -> None:
    plan = plan_of(mode, 0.2)
    plain, base = trained(write_head(6, 3), plan)
    alone = decoded(pack(plain, base, np.zeros_like(base), 1).body, plain.model.tensors, plan)
    work, base = trained(write_head(6, 3, options=EXTRAS), plan)
    sent = decoded(pack(work, base, np.zeros_like(base), 1).body, work.model.tensors, plan)
    assert np.count_nonzero(sent) == np.count_nonzero(alone) > 0


def test_a_head_that_is_personal_altogether_has_nothing_to_federate() -> None:
    work, base = trained(write_head(6, 3), plan_of(CodecMode.TOPK_INT8))
    ours = tuple(replace(tensor, name=f"personal/{tensor.name}") for tensor in work.model.tensors)
    work.model = SimpleNamespace(tensors=ours, classes=3, get_weights=work.model.get_weights)
    with pytest.raises(ModelError, match="nothing to federate"):
        pack(work, base, np.zeros_like(base), 1)
