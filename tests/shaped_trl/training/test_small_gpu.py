"""The recipe for one consumer GPU fits into its memory by the estimate of `--dry_run`."""

import pytest
from transformers import Qwen3Config

from shaped_trl import recipes
from shaped_trl.training.memory import step_memory

# config.json of Qwen/Qwen3-0.6B-Base
QWEN3 = Qwen3Config(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    tie_word_embeddings=True,
)


def memory(name: str):
    settings = recipes.load(recipes.find(name))
    return step_memory(
        QWEN3, sequences=settings["per_device_train_batch_size"], length=settings["max_length"]
    )


def test_what_its_header_says_and_what_fits():
    small = memory("qwen3-0.6b/midtrain-24gb")
    assert small.states / 2**30 == pytest.approx(8.9, abs=0.05)
    assert 13.5 < small.total / 2**30 < 14.5
    assert 1.1 * small.total < 24e9 < 1.1 * memory("qwen3-0.6b/midtrain").total


def tokens(name: str) -> int:
    settings = recipes.load(recipes.find(name))
    rows = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    return rows * settings["max_length"]


def test_its_batches_are_those_of_the_larger_recipe():
    assert tokens("qwen3-0.6b/midtrain-24gb") == tokens("qwen3-0.6b/midtrain") == 2**19
