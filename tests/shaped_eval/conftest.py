"""Fixtures of the sampling tests: a tiny model with hostile generation settings, and a mirror."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from openai_server import config_of, server  # noqa: F401
from shaped_eval.config import SampleConfig
from tiny_eval import CONTEXT_TOKENS, NUM_PROBLEMS, WORDS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A random Qwen3 with hostile generation settings: top-k 1 and a repetition penalty."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        pad_token_id=1,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen3(config)
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
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """Invented rows in GSM8K's layout."""
    folder = tmp_path_factory.mktemp("mirror")
    for split, count in (("train", 4), ("test", NUM_PROBLEMS)):
        path = folder / "openai/gsm8k/main" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"w{i} w{i + 1}", "answer": f"w{i}\n#### {i}"} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_config(model_folder, mirror, tmp_path):
    def make(out: str = "run", **changes) -> SampleConfig:
        settings = {
            "model": str(model_folder),
            "benchmarks": "gsm8k",
            "hub_mirror": str(mirror),
            "n": 5,
            "batch_size": 2,
            "max_new_tokens": 12,
            "temperature": 1.0,
            "top_p": 0.95,
        }
        return SampleConfig(**{**settings, "out": str(tmp_path / out), **changes})

    return make
