"""Loss and gradient against the equations, rewritten here, and sampled policy gradients.

With the identity for the head weight, the gradient of the hidden states is that of the logits.
"""

import dataclasses
import math

import pytest
import torch
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from shaped_kernels.shape import POSITIVE_FORMS
from torch import Tensor

IMPLEMENTATIONS = ("reference", "chunked")
V = 29
SHAPES = [
    RewardShape(beta, lambda_head, lambda_tail, top_k, positive)
    for positive, beta in (
        ("product", 0.0),
        ("product", -0.25),
        ("product", 0.5),
        ("product", -1.0),
        ("exponent", -0.25),
        ("exponent", 2.0),
    )
    for lambda_head, lambda_tail, top_k in (
        (0.0, 0.0, 5),
        (0.1, 0.0, 5),
        (0.0, -0.1, 1),
        (0.3, -0.2, V - 1),
        (0.3, -0.2, V),
        (-0.2, 0.4, 1000),
        (0.1, 0.1, 5),
    )
] + [
    RewardShape(positive="power", alpha=alpha, lambda_tail=-0.1, top_k=3)
    for alpha in (0.5, 1.0, 2.0)
]
SHAPES += [
    RewardShape(positive="threshold", threshold=0.02, lambda_head=0.1, top_k=5),
    RewardShape(positive="entropy", top_k=5),
    RewardShape(positive="entropy", lambda_head=0.3, lambda_tail=-0.2, top_k=20),
    RewardShape(positive="entropy", lambda_tail=-0.2, top_k=1000),
    RewardShape(loss_temperature=0.7),
    RewardShape(-0.25, 0.3, -0.2, top_k=5, loss_temperature=1.5),
]


def name_of(shape: RewardShape) -> str:
    value = getattr(shape, POSITIVE_FORMS[shape.positive] or "beta")
    rewards = f"head{shape.lambda_head}-tail{shape.lambda_tail}-k{shape.top_k}"
    return f"{shape.positive}{value}-{rewards}-T{shape.loss_temperature}"


def closed_form(
    z: list[float], x: int, shape: RewardShape
) -> tuple[float, list[float], dict[str, float]]:
    """Loss, logit gradient p_j(R − r_j) and metrics of one token, in plain float64 arithmetic."""
    if shape.loss_temperature != 1:
        T, at_one = shape.loss_temperature, dataclasses.replace(shape, loss_temperature=1.0)
        loss, gradient, _ = closed_form([value / T for value in z], x, at_one)
        return T * loss, gradient, closed_form(z, x, at_one)[2]
    total = math.fsum(math.exp(value - max(z)) for value in z)
    p = [math.exp(value - max(z)) / total for value in z]
    q = math.fsum(p[:x] + p[x + 1 :])
    if shape.positive == "product":
        w = q**shape.beta
    elif shape.positive == "exponent":
        w = p[x] ** (1 - q**shape.beta)
    elif shape.positive == "power":
        w = p[x] ** shape.alpha
    elif shape.positive == "threshold":
        w = float(p[x] > shape.threshold)
    head = sorted(range(len(z)), key=lambda j: (-z[j], j))[: shape.top_k]
    if shape.positive == "entropy":
        of_head = [p[j] / math.fsum(p[i] for i in head) for j in head]
        w = -math.fsum(p_j * math.log(p_j) for p_j in of_head) / math.log(shape.top_k)
    r = [shape.lambda_head if j in head else shape.lambda_tail for j in range(len(z))]
    r[x] = w / p[x]
    mean_reward = math.fsum(p_j * r_j for p_j, r_j in zip(p, r, strict=True))
    loss = -math.fsum(p_j * r_j * math.log(p_j) for p_j, r_j in zip(p, r, strict=True))
    metrics = {
        "nll": -math.log(p[x]),
        "entropy": -math.fsum(p_j * math.log(p_j) for p_j in p),
        "target_prob": p[x],
        "head_mass": math.fsum(p[j] for j in head if j != x),
        "tail_mass": math.fsum(p[j] for j in range(len(z)) if j not in head and j != x),
        "is_top1": float(head[0] == x),
        "target_rank": float(sum((-z[j], j) < (-z[x], x) for j in range(len(z)))),
        "logsumexp": max(z) + math.log(total),
    }
    return loss, [p_j * (mean_reward - r_j) for p_j, r_j in zip(p, r, strict=True)], metrics


def make_logits() -> tuple[Tensor, Tensor]:
    """Seven rows of spread 3. The first target is the most, the second the least likely token."""
    generator = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(7, V, generator=generator, dtype=torch.float64)
    targets = torch.randint(V, (7,), generator=generator)
    targets[0], targets[1] = z[0].argmax(), z[1].argmin()
    return z, targets


def loss_and_dz(
    z: Tensor, targets: Tensor, shape: RewardShape, impl: str, **arguments
) -> tuple[Tensor, Tensor]:
    hidden = z.clone().requires_grad_()
    weight = torch.eye(z.shape[-1], dtype=z.dtype)
    loss = shaped_linear_loss(hidden, weight, targets, shape, impl=impl, **arguments).loss
    (dz,) = torch.autograd.grad(loss, hidden)
    return loss.detach(), dz


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_loss_gradient_and_metrics_are_the_closed_form(shape, impl):
    z, targets = make_logits()
    rows = [closed_form(row, x, shape) for row, x in zip(z.tolist(), targets.tolist(), strict=True)]
    output = shaped_linear_loss(
        z, torch.eye(V, dtype=z.dtype), targets, shape, impl=impl, metrics=METRICS
    )
    loss, dz = loss_and_dz(z, targets, shape, impl)
    assert loss.item() == pytest.approx(math.fsum(row[0] for row in rows), rel=1e-12)
    torch.testing.assert_close(
        dz, torch.tensor([row[1] for row in rows], dtype=z.dtype), rtol=1e-12, atol=1e-15
    )
    for name in METRICS:
        expected = torch.tensor([row[2][name] for row in rows], dtype=z.dtype)
        torch.testing.assert_close(getattr(output, name), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("softcap", [None, 2.5], ids=["no-softcap", "softcap"])
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_chunked_is_the_reference(shape, softcap):
    generator = torch.Generator().manual_seed(5)
    N, D = 63, 13

    def run(impl: str) -> list[Tensor]:
        generator.manual_seed(5)
        hidden, weight, bias = (
            torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
            for size in ((3, N // 3, D), (V, D), (V,))
        )
        targets = torch.randint(V, (3, N // 3), generator=generator)
        targets[1, 4:9] = -100
        output = shaped_linear_loss(
            hidden,
            weight,
            targets,
            shape,
            bias=bias,
            logit_scale=0.7,
            softcap=softcap,
            metrics=METRICS,
            impl=impl,
            chunk_mb=10 * V * 8 / 2**20,
        )
        output.loss.backward()
        return [*output, *(tensor.grad for tensor in (hidden, weight, bias))]

    for ours, truth in zip(run("chunked"), run("reference"), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-14)


def test_sampled_policy_gradients_agree_and_would_notice_a_missing_reward():
    z, targets = (rows[2:3] for rows in make_logits())
    z = z / 3
    x, shape, samples = targets[0], RewardShape(-0.25, 0.5, -0.5, top_k=4), 1_000_000
    p = z[0].softmax(-1)
    in_head = torch.zeros(V, dtype=torch.bool).index_fill(0, z[0].topk(4).indices, True)
    rewards = torch.where(in_head, 0.5, -0.5).double()
    rewards[x] = (1 - p[x]) ** -0.25 / p[x]
    # Row a: the contribution of one sample of token a, −r_a ∇ ln p_a.
    contribution = -rewards[:, None] * (torch.eye(V, dtype=torch.float64) - p)
    drawn = torch.multinomial(
        p, samples, replacement=True, generator=torch.Generator().manual_seed(7)
    )
    share = torch.bincount(drawn, minlength=V).double() / samples
    mean = share @ contribution
    standard_error = ((share @ contribution**2 - mean**2) / samples).sqrt()

    def z_scores(shape: RewardShape) -> Tensor:
        return (loss_and_dz(z, targets, shape, "chunked")[1][0] - mean) / standard_error

    assert z_scores(shape).abs().max() < 4
    assert z_scores(RewardShape(-0.25, 0.5, 0.0, top_k=4)).abs().max() > 10


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_constant_added_to_all_rewards_changes_no_gradient(impl):
    # (r_x, .1, 0) − .1 = (r_x − .1, 0, −.1): the two arms differ by .1·p_x in the target's weight
    # only.
    z, targets = make_logits()
    _, head_arm = loss_and_dz(z, targets, RewardShape(lambda_head=0.1, top_k=5), impl)
    _, tail_arm = loss_and_dz(z, targets, RewardShape(lambda_tail=-0.1, top_k=5), impl)
    p = z.softmax(-1)
    one_hot = torch.nn.functional.one_hot(targets, V)
    positive_difference = 0.1 * p.gather(-1, targets[:, None]) * (one_hot - p)
    torch.testing.assert_close(head_arm, tail_arm + positive_difference, rtol=1e-12, atol=1e-15)
    assert (head_arm - tail_arm).abs().max() > 0.005


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES[1::5], ids=name_of)
def test_the_logit_gradient_sums_to_zero(shape, impl):
    _, dz = loss_and_dz(*make_logits(), shape, impl)
    assert (dz.sum(-1).abs() / dz.abs().sum(-1)).max() < 1e-15


@pytest.mark.parametrize("beta", [-0.25, 0.5])
def test_for_two_tokens_the_fixed_point_is_temperature_one_plus_beta(beta):
    data = torch.tensor([0.8, 0.2], dtype=torch.float64)
    z = (data.log() / (1 + beta)).expand(2, 2)
    _, dz = loss_and_dz(
        z, torch.tensor([0, 1]), RewardShape(beta=beta, positive="product"), "chunked"
    )
    _, dz_cross_entropy = loss_and_dz(z, torch.tensor([0, 1]), RewardShape(), "chunked")
    assert (data @ dz).abs().max() < 1e-16
    assert (data @ dz_cross_entropy).abs().max() > 0.04


def test_for_many_tokens_the_fixed_point_is_no_temperature():
    data = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    z = (data.log() / 0.75).expand(3, 3)
    _, dz = loss_and_dz(z, torch.arange(3), RewardShape(beta=-0.25), "chunked")
    assert (data @ dz).abs().max() > 0.005
