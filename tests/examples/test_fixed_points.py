"""The example on fixed points: the project's own loss has no gradient there."""

import importlib.util

import numpy as np
import pytest
import torch
from places import ROOT
from shaped_kernels import RewardShape, shaped_linear_loss

_FILE = ROOT / "examples" / "fixed_points.py"
_SPEC = importlib.util.spec_from_file_location("fixed_points", _FILE)
example = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(example)

DATA = {
    "two tokens": [0.8, 0.2],
    "nearly certain": [0.999, 0.0009, 0.0001],
    "likely, flat tail": [0.9] + 100 * [0.001],
    "uniform": 50 * [0.02],
}


@pytest.mark.parametrize("beta", [-0.25, 0.5])
@pytest.mark.parametrize("form", ["exponent", "product"])
@pytest.mark.parametrize("name", DATA)
def test_the_loss_has_no_gradient_at_the_fixed_point(name, form, beta):
    data, shape = np.array(DATA[name]), RewardShape(beta, positive=form)
    p = torch.from_numpy(example.fixed_point(data, shape))
    assert p.sum().item() == pytest.approx(1, abs=1e-7)
    V = len(data)
    hidden = p.log().expand(V, V).clone().requires_grad_()
    loss = shaped_linear_loss(
        hidden, torch.eye(V, dtype=torch.float64), torch.arange(V), shape, impl="reference"
    ).loss
    (rows_VV,) = torch.autograd.grad(loss, hidden)
    # the gradient over targets that are drawn from the data
    expected_V = torch.from_numpy(data) @ rows_VV
    assert (expected_V.abs() / p).max() < 1e-6
    away = torch.from_numpy(data).log().expand(V, V).clone().requires_grad_()
    loss = shaped_linear_loss(
        away, torch.eye(V, dtype=torch.float64), torch.arange(V), shape, impl="reference"
    ).loss
    (rows_VV,) = torch.autograd.grad(loss, away)
    if name != "uniform":  # where every shape agrees with cross-entropy
        assert ((torch.from_numpy(data) @ rows_VV).abs() / torch.from_numpy(data)).max() > 1e-3


def test_two_tokens_come_out_at_temperature_one_plus_beta_in_the_products_form():
    p = example.fixed_point(np.array([0.8, 0.2]), RewardShape(0.5, positive="product"))
    assert p[0] / p[1] == pytest.approx(4 ** (1 / 1.5), rel=1e-7)
