import dataclasses
import inspect

import pytest

from fedclient import values
from fedclient.values import NO_HEAD, PLAN_CODECS, Codec, CodecMode, HeadVersion, Plan, TensorSpec, parameters

CLASSES = [
    found for found in vars(values).values() if inspect.isclass(found) and dataclasses.is_dataclass(found)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_values_are_frozen_and_keyword_only(kind) -> None:
    assert kind.__dataclass_params__.frozen
    if kind is not HeadVersion:  # a pair, written HeadVersion(1, 2)
        assert all(field.kw_only for field in dataclasses.fields(kind))
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_generation_comes_before_version() -> None:
    assert NO_HEAD < HeadVersion(1, 5) < HeadVersion(1, 6) < HeadVersion(2, 1)
    assert str(HeadVersion(2, 17)) == "2.17"


def test_parameters_counts_elements() -> None:
    tensors = (
        TensorSpec(name="b", shape=(10,)),
        TensorSpec(name="k", shape=(64, 10)),
        TensorSpec(name="s", shape=()),
    )
    assert parameters(tensors) == 651
    assert parameters(()) == 0


def test_a_plan_with_statistics_has_a_codec_of_its_own_that_no_plan_names() -> None:
    sign = Codec(mode=CodecMode.TOPK_SIGN, density=0.5)
    assert Plan(codec=sign).body_codec == sign
    assert Plan(codec=sign, statistics=True).body_codec.mode is CodecMode.EXACT
    assert set(CodecMode) - set(PLAN_CODECS) == {CodecMode.EXACT}
