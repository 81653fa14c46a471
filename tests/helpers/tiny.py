"""A model, a tokenizer and rows small enough that a training run takes a second."""

from __future__ import annotations

import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

WORDS = [f"w{i}" for i in range(60)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words by white space, `<pad>` and `<eos>`."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Qwen3ForCausalLM:
    """Two layers of Qwen3, hidden size 16, the vocabulary of `tiny_tokenizer`."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(WORDS) + 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    return Qwen3ForCausalLM(Qwen3Config(**settings | changes)).to(dtype)


def text_rows(count: int, seed: int = 0) -> Dataset:
    """Rows `text` of 3 to 20 words: uneven, so that a mean of means is not the mean."""
    rng = random.Random(seed)
    return Dataset.from_list(
        [{"text": " ".join(rng.choices(WORDS, k=rng.randint(3, 20)))} for _ in range(count)]
    )


def pair_rows(count: int, seed: int = 0) -> Dataset:
    """Rows `prompt` and `completion`."""
    rng = random.Random(seed)
    rows = [
        {
            "prompt": " ".join(rng.choices(WORDS, k=4)),
            "completion": " " + " ".join(rng.choices(WORDS, k=rng.randint(2, 9))),
        }
        for _ in range(count)
    ]
    return Dataset.from_list(rows)
