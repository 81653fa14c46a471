"""Logits at which naive arithmetic gives NaN, and the limits that hold there."""

import mpmath
import pytest
import torch
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from torch import Tensor

IMPLEMENTATIONS = ("reference", "chunked")
V = 40
SHAPES = {
    "cross_entropy": RewardShape(),
    "product-.25": RewardShape(beta=-0.25, positive="product"),
    "product+.5": RewardShape(beta=0.5, positive="product"),
    "product-1": RewardShape(beta=-1.0, positive="product"),
    "exponent-.25": RewardShape(beta=-0.25, positive="exponent"),
    "exponent-1": RewardShape(beta=-1.0, positive="exponent"),
    "exponent+.5": RewardShape(beta=0.5, positive="exponent"),
    "power": RewardShape(positive="power"),
    "full": RewardShape(-0.25, 0.1, -0.1, top_k=7, positive="product"),
    "full-exponent": RewardShape(0.5, -0.2, 0.3, top_k=7, positive="exponent"),
    "all-head": RewardShape(-0.25, 0.1, -0.1, top_k=V, positive="product"),
}


def normal_row() -> Tensor:
    return torch.randn(V, generator=torch.Generator().manual_seed(2))


def extreme_rows() -> dict[str, Tensor]:
    """Rows of V logits; the target is always token 0."""
    rows = {"constant": torch.zeros(V), "integers": normal_row().mul(2).round()}
    for gap in (16.0, 30.0, 90.0, 110.0, 1e4):
        rows[f"target ahead by {gap}"] = normal_row().index_fill(0, torch.tensor([0]), gap)
        rows[f"target behind by {gap}"] = normal_row().index_fill(0, torch.tensor([0]), -gap)
    rows["all far apart"] = torch.linspace(-1e4, 1e4, V).roll(7)
    rows["half masked"] = normal_row().masked_fill(torch.arange(V) % 2 == 1, -torch.inf)
    rows["one competitor"] = normal_row().masked_fill(torch.arange(V) > 1, -torch.inf)
    return rows


def loss_and_dz(z: Tensor, shape: RewardShape, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logit gradient and all metrics of a row of logits; the bias sets each −inf."""
    hidden = z.masked_fill(z == -torch.inf, 0)[None].requires_grad_()
    bias = torch.zeros_like(z).masked_fill(z == -torch.inf, -torch.inf)
    weight, target = torch.eye(V, dtype=z.dtype), torch.tensor([0])
    output = shaped_linear_loss(
        hidden, weight, target, shape, bias=bias, impl=impl, metrics=METRICS
    )
    output.loss.backward()
    return output.loss.detach(), hidden.grad[0], torch.cat(output[1:])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_everything_is_finite_in_fp32(name, impl):
    for row, z in extreme_rows().items():
        for result in loss_and_dz(z, SHAPES[name], impl):
            assert result.isfinite().all(), row


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_fp32_is_close_to_float64(name, impl):
    for row, z in extreme_rows().items():
        # The reference multiplies w by nll, which underflows in fp32 from a gap of 87 on, in
        # float64 from 708 on.
        if row == "target ahead by 10000.0" or (
            impl == "reference" and "ahead" in row and z[0] > 87
        ):
            continue
        truths = loss_and_dz(z.double(), SHAPES[name], "reference")
        for got, truth in zip(loss_and_dz(z, SHAPES[name], impl), truths, strict=True):
            torch.testing.assert_close(
                got.double(), truth, rtol=1e-5, atol=1e-7, msg=lambda m, row=row: f"{row}: {m}"
            )


def test_at_beta_minus_one_a_certain_target_keeps_its_loss_and_gradient():
    # w·nll → nll/q → 1 and dz_x = −wq = −1, however far the target is ahead.
    z = extreme_rows()["target ahead by 10000.0"]
    loss, dz, _ = loss_and_dz(z, RewardShape(beta=-1.0, positive="product"), "chunked")
    assert loss == 1
    assert dz[0] == -1
    torch.testing.assert_close(dz[1:], z[1:].softmax(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("impl", "gap"),
    [("reference", 20.0), ("reference", 80.0), ("chunked", 80.0), ("chunked", 110.0)],
)
def test_the_products_gradient_stays_exact_where_the_target_is_certain(impl, gap):
    # dz_x → −q^(1+β) with q = e^−Δ: naive fp32 arithmetic is NaN from a gap of 16 on.
    z = torch.full((V,), -torch.inf).index_copy(0, torch.tensor([0, 5]), torch.tensor([gap, 0.0]))
    _, dz, _ = loss_and_dz(z, RewardShape(beta=-0.25, positive="product"), impl)
    expected = torch.tensor(-0.75 * gap, dtype=torch.float64).exp()
    torch.testing.assert_close(-dz[0].double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(dz[5].double(), expected, rtol=1e-5, atol=0)


def exponent_to_50_digits(gap: float, beta: float) -> tuple[float, float]:
    """Loss w·nll and dz_x = −w·q for r = (1/p)^((1−p)^β) and two tokens with logits `gap` apart."""
    with mpmath.workdps(50):
        p, q = (1 / (1 + mpmath.exp(sign * mpmath.mpf(gap))) for sign in (-1, 1))
        w = p * (1 / p) ** (q**beta)
        return float(-w * mpmath.log(p)), float(-w * q)


@pytest.mark.parametrize("beta", [-1.0, -0.25, 0.5, 2.0])
@pytest.mark.parametrize(
    ("impl", "dtype", "rtol"),
    [
        ("reference", torch.float64, 1e-12),
        ("chunked", torch.float64, 1e-12),
        ("chunked", torch.float32, 1e-5),
    ],
)
@pytest.mark.parametrize(
    "gap", [-500.0, -80.0, -20.0, -1.0, 0.0, 1.0, 15.0, 17.0, 30.0, 37.0, 80.0]
)
def test_the_exponent_agrees_with_50_digits_from_impossible_to_certain(
    gap, impl, dtype, rtol, beta
):
    z = torch.full((V,), -torch.inf, dtype=dtype).index_copy(
        0, torch.tensor([0, 5]), torch.tensor([gap, 0.0], dtype=dtype)
    )
    loss, dz, _ = loss_and_dz(z, RewardShape(beta=beta, positive="exponent"), impl)
    expected_loss, expected_dz = exponent_to_50_digits(gap, beta)
    assert loss.item() == pytest.approx(expected_loss, rel=rtol)
    assert dz[0].item() == pytest.approx(expected_dz, rel=rtol)
    assert dz[5].item() == pytest.approx(-expected_dz, rel=rtol)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_target_without_a_competitor_has_no_loss_and_no_gradient(name, impl):
    z = torch.full((V,), -torch.inf).index_fill(0, torch.tensor([0]), 3.0)
    loss, dz, metrics = loss_and_dz(z, SHAPES[name], impl)
    assert loss == 0
    assert dz.count_nonzero() == 0
    assert dict(zip(METRICS, metrics.tolist(), strict=True)) == {
        "nll": 0,
        "entropy": 0,
        "target_prob": 1,
        "head_mass": 0,
        "tail_mass": 0,
        "is_top1": 1,
        "target_rank": 0,
        "logsumexp": 3,
    }


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_an_impossible_target_has_the_loss_of_cross_entropy_and_a_finite_gradient(name, impl):
    z = normal_row().index_fill(0, torch.tensor([0]), -torch.inf)
    loss, dz, _ = loss_and_dz(z, SHAPES[name], impl)
    if name == "power":
        assert loss == 0
        assert dz.count_nonzero() == 0
    else:
        assert loss == torch.inf
        assert dz[0] == -1
    assert dz.isfinite().all()


def test_masked_tokens_get_no_gradient():
    z = extreme_rows()["half masked"]
    for shape in SHAPES.values():
        _, dz, _ = loss_and_dz(z, shape, "chunked")
        assert dz[1::2].count_nonzero() == 0
        assert dz[2::2].count_nonzero() == V // 2 - 1


@pytest.mark.parametrize("name", SHAPES)
def test_a_common_offset_of_all_logits_changes_nothing(name):
    # Eighths below 2^13 are exact in fp32, so that only the arithmetic of the loss could lose
    # digits.
    z = normal_row().mul(8).round() / 8
    plain, shifted = (loss_and_dz(z + offset, SHAPES[name], "chunked") for offset in (0.0, 8000.0))
    lse = METRICS.index("logsumexp")
    assert shifted[-1][lse] == pytest.approx(plain[-1][lse] + 8000)
    plain[-1][lse] = shifted[-1][lse]
    assert all(torch.equal(a, b) for a, b in zip(plain, shifted, strict=True))


def test_a_nan_in_the_input_reaches_the_loss():
    z = normal_row().index_fill(0, torch.tensor([4]), torch.nan)
    loss, dz, _ = loss_and_dz(z, RewardShape(), "chunked")
    assert loss.isnan()
    assert dz.isnan().any()
