"""RewardShape refuses invalid values with a message that says what to do."""

import dataclasses
import math

import pytest
from shaped_kernels import PRESETS, RewardShape

REFUSED = [
    ("beta", {"beta": -1.01}, "at least -1"),
    ("beta", {"beta": math.nan}, "finite"),
    ("beta", {"beta": "-0.25"}, "finite number"),
    ("lambda_head", {"lambda_head": math.inf}, "finite"),
    ("lambda_tail", {"lambda_tail": -math.inf}, "finite"),
    ("top_k", {"top_k": 0}, "at least 1"),
    ("top_k", {"top_k": 2.0}, "whole number"),
    ("top_k", {"top_k": True}, "whole number"),
    ("positive", {"positive": "focal"}, "exponent, product, power"),
    ("alpha", {"positive": "power", "alpha": 0.0}, "above 0"),
    ("alpha", {"alpha": 2.0}, "positive='power'"),
    ("beta", {"positive": "power", "beta": 0.5}, "alpha"),
    ("beta", {"positive": "entropy", "beta": 0.5}, "'exponent' or 'product'"),
    ("alpha", {"positive": "threshold", "alpha": 0.5}, "set threshold"),
    ("threshold", {"threshold": 0.1}, "positive='threshold'"),
    ("threshold", {"positive": "threshold", "threshold": 1.0}, "below 1"),
    ("threshold", {"positive": "threshold", "threshold": -0.1}, "at least 0"),
    ("threshold", {"positive": "threshold", "threshold": math.nan}, "finite"),
    ("loss_temperature", {"loss_temperature": 0.0}, "above 0"),
    ("loss_temperature", {"loss_temperature": math.inf}, "finite"),
    ("top_k", {"positive": "entropy", "top_k": 1}, "at least 2"),
]


@pytest.mark.parametrize(("field", "arguments", "remedy"), REFUSED, ids=lambda value: str(value))
def test_a_field_out_of_range_is_named_with_its_value_and_what_is_allowed(field, arguments, remedy):
    with pytest.raises(ValueError, match=f"^{field}=") as error:
        RewardShape(**arguments)
    message = str(error.value)
    assert repr(arguments[field]) in message
    assert remedy in message
    assert "\n" not in message


def test_the_edges_of_the_ranges_are_allowed():
    assert RewardShape(beta=-1, top_k=1).top_k == 1
    assert RewardShape(positive="power").alpha == 1


def test_a_shape_is_frozen_and_compares_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RewardShape().beta = 1.0  # type: ignore[misc]
    assert RewardShape(beta=-0.25) == RewardShape.preset("precision")
    assert len({RewardShape(), RewardShape(), RewardShape(beta=0.5)}) == 2


def test_the_presets_are_those_of_the_paper():
    assert {name: dataclasses.astuple(shape)[:3] for name, shape in PRESETS.items()} == {
        "cross_entropy": (0.0, 0.0, 0.0),
        "precision": (-0.25, 0.0, 0.0),
        "diversity": (0.5, 0.0, 0.0),
        "precision_product": (-0.25, 0.0, 0.0),
        "diversity_product": (0.5, 0.0, 0.0),
        "tail_penalty": (0.0, 0.0, -0.1),
        "head_reward": (0.0, 0.1, 0.0),
    } | dict.fromkeys(("dft", "neg_p", "profit", "eaft", "gem"), (0.0, 0.0, 0.0))
    assert [name for name, shape in PRESETS.items() if shape.is_cross_entropy] == ["cross_entropy"]
    named = {name for name in PRESETS if name.endswith("_product")}
    assert {name for name, shape in PRESETS.items() if shape.positive == "product"} == named
    others = {"dft": "power", "neg_p": "power", "profit": "threshold", "eaft": "entropy"}
    assert {name: PRESETS[name].positive for name in others} == others
    assert {PRESETS[name].positive for name in PRESETS.keys() - named - others.keys()} == {
        "exponent"
    }


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'precise' is unknown; use one of cross_entropy, precision, diversity"
    ):
        RewardShape.preset("precise")


def test_a_preset_takes_other_values_and_checks_them():
    assert RewardShape.preset("neg_p", alpha=2.0) == RewardShape(positive="power", alpha=2.0)
    assert RewardShape.preset("gem", loss_temperature=0.5).loss_temperature == 0.5
    with pytest.raises(ValueError, match=r"^beta=0.5 is unused"):
        RewardShape.preset("eaft", beta=0.5)


def test_only_plain_cross_entropy_says_that_it_is():
    assert RewardShape(positive="exponent", top_k=7).is_cross_entropy
    assert not RewardShape(positive="power").is_cross_entropy
    assert not RewardShape(lambda_tail=1e-9).is_cross_entropy
    assert not RewardShape(loss_temperature=0.7).is_cross_entropy
