"""A form of the target's reward that is added in some places only: the one that is missing is
named.

docs/contributing/own-shape.md lists the places. Most of them take an unknown form for the exponent, silently.
"""

import importlib
import inspect

import pytest
import torch
from shaped_kernels import RewardShape, arithmetic, reference, shape, triton_rows
from shaped_kernels.shape import PRESETS

from shaped_trl import cli
from shaped_trl.training.config import ShapedConfig

triton_arithmetic = pytest.importorskip(
    "shaped_kernels.triton_arithmetic", reason="triton is not installed (it exists for Linux only)"
)
triton_kernels = importlib.import_module("shaped_kernels.triton_kernels")
LOG_ODDS = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)


def shape_of(form: str) -> RewardShape:
    """A shape in which the form acts, by the field that it uses."""
    field = shape.POSITIVE_FORMS[form]
    return RewardShape(positive=form, **({field: 0.5} if field else {}))


def is_like_another(form: str, weight) -> bool:
    """Whether a function of a shape gives for a form what it gives for one of the others."""
    own = weight(shape_of(form))
    others = [weight(shape_of(other)) for other in shape.POSITIVE_FORMS if other != form]
    return any(torch.equal(own, other) for other in others)


def missing_places(form: str) -> list[str]:
    """The places that do not know the form."""
    if form not in shape.POSITIVE_FORMS:
        return ["shape.py: POSITIVE_FORMS"]
    kernel = inspect.getsource(triton_arithmetic.target_terms.fn)
    kernel += inspect.getsource(triton_kernels.shape_rows.fn)  # a form that needs the head set
    number = triton_rows._FORMS.get(form)
    described = ShapedConfig.__dataclass_fields__["positive"].metadata["help"]
    lacks = {
        "reference.py: log_weight": is_like_another(
            form, lambda one: reference.log_weight(LOG_ODDS, one)
        ),
        "arithmetic.py: target_terms": is_like_another(
            form, lambda one: arithmetic.target_terms(LOG_ODDS, one).wq
        ),
        "triton_rows.py: _FORMS": number is None,
        "triton_arithmetic.py: target_terms": f"form == {number}" not in kernel,
        "training/config.py: help of positive": form not in described,
    }
    return [place for place, lacking in lacks.items() if lacking]


@pytest.mark.parametrize("form", shape.POSITIVE_FORMS)
def test_no_place_is_missing(form):
    assert missing_places(form) == []


def test_a_form_that_is_nowhere_is_missing_in_the_first_place():
    assert missing_places("mine") == ["shape.py: POSITIVE_FORMS"]


def test_the_places_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(shape, "POSITIVE_FORMS", {**shape.POSITIVE_FORMS, "mine": "beta"})
    assert missing_places("mine") == [
        "reference.py: log_weight",
        "arithmetic.py: target_terms",
        "triton_rows.py: _FORMS",
        "triton_arithmetic.py: target_terms",
        "training/config.py: help of positive",
    ]
    monkeypatch.setitem(triton_rows._FORMS, "mine", 99)
    exponents = reference.log_weight
    monkeypatch.setattr(
        reference,
        "log_weight",
        lambda delta, one: exponents(delta, one) * (2 if one.positive == "mine" else 1),
    )
    assert missing_places("mine") == [
        "arithmetic.py: target_terms",
        "triton_arithmetic.py: target_terms",
        "training/config.py: help of positive",
    ]


def test_every_preset_is_named_in_the_help(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in PRESETS if name not in text] == []
