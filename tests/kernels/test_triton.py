"""impl="triton" against a float64 truth and against full logits in its own dtype.

On a GPU the kernels are compiled; elsewhere Triton's interpreter runs them (see tests/conftest.py).
"""

import pytest
import torch
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss, triton_rows
from shaped_kernels.triton_launch import Launch
from torch import Tensor

# The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
# Triton's interpreter is slow. test_weights.py, test_neighbours.py and test_log_probs.py have short
# cases of it for the default suite.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FULL = RewardShape(-0.25, 0.1, -0.1, top_k=20)
ULP = torch.finfo(torch.float32).eps


def make_inputs(
    N: int, D: int, V: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and targets, both likely and unlikely; logits of spread 2."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator)
    weight = torch.randn(V, D, generator=generator).mul(2 / D**0.5)
    bias = torch.randn(V, generator=generator).mul(0.1)
    targets = torch.randint(V, (N,), generator=generator)
    targets[::2] = (hidden @ weight.T).argmax(-1)[::2]
    return *(
        t.bfloat16().to(DEVICE, dtype).requires_grad_() for t in (hidden, weight, bias)
    ), targets.to(DEVICE)


def results(
    inputs: tuple[Tensor, ...], shape: RewardShape, impl: str, dtype: torch.dtype, **arguments
) -> list[Tensor]:
    """Loss, metrics and gradients in float64, computed in `dtype`."""
    hidden, weight, bias = (t.detach().to(dtype).requires_grad_() for t in inputs[:3])
    output = shaped_linear_loss(
        hidden, weight, inputs[3], shape, bias=bias, impl=impl, metrics=METRICS, **arguments
    )
    output.loss.backward()
    return [t.detach().double() for t in (*output, hidden.grad, weight.grad, bias.grad)]


def assert_close_to_truth(
    inputs: tuple[Tensor, ...], shape: RewardShape, dtype: torch.dtype, **arguments
) -> None:
    """Errors are at most 3 times those of full logits in the dtype, or 3 roundings."""
    truths = results(inputs, shape, "reference", torch.float64, **arguments)
    peers = results(inputs, shape, "reference", dtype, **arguments)
    ours = results(inputs, shape, "triton", dtype, **arguments)
    names = ("loss", *METRICS, "hidden", "weight", "bias")
    for name, our, peer, truth in zip(names, ours, peers, truths, strict=True):
        assert our.isfinite().all(), name
        floor = (
            torch.finfo(dtype).eps if name in ("hidden", "weight", "bias") else ULP
        ) * truth.norm()
        assert (our - truth).norm() <= 3 * torch.maximum((peer - truth).norm(), floor), name


CASES = {
    # name: (V, shape, arguments)
    "one token": (1, FULL, {}),
    "two tokens": (2, FULL, {}),
    "cross-entropy": (50, RewardShape(), {}),
    "one more than a tile": (4097, FULL, {}),
    "odd, three tiles": (9001, FULL, {}),
    "product -1": (1001, RewardShape(-1.0), {}),
    "product .5": (1001, RewardShape(0.5, lambda_tail=-0.1), {}),
    "exponent -.25": (1001, RewardShape(-0.25, 0.1, positive="exponent"), {}),
    "exponent 2": (1001, RewardShape(2.0, positive="exponent"), {}),
    "power": (1001, RewardShape(positive="power", alpha=0.5, lambda_head=0.3, top_k=1), {}),
    "threshold": (50, RewardShape(positive="threshold", threshold=0.05, lambda_tail=-0.1), {}),
    "entropy": (1001, RewardShape(positive="entropy", top_k=20), {}),
    "entropy, no tail": (50, RewardShape(positive="entropy", top_k=50, lambda_head=0.1), {}),
    "temperature": (1001, RewardShape(-0.25, 0.1, -0.1, 20, loss_temperature=0.7), {}),
    "temperature, softcap": (50, RewardShape(loss_temperature=0.7), {"softcap": 3.0}),
    "z-loss": (1001, FULL, {"z_loss": 0.1, "logit_scale": 0.3}),
    "equal rewards": (1001, RewardShape(lambda_head=0.1, lambda_tail=0.1, top_k=7), {}),
    "no tail": (1001, RewardShape(lambda_head=0.1, top_k=1001), {}),
    "a short tail": (1001, RewardShape(lambda_head=0.1, lambda_tail=-0.3, top_k=950), {}),
    "softcap": (1001, FULL, {"softcap": 3.0}),
    "scale": (1001, FULL, {"logit_scale": 0.3}),
    "scale and softcap": (5000, FULL, {"logit_scale": 2.0, "softcap": 5.0}),
    "large head": (9001, RewardShape(0.5, 0.2, -0.1, top_k=700), {}),
    "several chunks": (1001, FULL, {"chunk_mb": 2 * 1001 * 4 / 2**20}),
}


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize("name", CASES)
def test_errors_are_those_of_full_logits(name, dtype):
    V, shape, arguments = CASES[name]
    assert_close_to_truth(make_inputs(4, 16, V, dtype), shape, dtype, **arguments)


@pytest.mark.parametrize(
    ("V", "top_k"),
    [
        (151_936, 100),
        pytest.param(151_936, 1000, marks=pytest.mark.slow),
        pytest.param(262_144, 100, marks=pytest.mark.slow),
    ],
)
def test_vocabularies_of_real_models(V, top_k):
    shape = RewardShape(-0.25, 0.1, -0.1, top_k=top_k)
    assert_close_to_truth(make_inputs(2, 4, V, torch.bfloat16), shape, torch.bfloat16)


def exact_rows(z: Tensor, targets: Tensor, shape: RewardShape, impl: str) -> list[Tensor]:
    """Loss, metrics and logit gradient of exact logits, with the identity as the weight.

    One row at a time: the bias sets −inf, since −inf·0 in a matmul would be NaN.
    """
    collected = []
    for row, target in zip(z, targets, strict=True):
        hidden = row.masked_fill(row == -torch.inf, 0)[None].requires_grad_()
        bias = torch.zeros_like(row).masked_fill(row == -torch.inf, -torch.inf)
        weight = torch.eye(row.shape[0], dtype=row.dtype, device=row.device)
        output = shaped_linear_loss(
            hidden, weight, target[None], shape, bias=bias, impl=impl, metrics=METRICS
        )
        output.loss.backward()
        collected.append([t.detach().flatten() for t in (*output, hidden.grad)])
    return [torch.stack(values) for values in zip(*collected, strict=True)]


def assert_as_reference(logits: Tensor, targets: Tensor, shape: RewardShape) -> None:
    """The numbers are the reference's up to fp32 rounding; a wrong K would differ more."""
    ours = exact_rows(logits, targets, shape, "triton")
    expected = exact_rows(logits, targets, shape, "reference")
    for name, our, truth in zip(("loss", *METRICS, "dz"), ours, expected, strict=True):
        torch.testing.assert_close(
            our, truth, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def tied_logits(kind: str, rows: int, V: int) -> Tensor:
    generator = torch.Generator().manual_seed(13)
    z = torch.randn(rows, V, generator=generator)
    if kind == "integers":
        z = z.mul(2).round()  # holds 0 and −0, which tie
    if kind == "constant":
        z = torch.zeros_like(z)
    if kind == "few finite":
        z = z.masked_fill(torch.rand(z.shape, generator=generator) < 0.9, -torch.inf)
    if kind == "one lane":
        z[:, ::32] += 10  # the largest are all in one lane of 32, whose list is too short
    if kind == "rising":
        z = torch.arange(V).expand(rows, V) / 100
    return z.bfloat16().float().to(DEVICE)


@pytest.mark.parametrize("launch", ["as shipped", pytest.param("32 lanes", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["bf16", "integers", "constant", "few finite", "one lane", "rising"]
)
def test_the_head_is_exact_under_ties_and_where_the_lists_do_not_hold_it(kind, launch, monkeypatch):
    if launch == "32 lanes":
        monkeypatch.setattr(triton_rows, "choose_launch", lambda dtype, top_k: Launch(32, 8, 3, 1))
    z = tied_logits(kind, 4, 201)
    targets = torch.stack(
        [z[0].argmax(), z[1].argmin(), z[2].topk(20).indices[-1], torch.tensor(200, device=DEVICE)]
    )
    z[torch.arange(4), targets] = z[torch.arange(4), targets].clamp(min=-5)  # targets are finite
    for top_k in (1, 20, 100):  # 100 exceeds the number of lanes
        assert_as_reference(z, targets, RewardShape(0.5, 0.5, -0.5, top_k))


def test_the_row_is_searched_where_a_list_may_have_dropped_a_member(monkeypatch):
    """The case "one lane" takes the fall-back: without it the numbers are wrong."""
    from shaped_kernels import triton_topk

    monkeypatch.setattr(triton_rows, "choose_launch", lambda dtype, top_k: Launch(32, 8, 3, 1))
    z, targets, shape = (
        tied_logits("one lane", 1, 201),
        torch.tensor([5], device=DEVICE),
        RewardShape(0.5, 0.5, -0.5, 5),
    )
    assert_as_reference(z, targets, shape)
    if DEVICE == "cpu":  # interpreted functions can be replaced
        search = triton_topk._search_lists
        monkeypatch.setattr(
            triton_topk, "_search_lists", lambda *arguments: (*search(*arguments)[:2], True)
        )
        with pytest.raises(AssertionError):
            assert_as_reference(z, targets, shape)


@pytest.mark.parametrize(
    "shape",
    [FULL, RewardShape(-1.0, positive="exponent"), RewardShape(positive="power")],
    ids=["full", "exponent", "power"],
)
def test_extreme_rows(shape):
    V = 40
    generator = torch.Generator().manual_seed(2)
    row = torch.randn(V, generator=generator)
    rows = [
        row.index_fill(0, torch.tensor([0]), gap)
        for gap in (16.0, 30.0, 110.0, 1e4, -16.0, -110.0, -1e4)
    ]
    rows.append(torch.linspace(-1e4, 1e4, V).roll(7))
    rows.append(row.masked_fill(torch.arange(V) > 1, -torch.inf))  # with one competitor
    rows.append(row.masked_fill(torch.arange(V) > 0, -torch.inf))  # without any
    z = torch.stack(rows).to(DEVICE)
    # The reference itself caps w beyond Δ = 87 in fp32; float64 is exact there.
    targets = torch.zeros(len(rows), dtype=torch.long, device=DEVICE)
    ours = exact_rows(z, targets, shape, "triton")
    truths = exact_rows(z.double(), targets, shape, "reference")
    for our, truth in zip(ours, truths, strict=True):
        assert our.isfinite().all()
        torch.testing.assert_close(our.double(), truth, rtol=1e-5, atol=1e-30)


def test_an_impossible_target_has_the_gradient_of_cross_entropy():
    z = torch.randn(1, 30, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    z[0, 3] = -torch.inf
    target = torch.tensor([3], device=DEVICE)
    loss, *_, dz = exact_rows(z, target, RewardShape(-0.25), "triton")
    assert loss.item() == torch.inf
    expected = z[0].softmax(-1)
    expected[3] = -1
    torch.testing.assert_close(dz[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("metrics", [("target_rank",), ("is_top1", "target_rank")], ids="+".join)
@pytest.mark.parametrize("kind", ["bf16", "integers", "constant", "few finite"])
def test_the_rank_is_exact_under_ties(kind, metrics):
    """Every seventh token of a row is the target in turn, also an impossible one."""
    row = tied_logits(kind, 1, 201)[0].bfloat16()
    targets = torch.arange(0, 201, 7, device=DEVICE)
    hidden = row.nan_to_num(neginf=0.0).expand(len(targets), 201)
    bias = torch.zeros_like(row).masked_fill(row == -torch.inf, -torch.inf)
    weight = torch.eye(201, dtype=row.dtype, device=DEVICE)
    output = shaped_linear_loss(hidden, weight, targets, bias=bias, metrics=metrics, impl="triton")
    order = row.sort(descending=True, stable=True).indices
    assert output.target_rank.tolist() == order.argsort()[targets].tolist()


@pytest.mark.parametrize("accum_dtype", [None, torch.bfloat16], ids=str)
def test_ignored_rows_and_the_accumulation_type(accum_dtype):
    hidden, weight, _, targets = make_inputs(9, 8, 300, torch.bfloat16)
    targets[torch.tensor([0, 3, 4, 8])] = -100
    kept = targets != -100

    def run(rows: Tensor, impl: str) -> list[Tensor]:
        h, w = (t.detach().clone().requires_grad_() for t in (hidden[rows], weight))
        output = shaped_linear_loss(
            h,
            w,
            targets[rows],
            FULL,
            metrics=("nll",),
            impl=impl,
            accum_dtype=accum_dtype,
            chunk_mb=2 * 300 * 2 / 2**20,
        )
        (output.loss / 5).backward()
        return [output.loss, output.nll, h.grad, w.grad]

    everything = torch.ones_like(kept)
    loss, nll, dh, dw = run(everything, "triton")
    for impl in ("triton", "chunked"):
        loss_kept, nll_kept, dh_kept, dw_kept = run(kept, impl)
        torch.testing.assert_close(loss, loss_kept)
        torch.testing.assert_close(nll[kept], nll_kept)
        # A chunk holds other rows; the interpreter truncates to bf16 where torch rounds.
        for got, expected in ((dh[kept], dh_kept), (dw, dw_kept)):
            assert (got - expected).norm() <= 2**-7 * expected.norm()
    assert nll[~kept].count_nonzero() == 0
    assert dh[~kept].count_nonzero() == 0


def test_no_valid_target_is_a_differentiable_zero():
    hidden, weight, _, targets = make_inputs(5, 8, 300, torch.float32)
    output = shaped_linear_loss(
        hidden, weight, targets.fill_(-100), FULL, metrics=METRICS, impl="triton"
    )
    output.loss.backward()
    for tensor in (output.loss, *output[1:], hidden.grad, weight.grad):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize("with_grad", ["hidden", "weight", ""])
def test_only_the_gradients_that_are_needed(with_grad):
    hidden, weight, _, targets = make_inputs(4, 8, 300, torch.float32)
    expected = shaped_linear_loss(hidden, weight, targets, FULL, metrics=METRICS, impl="reference")
    expected_gradients = torch.autograd.grad(expected.loss, (hidden, weight))
    hidden, weight = hidden.detach(), weight.detach()
    trained = {"hidden": hidden, "weight": weight}
    if with_grad:
        trained[with_grad].requires_grad_()
    output = shaped_linear_loss(hidden, weight, targets, FULL, metrics=METRICS, impl="triton")
    for got, truth in zip(output, expected, strict=True):
        torch.testing.assert_close(got.detach(), truth.detach())
    assert output.loss.requires_grad == bool(with_grad)
    if with_grad:
        output.loss.backward()
        index = 0 if with_grad == "hidden" else 1
        torch.testing.assert_close(
            trained[with_grad].grad, expected_gradients[index], rtol=1e-4, atol=1e-6
        )


def test_autocast_and_checkpointing():
    hidden, weight, _, targets = make_inputs(6, 8, 300, torch.float32)

    def loss_of(hidden: Tensor) -> Tensor:
        return shaped_linear_loss(torch.tanh(hidden), weight, targets, FULL, impl="triton").loss

    def gradients(checkpointed: bool) -> tuple[Tensor, ...]:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            if checkpointed:
                loss = torch.utils.checkpoint.checkpoint(loss_of, hidden, use_reentrant=False)
            else:
                loss = loss_of(hidden)
        return torch.autograd.grad(loss, (hidden, weight))

    for got, expected in zip(gradients(True), gradients(False), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


def test_unsupported_inputs_are_named(monkeypatch):
    hidden, weight, _, targets = make_inputs(2, 4, 30, torch.float64)
    with pytest.raises(ValueError, match=r"does not support torch\.float64; use impl='chunked'"):
        shaped_linear_loss(hidden, weight, targets, impl="triton")
    if DEVICE == "cpu":
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(ValueError, match="needs a CUDA device, not 'cpu'"):
            shaped_linear_loss(hidden.float(), weight.float(), targets, impl="triton")
