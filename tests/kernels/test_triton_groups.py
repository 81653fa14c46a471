"""The head set from maxima of groups is that of `torch.topk` with ties to the lowest id."""

import pytest
import torch
from shaped_kernels import METRICS, RewardShape, triton_rows
from shaped_kernels.rows import TorchRows
from shaped_kernels.shape import LossOptions
from shaped_kernels.triton_launch import Launch, Trial, trying
from shaped_kernels.triton_rows import TritonRows
from torch import Tensor

triton_groups = pytest.importorskip(
    "shaped_kernels.triton_groups", reason="triton is not installed (it exists for Linux only)"
)
# The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
V, GROUP = 700, 8
KINDS = ["bf16", "integers", "constant", "few finite", "one group", "rising"]


def tied_rows(kind: str) -> Tensor:
    """Three rows of bf16 logits with many ties at the threshold."""
    generator = torch.Generator().manual_seed(13)
    z = torch.randn(3, V, generator=generator)
    if kind == "integers":
        z = z.mul(2).round()  # holds 0 and −0, which tie
    if kind == "constant":
        z = torch.zeros_like(z)  # all reach the bound, more than the list holds
    if kind == "few finite":
        z = z.masked_fill(torch.rand(z.shape, generator=generator) < 0.9, -torch.inf)
    if kind == "one group":
        z[:, 16 : 16 + GROUP] += 10
    if kind == "rising":
        z = torch.arange(V).expand(3, V) / 100
    return z.bfloat16()


def compute(step, z: Tensor, targets: Tensor, shape: RewardShape) -> list[Tensor]:
    """Loss, metrics and gradient of the logits `z`."""
    z = z.clone()
    rows = step(z, LossOptions(shape, 1.0, None, METRICS, None, None))
    loss, metrics = rows(z, targets, True)
    return [loss, *metrics, z.float()]


@pytest.fixture
def groups(monkeypatch):
    """Small tiles, so that a row has several, and groups that suit them."""
    monkeypatch.setattr(triton_rows, "choose_launch", lambda dtype, top_k: Launch(128, 8, 3, 1))
    with trying(Trial(group=GROUP)):
        yield


def assert_close(ours: list[Tensor], truth: list[Tensor], dtype: torch.dtype) -> None:
    """Rounding of the gradient to `dtype`, and of fp32 otherwise; the interpreter truncates."""
    for name, our, expected in zip(("loss", *METRICS, "gradient"), ours, truth, strict=True):
        tolerance = 1e-2 if name == "gradient" and dtype == torch.bfloat16 else 1e-5
        error = f"{name}: {{}}".format
        torch.testing.assert_close(our, expected, rtol=tolerance, atol=1e-6, msg=error)


CASES = [("bf16", torch.bfloat16), ("constant", torch.bfloat16), ("integers", torch.float32)]
SLOW = [(kind, dtype) for kind in KINDS for dtype in (torch.bfloat16, torch.float32)]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in CASES)],
)
def test_the_head_is_exact_under_ties(kind, dtype, groups):
    z = tied_rows(kind).to(DEVICE, dtype)
    targets = torch.stack([z[0].argmax(), z[1].topk(7).indices[-1], z[2].argmax() * 0 + V - 1])
    z[2, V - 1] = z[2, V - 1].clamp(min=-5)  # a target that is possible
    for top_k in (1, 7):
        shape = RewardShape(0.5, 0.5, -0.5, top_k)
        planned, _ = triton_rows.plan(V, dtype, LossOptions(shape, 1.0, None, (), None, None))
        assert planned["GROUP"] == GROUP
        truth = compute(TorchRows, z, targets, shape)
        assert_close(compute(TritonRows, z, targets, shape), truth, dtype)


def test_a_wrong_bound_or_a_wrong_tie_would_be_seen(groups, monkeypatch):
    if DEVICE == "cuda":
        pytest.skip("only interpreted functions can be replaced")
    z, targets = tied_rows("integers").float(), torch.tensor([5, 6, 7])
    shape = RewardShape(0.5, 0.5, -0.5, 7)
    truth = compute(TorchRows, z, targets, shape)
    assert_close(compute(TritonRows, z, targets, shape), truth, torch.float32)
    replacements = {
        "_last_tie": lambda tied, ids, ties_x, x, missing, V: V - 1,
        "_reaching": lambda order, order_x, least, own=triton_groups._reaching: own(
            order, order_x, least + 1
        ),
    }
    for name, wrong in replacements.items():
        with monkeypatch.context() as patch:
            patch.setattr(triton_groups, name, wrong)
            with pytest.raises(AssertionError):
                assert_close(compute(TritonRows, z, targets, shape), truth, torch.float32)


@pytest.mark.parametrize(("V", "top_k", "used"), [(151_936, 100, True), (49_152, 100, False)])
def test_groups_are_used_where_there_are_eight_for_each_member(V, top_k, used):
    options = LossOptions(RewardShape(lambda_tail=-0.1, top_k=top_k), 1.0, None, (), None, None)
    assert triton_rows.plan(V, torch.bfloat16, options)[0]["GROUP"] == 0  # off by default
    with trying(Trial(group=128)):
        arguments, launch = triton_rows.plan(V, torch.bfloat16, options)
    assert (arguments["GROUP"] == 128) == used
    if used:
        tiles = -(-V // launch.lanes)
        assert arguments["GROUPS"] >= tiles * launch.lanes // 128
        assert arguments["SLOTS"] == 512
