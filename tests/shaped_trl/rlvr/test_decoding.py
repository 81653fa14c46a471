"""Rewards see completions as they stand after their prompt."""

from __future__ import annotations

import pytest
from datasets import Dataset
from like_tokenizers import BODY, PROMPT, like_llama_2
from rlvr_tiny import rlvr_arguments
from tiny import tiny_model

from shaped_trl.rlvr import RLVRTrainer

CHAT = "{% for one in messages %}{{ one.content }}{% endfor %}"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_a_body_keeps_its_indentation(tmp_path, monkeypatch, dynamic, chat):
    tokenizer = like_llama_2()
    tokenizer.chat_template = CHAT
    before, both = (tokenizer(text)["input_ids"] for text in (PROMPT, PROMPT + BODY))
    assert both[: len(before)] == before
    ids = both[len(before) :]
    assert tokenizer.decode(ids) == BODY[1:], "decoded alone it has its first space"
    seen = []

    def even(completions, **columns):
        seen.extend(one[0]["content"] if chat else one for one in completions)
        return [float(i % 2) for i in range(len(completions))]

    prompt = [{"role": "user", "content": PROMPT}] if chat else PROMPT
    trainer = RLVRTrainer(
        tiny_model(vocab_size=len(tokenizer), eos_token_id=0),
        even,
        rlvr_arguments(tmp_path, dynamic_sampling=dynamic, max_steps=1, max_completion_length=40),
        train_dataset=Dataset.from_list([{"prompt": prompt}] * 4),
        processing_class=tokenizer,
    )
    monkeypatch.setattr(
        trainer,
        "_generate_single_turn",
        lambda prompt_ids, *rest: ([[*ids, 0] for _ in prompt_ids], None),
    )
    trainer.train()
    assert set(seen) == {BODY}
