"""Compute what a reward shape would make of a model's own next-token distributions.

    python examples/fixed_points.py MODEL TEXT.txt [TEXT.txt ...]

Nothing is trained. The distribution d that a model predicts at a position is taken to be the true
one. Training free logits on tokens drawn from d ends where the expected gradient is 0. With
cross-entropy this is at d itself. With a weight w(p) of the target's log-probability it is at
p_j = d_j·w(p_j) / Σ_k d_k·w(p_k). The script prints how entropy and negative log-likelihood (NLL)
of this fixed point p differ from those of d, as means over the positions, for β of Eq. 11 of arXiv
2512.22955 in both forms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from shaped_kernels import RewardShape
from transformers import AutoModelForCausalLM, AutoTokenizer

Array = NDArray[np.float64]
SHAPES = [
    RewardShape(beta, positive=form) for form in ("exponent", "product") for beta in (-0.25, 0.5)
]
_LARGEST_LOG_ODDS = 200.0


def log_weight(log_p: Array, log_q: Array, shape: RewardShape) -> Array:
    """ln w of Eq. 11 from ln p and ln(1 − p)."""
    if shape.positive == "product":
        return shape.beta * log_q
    return log_p * -np.expm1(shape.beta * log_q)


@cache
def inverse_of_ratio(shape: RewardShape) -> Callable[[Array], Array]:
    """ln p as a function of ln(p / w(p)), for p up to the point where that ratio stops rising.

    In the exponent form it always rises; in the product form with β < 0 it rises up to 1/(1 − β).
    """
    log_odds = np.linspace(-_LARGEST_LOG_ODDS, 30.0, 400_000)
    log_p, log_q = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
    ratio = log_p - log_weight(log_p, log_q, shape)
    rising = int(np.argmax(ratio)) + 1
    return lambda target: np.interp(target, ratio[:rising], log_p[:rising])


def fixed_point(data_V: Array, shape: RewardShape) -> Array:
    """p [V] with p_j proportional to data_j·w(p_j), for a `shape` with β alone.

    Only the most probable token can be beyond the rising branch of p/w(p). Its log-odds determine
    the normaliser, which determines all other probabilities. Bisection finds the log-odds for which
    all probabilities add up to 1.
    """
    first = int(data_V.argmax())
    others_V = np.delete(data_V, first)
    order = others_V.argsort()  # interpolation is many times faster at ascending points
    log_d = np.log(others_V[order])
    inverse = inverse_of_ratio(shape)
    low, high = -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS
    for _ in range(50):
        middle = (low + high) / 2
        log_p, log_q = -np.logaddexp(0, -middle), -np.logaddexp(0, middle)
        log_z = np.log(data_V[first]) + log_weight(log_p, log_q, shape) - log_p
        others = np.exp(inverse(log_d - log_z))
        low, high = (middle, high) if others.sum() < np.exp(log_q) else (low, middle)
    others_V[order] = others
    return np.insert(others_V, first, np.exp(log_p))


def predictions(model: str, texts: list[Path], positions: int) -> list[Array]:
    """Next-token distributions [V] of the model at the first `positions` tokens of each text."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, trust_remote_code=False
        ).eval()
    except (OSError, ValueError) as error:
        raise SystemExit(f"{model} cannot be loaded as a causal language model: {error}") from error
    found = []
    for text in texts:
        ids = tokenizer(text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[
            :, :positions
        ]
        with torch.no_grad():
            found += list(network(ids).logits[0].double().softmax(-1).numpy())
    return found


def compare(distributions: list[Array], shape: RewardShape) -> tuple[float, float]:
    """Relative change of mean entropy and of mean NLL, from d to the fixed point."""
    entropies, nlls, base = [], [], []
    for data in distributions:
        data = np.maximum(data, 1e-60)
        p = fixed_point(data, shape)
        entropies.append(-(p * np.log(p)).sum())
        nlls.append(-(data * np.log(p)).sum())
        base.append(-(data * np.log(data)).sum())
    return float(np.mean(entropies) / np.mean(base) - 1), float(np.mean(nlls) / np.mean(base) - 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a causal language model: a folder, or an id on the Hub")
    parser.add_argument("texts", nargs="+", type=Path, help="plain text files")
    parser.add_argument(
        "--positions", type=int, default=256, help="tokens of each text (default 256)"
    )
    given = parser.parse_args(argv)
    for text in given.texts:
        if not text.is_file():
            parser.error(f"{text}: no such file")
    print("| text | form of Eq. 11 | β | entropy | NLL |")
    print("|---|---|--:|--:|--:|")
    for text in given.texts:
        distributions = predictions(given.model, [text], given.positions)
        for shape in SHAPES:
            entropy, nll = compare(distributions, shape)
            print(
                f"| {text.stem} | {shape.positive} | {shape.beta:g} | {entropy:+.1%} | {nll:+.2%} "
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
