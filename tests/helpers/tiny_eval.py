"""Sizes of the tiny model and of the made-up benchmark in the sampling tests, and the tiny model's
distribution."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

WORDS = ["<other>", "<eos>", "Question:", "Answer:", "####", *(f"w{i}" for i in range(27))]
CONTEXT_TOKENS = 128
NUM_PROBLEMS = 6


def prompt_ids(prompt: str) -> list[int]:
    return [WORDS.index(word) if word in WORDS else 0 for word in prompt.split()]


def check_first_words(
    words: Iterable[str], model_folder: Path, prompt: str, temperature: float, top_p: float
) -> None:
    """`words` (empty for the end token) are drawn from softmax at `temperature`, cut to the
    nucleus: by hand."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids(prompt)])).logits[0, -1].double()
    probabilities = (logits / temperature).softmax(-1)
    ranked = probabilities.argsort(descending=True)
    nucleus = ranked[: int((probabilities[ranked].cumsum(0) < top_p).sum()) + 1]
    assert 3 <= len(nucleus) < len(WORDS) - 3, "the test needs a nucleus that cuts"
    expected = {
        WORDS[i]: float(probabilities[i] / probabilities[nucleus].sum()) for i in nucleus.tolist()
    }
    seen = Counter(word or "<eos>" for word in words)
    assert set(seen) <= set(expected)
    observed = np.array([seen[word] for word in expected])
    assert chisquare(observed, observed.sum() * np.array(list(expected.values()))).pvalue > 1e-3
