"""Draw the figures of the page on the loss, docs/concepts/loss.md.

    python docs/draw_shapes.py      # writes docs/concepts/weights.svg, beta.svg and lambda.svg

`weights.svg` is Eq. 11. The other two show where training ends that draws its targets from a known
distribution d and has free logits: they are optimised with the loss itself, in float64, until the
expected gradient is 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from shaped_kernels import RewardShape, shaped_linear_loss

Array = NDArray[np.float64]
OUT = Path(__file__).parent / "concepts"
BLUE, GREY, ORANGE = "#0072b2", "#999999", "#d55e00"
# of the ten likeliest next tokens of a text whose probabilities follow Zipf's law
DATA_V: Array = (1 / np.arange(1, 11)) / (1 / np.arange(1, 11)).sum()
HEAD = 4  # the size of K in the figure of λ
FORMS = ("exponent", "product")
BETAS = {-0.25: BLUE, 0.0: GREY, 0.5: ORANGE}
LAMBDAS = {
    "tail_penalty, λ̂ = −0.1": (RewardShape(lambda_tail=-0.1, top_k=HEAD), BLUE),
    "head_reward, λ̃ = 0.1": (RewardShape(lambda_head=0.1, top_k=HEAD), ORANGE),
}
TOKENS = {
    "xlabel": "token, from the likeliest on",
    "xticks": range(10),
    "xticklabels": range(1, 11),
}
TOLERANCE, MOST_STEPS = 1e-10, 1_000


def fixed_point(data_V: Array, shape: RewardShape) -> Array:
    """The distribution p [V] at which training on targets drawn from `data_V` [V] ends.

    Raises:
        RuntimeError: the expected gradient is not 0 after all steps.
    """
    data = torch.from_numpy(data_V)
    logits_V = data.log().requires_grad_()
    hidden, targets = torch.ones(len(data), 1, dtype=torch.float64), torch.arange(len(data))
    for _ in range(MOST_STEPS):
        logits_V.grad = None
        loss = shaped_linear_loss(
            hidden, logits_V[:, None], targets, shape, token_weights=data, impl="reference"
        ).loss
        loss.backward()
        assert logits_V.grad is not None
        if logits_V.grad.abs().max() < TOLERANCE:
            return logits_V.detach().softmax(0).numpy()
        with torch.no_grad():
            logits_V -= logits_V.grad / logits_V.softmax(0)  # nearly Newton's step
    raise RuntimeError(f"no fixed point of {shape}")


def weight(p: Array, beta: float, form: str) -> Array:
    """w = p·r of Eq. 11, the weight of the target's log-probability."""
    return (1 - p) ** beta if form == "product" else p ** (1 - (1 - p) ** beta)


def draw_weights(path: Path) -> None:
    figure, axes = panels(2)
    p = np.linspace(0.005, 0.995, 400)
    for axis, form in zip(axes, FORMS, strict=True):
        for beta, colour in BETAS.items():
            axis.plot(p, weight(p, beta, form), color=colour, label=f"β = {beta:g}")
        axis.set(title=form, xlabel="probability of the target, p", ylim=(0, 3))
    axes[0].set_ylabel("weight w of the target")
    save(figure, axes, path)


def draw_beta(path: Path) -> None:
    figure, axes = panels(3)
    draw_data(axes[0])
    for axis, form in zip(axes[1:], FORMS, strict=True):
        changes = {
            f"β = {beta:g}": (RewardShape(beta, positive=form), colour)
            for beta, colour in BETAS.items()
            if beta
        }
        draw_changes(axis, changes)
        axis.set(title=form, ylim=(-12, 14))
    save(figure, axes, path)


def draw_lambda(path: Path) -> None:
    figure, axes = panels(2)
    draw_data(axes[0])
    draw_changes(axes[1], LAMBDAS)
    for axis in axes:
        axis.axvline(HEAD - 0.5, color="black", linewidth=0.8, linestyle="dotted")
    axes[0].text(HEAD - 0.4, 0.3, f"tail: outside the {HEAD} likeliest", fontsize=8)
    axes[1].set(title="λ", ylim=(-8, 8))
    save(figure, axes, path)


def draw_data(axis) -> None:
    axis.bar(range(len(DATA_V)), DATA_V, color=GREY)
    axis.set(title="the data", ylabel="probability", **TOKENS)


def draw_changes(axis, shapes: dict[str, tuple[RewardShape, str]]) -> None:
    """By how many percent each shape moves the probability of each token."""
    for number, (label, (shape, colour)) in enumerate(shapes.items()):
        places = np.arange(len(DATA_V)) + 0.38 * (number - 0.5)
        change = 100 * (fixed_point(DATA_V, shape) / DATA_V - 1)
        axis.bar(places, change, 0.36, color=colour, label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(ylabel="change of the probability, %", **TOKENS)


def panels(number: int):
    return plt.subplots(1, number, figsize=(8.5, 2.9), layout="constrained")


def save(figure, axes, path: Path) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures")
    out = parser.parse_args(argv).out
    plt.rcParams |= {"font.size": 9, "svg.hashsalt": "shaped-trl"}
    draw_weights(out / "weights.svg")
    draw_beta(out / "beta.svg")
    draw_lambda(out / "lambda.svg")


if __name__ == "__main__":
    main()
