"""The presets of other papers, against their formulas by autograd in float64.

With the identity for the head weight, the gradient of the hidden states is that of the logits.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from shaped_kernels import RewardShape, shaped_linear_loss
from torch import Tensor

# The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
V = 37
PRECISIONS = {
    "reference": (torch.float64, 1e-12),
    "chunked": (torch.float64, 1e-12),
    "triton": (torch.float32, 1e-5),
}


def cross_entropy(z: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(z, x, reduction="none")


def dft(z: Tensor, x: Tensor) -> Tensor:
    """sg(p)·CE (arXiv 2508.05629)."""
    nll = cross_entropy(z, x)
    return (-nll).exp().detach() * nll


def neg_p(z: Tensor, x: Tensor, alpha: float) -> Tensor:
    """(1 − p^α)/α (arXiv 2510.00526)."""
    return (1 - (-alpha * cross_entropy(z, x)).exp()) / alpha


def profit(z: Tensor, x: Tensor) -> Tensor:
    """1[p > τ]·CE (arXiv 2601.09195)."""
    nll = cross_entropy(z, x)
    return nll * ((-nll).exp() > 0.1).detach()


def eaft(z: Tensor, x: Tensor) -> Tensor:
    """sg(H/ln 20)·CE, with the entropy of the 20 largest logits alone (arXiv 2601.02151)."""
    p = z.detach().topk(20).values.softmax(-1)
    return -(p * p.log()).sum(-1) / math.log(20) * cross_entropy(z, x)


def gem(z: Tensor, x: Tensor) -> Tensor:
    """Σ sg(q)·(z_j − z_x) with q = softmax(z/β): GEM's estimate for a linear h (arXiv 2408.16673)."""
    q = (z.detach() / 0.7).softmax(-1)
    return (q * (z - z.gather(-1, x[:, None]))).sum(-1)


FORMULAS = {
    # name: (the shape, the paper's loss, whether the values are equal, not the gradients alone)
    "dft": (RewardShape.preset("dft"), dft, True),
    "neg_p": (RewardShape.preset("neg_p"), lambda z, x: neg_p(z, x, 1.0), False),
    "neg_p, 2": (RewardShape.preset("neg_p", alpha=2.0), lambda z, x: neg_p(z, x, 2.0), False),
    "profit": (RewardShape.preset("profit"), profit, True),
    "eaft": (RewardShape.preset("eaft"), eaft, True),
    "gem": (RewardShape.preset("gem"), gem, False),
    "gem, as its closed form": (
        RewardShape.preset("gem"),
        lambda z, x: 0.7 * cross_entropy(z / 0.7, x),
        True,
    ),
}


def make_logits(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows whose targets are the most and the least likely token, and in between."""
    generator = torch.Generator().manual_seed(31)
    z = 2 * torch.randn(9, V, generator=generator, dtype=torch.float64)
    x = torch.randint(V, (9,), generator=generator)
    x[:4] = z[:4].argmax(-1)
    x[4] = z[4].argmin()
    z[0, x[0]] += 30  # all but certain
    return z.to(dtype), x


@pytest.mark.parametrize("impl", PRECISIONS)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradients_are_those_of_the_papers_formula(name, impl):
    shape, formula, same_value = FORMULAS[name]
    dtype, tolerance = PRECISIONS[impl]
    z, x = make_logits(dtype)
    truth = z.double().requires_grad_()
    expected = formula(truth, x)
    (expected_dz,) = torch.autograd.grad(expected.sum(), truth)
    hidden = z.clone().requires_grad_()
    weight = torch.eye(V, dtype=dtype)
    output = shaped_linear_loss(
        hidden, weight, x, shape, metrics=("nll", "entropy"), reduction="none", impl=impl
    )
    (dz,) = torch.autograd.grad(output.loss.sum(), hidden)
    torch.testing.assert_close(dz.double(), expected_dz, rtol=tolerance, atol=tolerance)
    if same_value:
        torch.testing.assert_close(
            output.loss.double(), expected.detach(), rtol=tolerance, atol=tolerance
        )
    # Metrics are of the model's own distribution, also for GEM.
    z = z.double()
    entropy = torch.special.entr(z.softmax(-1)).sum(-1)
    for metric, value in ((output.nll, cross_entropy(z, x)), (output.entropy, entropy)):
        torch.testing.assert_close(metric.double(), value, rtol=tolerance, atol=tolerance)


def test_the_presets_differ_from_each_other():
    """Otherwise the test above could pass with the formulas mixed up."""
    z, x = make_logits(torch.float64)
    gradients = {}
    for name, (_, formula, _) in FORMULAS.items():
        leaf = z.clone().requires_grad_()
        (gradients[name],) = torch.autograd.grad(formula(leaf, x).sum(), leaf)
    names = ["dft", "neg_p, 2", "profit", "eaft", "gem"]
    for i, one in enumerate(names):
        for other in names[:i]:
            assert (gradients[one] - gradients[other]).abs().max() > 0.1, (one, other)
    torch.testing.assert_close(gradients["dft"], gradients["neg_p"])


def test_a_z_loss_and_a_loss_temperature_exclude_each_other():
    z, x = make_logits(torch.float64)
    with pytest.raises(ValueError, match=r"z_loss=0.1 does not go with .*loss_temperature=0.7"):
        shaped_linear_loss(z, torch.eye(V).double(), x, RewardShape.preset("gem"), z_loss=0.1)
