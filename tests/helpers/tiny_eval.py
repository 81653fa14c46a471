"""Sizes of the tiny model and of the made-up benchmark in the sampling tests, and the tiny model's
distribution."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = ["<other>", "<eos>", "Question:", "Answer:", "####", *(f"w{i}" for i in range(27))]
CONTEXT_TOKENS = 128
NUM_PROBLEMS = 6


def save_hostile_model(folder: Path, head_dim: int = 16) -> None:
    """A random Qwen3 with hostile generation settings: top-k 1 and a repetition penalty."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        intermediate_size=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        pad_token_id=1,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.lm_head.weight.data.mul_(12)  # a distribution with a tail for top-p to cut
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=5.0, min_p=0.5, eos_token_id=1, pad_token_id=1
    )
    model.save_pretrained(folder)
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<other>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<eos>", eos_token="<eos>"
    ).save_pretrained(folder)


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
    seen = Counter(word.strip() or "<eos>" for word in words)
    assert set(seen) <= set(expected)
    observed = np.array([seen[word] for word in expected])
    assert chisquare(observed, observed.sum() * np.array(list(expected.values()))).pvalue > 1e-3
