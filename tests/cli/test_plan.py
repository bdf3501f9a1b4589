"""A plan file: every field of a plan, and one clear sentence for everything that is none."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from fedclient.cli.plan import read_plan
from fedclient.errors import ConfigError
from fedclient.values import Codec, CodecMode, Plan, Schedule

WHOLE = """
epochs = 2
batch_size = 32
learning_rate = 1
norm_bound = 4.5
max_examples = 500
max_staleness = 2
momentum = 0.5
l2 = 0.001
mu = 1
schedule = "cosine"
balanced = true
budget_s = 60
statistics = true
max_update_bytes = 512
max_bytes_per_day = 4096
[codec]
mode = "topk_sign"
density = 0.05
"""


def write(tmp_path, text: str):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


def test_every_field_of_a_plan_is_a_key(tmp_path) -> None:
    plan = read_plan(write(tmp_path, WHOLE))
    assert plan == Plan(
        epochs=2, batch_size=32, learning_rate=1.0, norm_bound=4.5, max_examples=500, max_staleness=2,
        momentum=0.5, l2=0.001, mu=1.0, schedule=Schedule.COSINE, balanced=True, budget_s=60.0,
        statistics=True, max_update_bytes=512, max_bytes_per_day=4096,
        codec=Codec(mode=CodecMode.TOPK_SIGN, density=0.05),
    )  # fmt: skip
    assert not [item.name for item in fields(Plan) if getattr(plan, item.name) == getattr(Plan(), item.name)]


def test_what_is_left_out_has_its_default(tmp_path) -> None:
    assert read_plan(write(tmp_path, "")) == Plan()
    assert read_plan(write(tmp_path, "[codec]\ndensity = 0.5")) == Plan(codec=Codec(density=0.5))
    same = 'momentum = 0.9\nschedule = "constant"\nbalanced = false\nl2 = 0\nbudget_s = 0.0'
    assert read_plan(write(tmp_path, same)) == Plan()


def test_values_of_fewer_bits(tmp_path) -> None:
    assert read_plan(write(tmp_path, "[codec]\nbits = 4")).codec == Codec(bits=4)
    assert read_plan(write(tmp_path, "[codec]\nbits = 8")).codec == Codec()


def test_bytes_alone_mean_the_best_that_fits(tmp_path) -> None:
    fitted = Codec(mode=CodecMode.FITTED, density=1.0)
    assert read_plan(write(tmp_path, "max_update_bytes = 400")) == Plan(max_update_bytes=400, codec=fitted)
    named = "max_update_bytes = 400\n[codec]\nmode = 'fitted'"
    assert read_plan(write(tmp_path, named)).codec == fitted
    assert read_plan(write(tmp_path, f"{named}\ndensity = 0.25")).codec == replace(fitted, density=0.25)
    kept = read_plan(write(tmp_path, "max_update_bytes = 400\n[codec]\ndensity = 0.02"))
    assert kept == Plan(max_update_bytes=400, codec=Codec(density=0.02))


def test_a_hyphen_will_do(tmp_path) -> None:
    found = read_plan(write(tmp_path, "[codec]\nmode = 'topk-sign'"))
    assert found.codec.mode is CodecMode.TOPK_SIGN


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch = 1", "unknown key epoch, did you mean epochs?"),
        ("budget = 1", "unknown key budget, did you mean budget_s?"),
        ("epochs = 0", "epochs is 0"),
        ('epochs = "many"', "epochs is many, expected a whole number"),
        ("epochs = 1.5", "epochs is 1.5, expected a whole number"),
        ("epochs = true", "epochs is True, expected a whole number"),
        ("epochs =", "not valid TOML"),
        ("epochs = 2020-01-01", "epochs is 2020-01-01, expected a whole number"),
        (f"epochs = {'9' * 400}", "epochs is 9999"),
        (f"l2 = {'9' * 400}", "l2 is 9999"),
        ("learning_rate = nan", "learning rate"),
        ('learning_rate = "high"', "learning_rate is high, expected a number"),
        ("momentum = 1", "momentum is 1.0"),
        ("momentum = [0.9]", r"momentum is \[0.9\], expected a number"),
        ("l2 = true", "l2 is True, expected a number"),
        ("mu = -1", "mu is -1.0"),
        ("budget_s = inf", "budget_s is inf"),
        ('balanced = "no"', "balanced is no, expected true or false"),
        ("balanced = 1", "balanced is 1, expected true or false"),
        ("statistics = 0", "statistics is 0, expected true or false"),
        ("schedule = 'step'", "schedule is 'step', expected one of constant, linear, cosine"),
        ("schedule = 2", "schedule is 2, expected one of constant"),
        ("codec = 1", r"write \[codec\]"),
        ("[codec]\nmode = 'none'", "expected one of topk_int8"),
        ("[codec]\nmode = 'exact'", "expected one of topk_int8"),
        ("[codec]\nmode = 1", "codec mode is 1, expected one of topk_int8"),
        ("[codec]\ndensities = 1", "unknown key densities, did you mean density?"),
        ("[codec]\nbits = 9", "bits is 9"),
        ("[codec]\nbits = 1", "bits is 1"),
        (
            "[codec]\nmode = 'topk_sign'\nbits = 4",
            "only the codec mode topk_int8 has a choice of bits",
        ),
        ("[codec]\nmode = 'fitted'", "codec mode fitted and no max_update_bytes"),
        ("mode = 'fitted'", r"unknown key mode \(it belongs in \[codec\]\)"),
        ("[codec]\nmax_update_bytes = 400", r"unknown key max_update_bytes in \[codec\]: write it above"),
        ("max_update_bytes = 255", "max_update_bytes is 255: choose 256 to 4194304, or 0 for none"),
        ("max_update_bytes = -1", "max_update_bytes is -1"),
        ("max_update_bytes = 'few'", "max_update_bytes is few, expected a whole number"),
        ("max_bytes_per_day = 12", "max_bytes_per_day is 12: choose 256 to .*, or 0 for none"),
        ("max_update_bytes = 400\n[codec]\nmode = 'fitted'\nbits = 4", "bits = 4"),
        ("[codec]\ndensity = 'all'", "density is all, expected a number"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file_and_the_key(tmp_path, text, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_plan(write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "plan.toml"))
    assert "\n" not in str(caught.value)
