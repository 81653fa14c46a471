"""`linear_log_probs` against autograd through full logits, and against TRL's chunked head."""

import pytest
import torch
from shaped_kernels import linear_log_probs
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

# The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
N, D, V = 11, 6, 37
PRECISIONS = {
    "reference": (torch.float64, 1e-12),
    "chunked": (torch.float64, 1e-12),
    "triton": (torch.float32, 1e-5),
}


def make_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(37)
    hidden, weight, bias = (
        torch.randn(size, generator=generator).to(dtype).requires_grad_()
        for size in ((N, D), (V, D), (V,))
    )
    ids = torch.randint(V, (N,), generator=generator)
    ids[3] = -100
    return hidden, weight, bias, ids


@pytest.mark.parametrize("impl", PRECISIONS)
@pytest.mark.parametrize("softcap", [None, 2.5], ids=["no-softcap", "softcap"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_they_are_those_of_full_logits(temperature, softcap, impl):
    dtype, tolerance = PRECISIONS[impl]
    hidden, weight, bias, ids = make_inputs(dtype)
    z = 0.6 * (hidden.double() @ weight.double().T + bias.double())
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    kept = ids != -100
    expected = log_p.gather(-1, ids.clamp(min=0)[:, None]).squeeze(-1).masked_fill(~kept, 0)
    entropies = -(log_p.exp() * log_p).sum(-1).masked_fill(~kept, 0)
    got = linear_log_probs(
        hidden,
        weight,
        ids,
        temperature,
        bias=bias,
        logit_scale=0.6,
        softcap=softcap,
        impl=impl,
        chunk_mb=4 * V * dtype.itemsize / 2**20,
    )
    assert not got.entropies.requires_grad
    factors = torch.linspace(-2, 3, N, dtype=torch.float64)
    leaves = (hidden, weight, bias)
    truth = torch.autograd.grad((factors * expected).sum(), leaves)
    ours = torch.autograd.grad((factors.to(dtype) * got.log_probs).sum(), leaves)
    for one, other in zip((*got, *ours), (expected, entropies, *truth), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def test_they_are_those_of_trls_head():
    hidden, weight, bias, ids = make_inputs(torch.float32)
    ids[3] = 0  # TRL's function leaves out ignored tokens before it
    log_probs, entropies, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, bias, ids, 0.7, 16, 2.5, 0.6, ("entropy",)
    )
    got = linear_log_probs(hidden, weight, ids, 0.7, bias=bias, logit_scale=0.6, softcap=2.5)
    torch.testing.assert_close(got.log_probs, log_probs)
    torch.testing.assert_close(got.entropies, entropies, rtol=1e-5, atol=1e-5)
    factors = torch.linspace(-2, 3, N)
    leaves = (hidden, weight, bias)
    ours, theirs = (
        torch.autograd.grad((factors * each).sum(), leaves) for each in (got.log_probs, log_probs)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.inf, torch.nan])
def test_a_temperature_that_is_none_is_named(temperature):
    hidden, weight, _, ids = make_inputs(torch.float32)
    with pytest.raises(ValueError, match=r"^temperature=.* is not a finite number above 0$"):
        linear_log_probs(hidden, weight, ids, temperature)
