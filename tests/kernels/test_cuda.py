"""What only a GPU can show: asynchronous work, memory, and the numbers of a real head."""

import pytest
import torch
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from torch import Tensor

pytestmark = pytest.mark.gpu
SHAPE = RewardShape(-0.25, 0.1, -0.1, top_k=100)


def make_inputs(
    N: int, D: int, V: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, D, device="cuda", dtype=dtype, requires_grad=True)
    weight = (torch.randn(V, D, device="cuda") * 2 / D**0.5).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), device="cuda")


@pytest.fixture
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_neither_forward_nor_backward_stops_the_stream(no_waiting):
    hidden, weight, targets = make_inputs(4096, 256, 32_000)
    targets[::3] = -100
    output = shaped_linear_loss(hidden, weight, targets, SHAPE, metrics=METRICS)
    (output.loss / 4096).backward()
    assert hidden.grad is not None


@pytest.mark.parametrize("kept", [0, 1, 700, 3000, 4096])
def test_chunks_beyond_the_targets_that_count_are_skipped(kept):
    hidden, weight, targets = make_inputs(4096, 64, 1000)
    targets[torch.randperm(4096)[kept:]] = -100
    rows = targets != -100
    for impl in ("triton", "chunked"):
        hidden.grad = weight.grad = None
        output = shaped_linear_loss(
            hidden, weight, targets, SHAPE, metrics=METRICS, impl=impl, chunk_mb=1.0
        )
        output.loss.backward()
        truth = shaped_linear_loss(
            hidden[rows], weight, targets[rows], SHAPE, metrics=METRICS, impl="reference"
        )
        torch.testing.assert_close(output.loss, truth.loss, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(output.tail_mass[rows], truth.tail_mass, rtol=1e-3, atol=1e-6)
        assert hidden.grad[~rows].count_nonzero() == 0


def test_a_target_outside_the_vocabulary_is_named():
    hidden, weight, targets = make_inputs(10, 64, 1000)
    targets[3] = 1000
    with pytest.raises(
        ValueError, match=r"targets contains 1000, outside the vocabulary \[0, 1000\)"
    ):
        shaped_linear_loss(hidden, weight, targets, SHAPE)


@pytest.mark.parametrize("accum_dtype", [None, torch.bfloat16], ids=str)
def test_peak_memory_is_the_gradients_and_a_gibibyte(accum_dtype):
    hidden, weight, targets = make_inputs(8192, 2560, 151_936)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = shaped_linear_loss(
        hidden, weight, targets, SHAPE, metrics=METRICS, accum_dtype=accum_dtype
    )
    output.loss.backward()
    added = torch.cuda.max_memory_allocated() - before
    gradients = (
        weight.numel() * (accum_dtype or torch.float32).itemsize
        + hidden.numel() * hidden.element_size()
    )
    assert added <= gradients + 2**30


@pytest.mark.parametrize("impl", ["triton", "chunked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_errors_at_a_real_vocabulary_are_those_of_full_logits(dtype, impl):
    results = {}
    for name, kind in (("truth", torch.float64), ("peer", dtype), ("ours", dtype)):
        hidden, weight, targets = make_inputs(48, 128, 151_936, torch.bfloat16)
        hidden, weight = (t.detach().to(kind).requires_grad_() for t in (hidden, weight))
        chosen = impl if name == "ours" else "reference"
        output = shaped_linear_loss(hidden, weight, targets, SHAPE, metrics=METRICS, impl=chosen)
        output.loss.backward()
        results[name] = [t.detach().double() for t in (*output, hidden.grad, weight.grad)]
    for ours, peer, truth in zip(results["ours"], results["peer"], results["truth"], strict=True):
        floor = torch.finfo(torch.float32).eps * truth.norm()
        assert (ours - truth).norm() <= 3 * torch.maximum((peer - truth).norm(), floor)
