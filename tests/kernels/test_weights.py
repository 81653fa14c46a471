"""Weights of tokens, losses per token and the z-loss, against autograd through full logits."""

import pytest
import torch
import torch.nn.functional as F
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from torch import Tensor

# The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N, D, V = 11, 6, 37
Z_LOSS = 0.05
SHAPES = {
    "cross-entropy": RewardShape(),
    "full": RewardShape(-0.25, 0.3, -0.2, top_k=5),
    "product, no tail": RewardShape(0.5, 0.3, -0.2, top_k=V, positive="product"),
    "power": RewardShape(positive="power", alpha=0.5, lambda_tail=-0.1, top_k=3),
}
PRECISIONS = {
    "reference": (torch.float64, 1e-12),
    "chunked": (torch.float64, 1e-12),
    "triton": (torch.float32, 3e-5),
}


def make_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    """hidden [N, D], weight [V, D], bias [V], targets [N], some of them ignored, and weights [N]."""
    generator = torch.Generator().manual_seed(29)
    sizes = {"hidden": (N, D), "weight": (V, D), "bias": (V,), "token_weights": (N,)}
    inputs = {
        name: torch.randn(size, generator=generator).to(DEVICE, dtype)
        for name, size in sizes.items()
    }
    targets = torch.randint(V, (N,), generator=generator).to(DEVICE)
    targets[2:5] = -100
    inputs["token_weights"][3] = torch.nan  # of an ignored target
    inputs["token_weights"][7] = 0
    return inputs | {"targets": targets}


def losses_by_autograd(
    inputs: dict[str, Tensor], shape: RewardShape, z_loss: float, softcap: float | None
) -> Tensor:
    """Losses [N], 0 if ignored, from full logits and the equations of kernels/README.md."""
    z = 0.7 * (inputs["hidden"] @ inputs["weight"].T + inputs["bias"])
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    kept = inputs["targets"] != -100
    x = inputs["targets"].clamp(min=0)[:, None]
    log_p = z.log_softmax(-1)
    p = log_p.detach().exp()
    head = z.detach().argsort(dim=-1, descending=True, stable=True)[:, : shape.top_k]
    rewards = torch.full_like(p, shape.lambda_tail).scatter(-1, head, shape.lambda_head)
    p_x = p.gather(-1, x)
    w = {
        "product": (1 - p_x) ** shape.beta,
        "exponent": p_x ** (1 - (1 - p_x) ** shape.beta),
        "power": p_x**shape.alpha,
    }[shape.positive]
    shaped = -((p * rewards).scatter(-1, x, w) * log_p).sum(-1)
    return torch.where(kept, shaped + z_loss * z.logsumexp(-1) ** 2, 0)


def trained(inputs: dict[str, Tensor]) -> list[Tensor]:
    return [inputs[name].requires_grad_() for name in ("hidden", "weight", "bias")]


def assert_all_close(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for got, expected in zip(ours, truth, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            got.double(), expected.double(), rtol=tolerance, atol=tolerance * scale
        )


IMPLS = [
    pytest.param(impl, marks=[pytest.mark.slow] if impl == "triton" else []) for impl in PRECISIONS
]
CASES = [
    pytest.param(
        reduction,
        softcap,
        name,
        impl,
        # Triton's interpreter is slow, and "none" does what the others do, and more.
        marks=[pytest.mark.slow]
        if impl == "triton" and (reduction, softcap, name) != ("none", 2.5, "full")
        else [],
        id=f"{reduction}-{softcap}-{name}-{impl}",
    )
    for reduction in ("sum", "mean", "none")
    for softcap in (None, 2.5)
    for name in SHAPES
    for impl in PRECISIONS
]


@pytest.mark.parametrize(("reduction", "softcap", "name", "impl"), CASES)
def test_loss_and_gradients_are_those_of_weighted_autograd(name, impl, softcap, reduction):
    dtype, tolerance = PRECISIONS[impl]
    truth_inputs = make_inputs(dtype)
    truth_inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in truth_inputs.items()
    }
    kept = truth_inputs["targets"] != -100
    leaves = trained(truth_inputs)
    weights = truth_inputs["token_weights"].masked_fill(~kept, 0)
    losses = weights * losses_by_autograd(truth_inputs, SHAPES[name], Z_LOSS, softcap)
    factors = torch.linspace(-2, 3, N, dtype=torch.float64, device=DEVICE)
    expected, total = {
        "sum": (losses.sum(), losses.sum()),
        "mean": (losses.sum() / kept.sum(), losses.sum() / kept.sum()),
        "none": (losses, (factors * losses).sum()),
    }[reduction]
    expected_gradients = torch.autograd.grad(total, leaves)

    inputs = make_inputs(dtype)
    leaves = trained(inputs)
    loss = shaped_linear_loss(
        **inputs,
        shape=SHAPES[name],
        logit_scale=0.7,
        softcap=softcap,
        z_loss=Z_LOSS,
        reduction=reduction,
        impl=impl,
        chunk_mb=5 * V * dtype.itemsize / 2**20,
    ).loss
    total = (factors.to(dtype) * loss).sum() if reduction == "none" else loss
    assert_all_close([loss], [expected], tolerance)
    assert_all_close([*torch.autograd.grad(total, leaves)], [*expected_gradients], tolerance)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_token_weight_is_an_incoming_factor(impl):
    dtype, tolerance = PRECISIONS[impl]

    def gradients(by_weights: bool) -> list[Tensor]:
        inputs = make_inputs(dtype)
        weights = inputs.pop("token_weights").nan_to_num(1.0)
        arguments = {"shape": SHAPES["full"], "z_loss": Z_LOSS, "impl": impl}
        leaves = trained(inputs)
        if by_weights:
            loss = shaped_linear_loss(**inputs, token_weights=weights, **arguments).loss
        else:
            losses = shaped_linear_loss(**inputs, reduction="none", **arguments).loss
            loss = (weights * losses).sum()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    assert_all_close(gradients(True), gradients(False), tolerance)


@pytest.mark.parametrize("impl", IMPLS)
def test_weights_of_one_and_no_z_loss_change_no_bit(impl):
    dtype, _ = PRECISIONS[impl]
    inputs = make_inputs(dtype)
    ones = torch.ones_like(inputs.pop("token_weights"))
    for shape in SHAPES.values():
        plain, weighted = (
            shaped_linear_loss(**inputs, shape=shape, metrics=METRICS, impl=impl, **arguments)
            for arguments in ({}, {"token_weights": ones, "z_loss": 0.0, "reduction": "sum"})
        )
        for a, b in zip(plain, weighted, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("impl", IMPLS)
def test_metrics_are_not_weighted(impl):
    inputs = make_inputs(PRECISIONS[impl][0])
    weighted = shaped_linear_loss(**inputs, metrics=METRICS, impl=impl, z_loss=1.0)
    inputs.pop("token_weights")
    plain = shaped_linear_loss(**inputs, metrics=METRICS, impl=impl)
    for name in METRICS:
        assert torch.equal(getattr(weighted, name), getattr(plain, name)), name
    logits = F.linear(inputs["hidden"], inputs["weight"], inputs["bias"])
    expected = logits.logsumexp(-1).masked_fill(inputs["targets"] == -100, 0)
    torch.testing.assert_close(plain.logsumexp, expected)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_a_tied_weight_and_accumulated_micro_batches(impl):
    """The embedding is the head, and two micro-batches share the number of tokens."""

    def gradient(batches: list[slice], own: bool) -> Tensor:
        inputs = make_inputs(torch.float64)
        table = inputs["weight"].requires_grad_()
        kept = inputs["targets"] != -100
        tokens = torch.arange(N) % V
        weights = inputs["token_weights"].masked_fill(~kept, 0)
        for rows in batches:
            part = {
                "hidden": torch.tanh(table[tokens[rows]]),
                "weight": table,
                "bias": inputs["bias"],
                "targets": inputs["targets"][rows],
            }
            if own:
                loss = shaped_linear_loss(
                    **part,
                    shape=SHAPES["full"],
                    token_weights=weights[rows],
                    z_loss=Z_LOSS,
                    logit_scale=0.7,
                    impl=impl,
                ).loss
            else:
                losses = losses_by_autograd(part, SHAPES["full"], Z_LOSS, None)
                loss = (weights[rows] * losses).sum()
            (loss / kept.sum()).backward()
        return table.grad

    whole, parts = [slice(0, N)], [slice(0, 6), slice(6, N)]
    truth = gradient(whole, own=False)
    for batches in (whole, parts):
        assert_all_close([gradient(batches, own=True)], [truth], 1e-12)


@pytest.mark.parametrize("impl", IMPLS)
def test_losses_per_token_allow_a_second_backward_and_carry_what_is_not_finite(impl):
    inputs = make_inputs(PRECISIONS[impl][0])
    inputs.pop("token_weights")
    hidden, *_ = trained(inputs)
    losses = shaped_linear_loss(**inputs, shape=SHAPES["full"], reduction="none", impl=impl).loss
    first, second = (
        torch.autograd.grad(losses.sum(), hidden, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    factors = torch.ones_like(losses)
    factors[8] = torch.nan
    (broken,) = torch.autograd.grad(losses, hidden, factors)
    assert broken[8].isnan().all()
    broken[8] = first[8]
    torch.testing.assert_close(broken, first)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_that_is_not_finite_has_no_number_at_any_weight(impl):
    inputs = make_inputs(PRECISIONS[impl][0])
    inputs["hidden"][7] = torch.nan  # its weight is 0
    hidden, *_ = trained(inputs)
    losses = shaped_linear_loss(**inputs, z_loss=Z_LOSS, reduction="none", impl=impl).loss
    assert losses.isnan().nonzero().flatten().tolist() == [7]
    losses.sum().backward()
    assert hidden.grad.isnan().any(-1).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_without_a_valid_target_every_reduction_is_a_differentiable_zero(impl, reduction):
    inputs = make_inputs(PRECISIONS[impl][0])
    inputs["targets"][:] = -100
    hidden, weight, _ = trained(inputs)
    loss = shaped_linear_loss(**inputs, z_loss=Z_LOSS, reduction=reduction, impl=impl).loss
    loss.sum().backward()
    assert loss.shape == (inputs["targets"].shape if reduction == "none" else ())
    for tensor in (loss, hidden.grad, weight.grad):
        assert tensor.count_nonzero() == 0
        assert not tensor.isnan().any()


def test_losses_per_token_keep_the_shape_and_the_dtypes_of_autocast():
    inputs = make_inputs(torch.float32)
    inputs.pop("token_weights")
    rows = slice(0, 10)
    hidden, weight, _ = trained(inputs)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        losses = shaped_linear_loss(
            hidden[rows].view(2, 5, D),
            weight,
            inputs["targets"][rows].view(2, 5),
            reduction="none",
        ).loss
        total = shaped_linear_loss(hidden[rows], weight, inputs["targets"][rows]).loss
    assert losses.shape == (2, 5)
    torch.testing.assert_close(losses.sum(), total)
    ours = torch.autograd.grad(losses.sum(), (hidden, weight))
    for got, expected in zip(ours, torch.autograd.grad(total, (hidden, weight)), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)


REFUSED = [
    ({"token_weights": torch.ones(N - 1)}, "token_weights has shape"),
    ({"token_weights": torch.ones(N, dtype=torch.long)}, "token_weights has dtype torch.int64"),
    ({"token_weights": torch.ones(N).requires_grad_()}, "token_weights has requires_grad=True"),
    ({"token_weights": torch.full((N,), torch.nan)}, "token_weights contains nan"),
    ({"token_weights": torch.full((N,), -torch.inf)}, "token_weights contains -inf"),
    (
        {"token_weights": torch.full((N,), 1e300, dtype=torch.float64)},
        "not a finite number of torch.float32",
    ),
    ({"z_loss": -1e-4}, "z_loss=-0.0001 is not a finite number of at least 0"),
    ({"z_loss": torch.inf}, "z_loss=inf"),
    ({"reduction": "batchmean"}, "reduction='batchmean' is unknown; use one of sum, mean, none"),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m[:30] for _, m in REFUSED])
def test_bad_arguments_are_named(arguments, message, impl):
    inputs = make_inputs(torch.float32) | arguments
    inputs["token_weights"] = inputs["token_weights"].to(DEVICE)
    with pytest.raises(ValueError, match=message) as error:
        shaped_linear_loss(**inputs, impl=impl)
    assert "\n" not in str(error.value)
