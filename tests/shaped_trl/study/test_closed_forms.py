"""Facts about the shapes in closed form, for a trained model and for free logits."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from shaped_eval.benchmarks.running_sums import RunningSums
from shaped_kernels import RewardShape, shaped_linear_loss
from tiny import tiny_model
from torch import Tensor

from shaped_trl.data.running_sums import corpus_rows
from shaped_trl.modeling.lm_head import shape_lm_head

Distribution = NDArray[np.float64]

# Its reward of the target is 1, so subtracting c times its gradient adds c to that reward.
ONE_ON_TARGET = RewardShape(positive="power", alpha=1.0)


class Trained:
    """A tiny Qwen3 after a few steps on running sums, and an unseen batch."""

    def __init__(self) -> None:
        options = RunningSums(streams=1, vocabulary_size=64, max_digits=6)
        rows = [row["prompt"] + row["completion"] for row in islice(corpus_rows(options), 160)]
        ids: dict[str, int] = {}
        texts = [[ids.setdefault(word, len(ids)) for word in row.split()] for row in rows]
        longest = max(map(len, texts))
        self.labels = torch.tensor([text + [-100] * (longest - len(text)) for text in texts])
        self.model = tiny_model(dtype=torch.float64, vocab_size=len(ids))
        self.head = shape_lm_head(self.model, metrics=("nll", "entropy"))
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.losses = []
        for step in range(30):
            optimizer.zero_grad()
            loss = self(self.labels[:128].roll(-32 * step, 0)[:32]).loss
            loss.backward()
            optimizer.step()
            self.losses.append(loss.item())

    def __call__(self, labels: Tensor):
        return self.model(labels.clamp(min=0), labels=labels)

    def measure(self, shape: RewardShape) -> tuple[dict[str, Tensor], float, float]:
        """The gradients, the loss and the entropy, summed over the tokens of the held-out batch."""
        self.head.shape = shape
        self.model.zero_grad()
        output = self(self.labels[128:])
        output.shaped_loss.backward()
        gradients = {
            name: parameter.grad.clone() for name, parameter in self.model.named_parameters()
        }
        return gradients, output.shaped_loss.item(), output.entropy.sum().item()


@pytest.fixture(scope="module")
def trained() -> Trained:
    found = Trained()
    assert found.losses[-1] < 0.7 * found.losses[0]
    return found


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of any gradient, relative to the parameter's largest gradient."""
    assert found.keys() == expected.keys()
    return max(
        float((found[k] - expected[k]).abs().max() / expected[k].abs().max()) for k in expected
    )


# Qwen3 normalises in fp32, whatever its dtype.
FP32 = 2e-6


@pytest.mark.parametrize("c", [0.1, -2.0])
@pytest.mark.parametrize("beta", [-0.25, 0.5])
def test_a_constant_added_to_all_rewards_changes_no_parameters_gradient(
    trained: Trained, beta: float, c: float
):
    plain, loss, entropy = trained.measure(RewardShape(beta))
    others, others_loss, _ = trained.measure(RewardShape(beta, lambda_head=c, lambda_tail=c))
    target, target_loss, _ = trained.measure(ONE_ON_TARGET)
    assert furthest({name: others[name] + c * target[name] for name in plain}, plain) < FP32
    assert furthest(others, plain) > 0.01
    assert others_loss + c * target_loss - loss == pytest.approx(c * entropy, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, -0.25])
def test_a_reward_of_the_head_is_a_penalty_of_the_tail_with_a_smaller_positive_term(
    trained: Trained, beta: float
):
    head, _, _ = trained.measure(RewardShape(beta, lambda_head=0.1, top_k=5))
    tail, _, _ = trained.measure(RewardShape(beta, lambda_tail=-0.1, top_k=5))
    target, _, _ = trained.measure(ONE_ON_TARGET)
    assert furthest({name: tail[name] - 0.1 * target[name] for name in tail}, head) < FP32
    assert furthest(tail, head) > 0.01


# Free logits, fitted to a distribution d of targets


def zipf(size: int) -> Distribution:
    weights = 1 / np.arange(1.0, size + 1)
    return weights / weights.sum()


def fitted(data: Distribution, beta: float, rate: float) -> Distribution:
    """Probabilities at which the loss has no gradient, if its targets are weighted by `data`.

    They are found by descent along the logits' gradient divided by p_j, so that rare tokens move as
    fast as frequent ones.
    """
    size, weights = len(data), torch.from_numpy(data)
    identity, targets = torch.eye(size, dtype=torch.float64), torch.arange(size)
    z = weights.log()
    for _ in range(400):
        hidden = z.expand(size, size).clone().requires_grad_()
        loss = shaped_linear_loss(
            hidden, identity, targets, RewardShape(beta, positive="product"), impl="chunked"
        ).loss
        (rows,) = torch.autograd.grad(loss, hidden)
        p = z.softmax(-1)
        step = (weights @ rows) / p
        if step.abs().max() < 1e-11:
            return p.numpy()
        z = z - rate * step
    raise AssertionError(f"no fixed point after 400 steps: {step.abs().max()} left")


def solved(data: Distribution, beta: float) -> Distribution:
    """p_j = s·d_j(1−p_j)^β by bisection of each p_j and of s, so that they add up to 1.

    p_j is below 1/(1−β), where p(1−p)^−β rises.
    """

    def at(log_s: float) -> Distribution:
        low, high = np.zeros_like(data), np.full_like(data, 1 / (1 - min(beta, 0.0)))
        for _ in range(100):
            middle = (low + high) / 2
            below = np.log(middle) - beta * np.log1p(-middle) < log_s + np.log(data)
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return middle

    return at(brentq(lambda log_s: at(log_s).sum() - 1, -1, 1, xtol=1e-14))


def cooled(data: Distribution, temperature: float) -> Distribution:
    powered = data ** (1 / temperature)
    return powered / powered.sum()


def entropy(p: Distribution) -> float:
    return float(-(p * np.log(p)).sum())


def matched(data: Distribution, p: Distribution) -> float:
    """The temperature at which `data` has the entropy of p."""
    return brentq(
        lambda temperature: entropy(cooled(data, temperature)) - entropy(p), 0.5, 2, xtol=1e-13
    )


def assert_fixed_point(p: Distribution, data: Distribution, beta: float) -> None:
    expected = data * (1 - p) ** beta
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize("beta", [-0.25, 0.5])
def test_two_tokens_come_out_at_temperature_one_plus_beta(beta: float):
    data = np.array([0.8, 0.2])
    p = fitted(data, beta, rate=0.2)
    assert_fixed_point(p, data, beta)
    np.testing.assert_allclose(p, cooled(data, 1 + beta), rtol=1e-6)


@pytest.mark.parametrize(("beta", "temperature"), [(-0.25, "0.995"), (0.5, "1.008")])
def test_a_zipf_vocabulary_comes_out_at_no_temperature(beta: float, temperature: str):
    data = zipf(1000)
    p = fitted(data, beta, rate=1.0)
    assert_fixed_point(p, data, beta)
    np.testing.assert_allclose(p, solved(data, beta), rtol=1e-6)
    found = matched(data, p)
    assert f"{found:.3f}" == temperature
    assert abs(p / cooled(data, found) - 1).max() > 0.01
    assert abs(p / cooled(data, 1 + beta) - 1).max() > 0.5


@pytest.mark.parametrize(("beta", "temperature"), [(-0.25, "0.90"), (0.5, "1.13")])
def test_a_likely_token_with_a_flat_tail(beta: float, temperature: str):
    data = np.array([0.9] + 100 * [0.001])
    p = fitted(data, beta, rate=0.1)
    assert_fixed_point(p, data, beta)

    def excess(first: float) -> float:
        tail = (1 - first) / 100
        return np.log(first / tail / 900) - beta * np.log((1 - first) / (1 - tail))

    assert p[0] == pytest.approx(brentq(excess, 0.5, 0.999, xtol=1e-14), rel=1e-6)
    assert f"{matched(data, p):.2f}" == temperature
