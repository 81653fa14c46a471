"""Completions are decoded after their prompt."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from like_tokenizers import ALPHABET, BODY, PROMPT, like_gpt_2, like_llama_2
from shaped_eval.backends import Request, load_backend
from shaped_eval.backends.drawing import TokenDraw
from transformers import Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3


@pytest.fixture(params=[like_llama_2, like_gpt_2], ids=lambda make: make.__name__)
def backend(request, tmp_path, make_config):
    tokenizer = request.param()
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 16}
    model = Qwen3(Qwen3Config(vocab_size=len(tokenizer), eos_token_id=0, **sizes))
    model.save_pretrained(folder)
    return load_backend(make_config(model=str(folder), max_new_tokens=40))


def tokens_after(backend, prompt: str, text: str) -> list[int]:
    """The tokens that `text` adds to those of `prompt`."""
    before, both = (backend.tokenizer(t)["input_ids"] for t in (prompt, prompt + text))
    assert both[: len(before)] == before
    return both[len(before) :]


def test_a_body_keeps_its_indentation(backend, monkeypatch):
    ids = tokens_after(backend, PROMPT, BODY)

    def draw(self, logits_RV, step):
        return torch.full((len(logits_RV),), [*ids, 0][step])

    monkeypatch.setattr(TokenDraw, "__call__", draw)
    [found] = backend.generate(Request((PROMPT,), 1, seed=0))
    assert (found.text, found.finish_reason, found.tokens) == (BODY, "stop", len(ids) + 1)
    compile(PROMPT + found.text, "answer", "exec")


def test_prompt_and_completion_together_are_the_whole_text(backend):
    rng = random.Random(0)
    for _ in range(200):
        prompt, text = (
            "".join(rng.choices([*ALPHABET, " ", " ", "\n", "é", "🙂"], k=rng.randint(1, 40)))
            for _ in range(2)
        )
        ids = backend._prompts.encode(prompt)
        both = backend.tokenizer(prompt + text)["input_ids"]
        if both[: len(ids)] != ids:  # two spaces that became one token
            continue
        assert prompt + backend._prompts.decode_after(ids, both[len(ids) :]) == prompt + text


def test_a_tokenizer_that_rewrites_the_prompt_decodes_the_completion_alone(backend, monkeypatch):
    texts = {(1, 2): "ab", (1, 2, 3): "xyz", (3,): "z"}
    decode = lambda ids, **options: texts[tuple(ids)]  # noqa: E731
    monkeypatch.setattr(backend._prompts, "tokenizer", SimpleNamespace(decode=decode))
    assert backend._prompts.decode_after([1, 2], [3]) == "z"
