"""Rounding errors against a float64 truth, judged by those of PyTorch in the same dtype."""

import pytest
import torch
import torch.nn.functional as F
from shaped_kernels import RewardShape, shaped_linear_loss
from torch import Tensor

N, D, V = 63, 60, 1001
FULL_SHAPE = RewardShape(beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=50)


def make_inputs(dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Hidden, weight and bias rounded to bf16, so that all dtypes start from the same numbers."""
    generator = torch.Generator().manual_seed(11)
    sizes = ((N, D), (V, D), (V,))
    tensors = [torch.randn(size, generator=generator).bfloat16() for size in sizes]
    tensors[1] *= 0.25  # logits of standard deviation 2
    return [t.to(dtype).requires_grad_() for t in tensors], torch.randint(
        V, (N,), generator=generator
    )


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, reduction="sum")


def shaped(shape: RewardShape, impl: str, chunk_mb: float = 0.1):
    return lambda hidden, weight, bias, targets: (
        shaped_linear_loss(
            hidden, weight, targets, shape, bias=bias, impl=impl, chunk_mb=chunk_mb
        ).loss
    )


def loss_and_gradients(loss_function, dtype: torch.dtype) -> list[Tensor]:
    tensors, targets = make_inputs(dtype)
    loss = loss_function(*tensors, targets)
    loss.backward()
    return [loss.detach(), *(t.grad for t in tensors)]


def errors(results: list[Tensor], truths: list[Tensor]) -> list[float]:
    return [
        (torch.linalg.vector_norm(got.double() - truth) / torch.linalg.vector_norm(truth)).item()
        for got, truth in zip(results, truths, strict=True)
    ]


def test_memory_is_poisoned():
    assert torch.empty(5).isnan().all()
    assert torch.zeros(5).new_empty(2, 2).isnan().all()


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_the_default_shape_is_cross_entropy_in_float64(impl):
    truths = loss_and_gradients(cross_entropy, torch.float64)
    for got, truth in zip(
        loss_and_gradients(shaped(RewardShape(), impl), torch.float64), truths, strict=True
    ):
        torch.testing.assert_close(got, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "peer"),
    [(RewardShape(), cross_entropy), (FULL_SHAPE, shaped(FULL_SHAPE, "reference"))],
    ids=["cross_entropy", "full_shape"],
)
def test_chunked_errs_at_most_twice_as_much_as_full_logits(shape, peer, dtype):
    truths = loss_and_gradients(peer, torch.float64)
    results = loss_and_gradients(shaped(shape, "chunked"), dtype)
    assert [t.dtype for t in results] == [torch.float32, dtype, dtype, dtype]
    allowed = errors(loss_and_gradients(peer, dtype), truths)
    # An error counts as at least one rounding of the fp32 sum, since the peer's may be 0 by luck.
    allowed[0] = max(allowed[0], torch.finfo(torch.float32).eps)
    for error, peer_error in zip(errors(results, truths), allowed, strict=True):
        assert error <= 2 * peer_error


def test_the_bf16_weight_gradient_does_not_lose_precision_with_the_number_of_chunks():
    truth = loss_and_gradients(cross_entropy, torch.float64)[2]
    one, many = (
        errors(
            [loss_and_gradients(shaped(RewardShape(), "chunked", mb), torch.bfloat16)[2]], [truth]
        )[0]
        for mb in (1.0, 0.02)
    )
    assert many <= 1.001 * one


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_loss_keeps_the_exact_dtype(dtype):
    tensors, targets = make_inputs(dtype)
    output = shaped_linear_loss(tensors[0], tensors[1], targets, metrics=("entropy",))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert (output.loss.dtype, output.entropy.dtype) == (expected, expected)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_autocast_errs_as_cross_entropy_does_under_autocast(impl):
    truths = loss_and_gradients(cross_entropy, torch.float64)

    def under_autocast(loss_function) -> list[Tensor]:
        tensors, targets = make_inputs(torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_function(*tensors, targets)
        loss.backward()
        assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in tensors)
        return [loss.detach(), *(t.grad for t in tensors)]

    results = under_autocast(shaped(RewardShape(), impl))
    allowed = errors(under_autocast(cross_entropy), truths)
    for error, peer_error in zip(errors(results, truths), allowed, strict=True):
        assert error <= 2 * peer_error
    assert errors(results, truths)[1] > 1e-4  # autocast used bf16


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_gradient_that_may_be_wider_than_its_weight_is_not_rounded(reduction):
    """`grad_dtype` asks for fp32: bf16 inputs then give the fp32 sum, whose rounding is usual."""
    gradients = []
    for wide in (False, True):
        (hidden, weight, _), targets = make_inputs(torch.bfloat16)
        if wide:
            weight.grad_dtype = torch.float32
        losses = shaped_linear_loss(hidden, weight, targets, FULL_SHAPE, reduction=reduction).loss
        (losses.sum() / 3).backward()
        gradients.append(weight.grad)
    usual, exact = gradients
    assert (usual.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(exact.bfloat16(), usual)
    assert (exact != exact.bfloat16().float()).any()
