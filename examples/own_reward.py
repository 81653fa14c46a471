"""Rewards of your own for `shaped-trl rlvr`: functions as TRL's trainers take them.

    cd examples
    shaped-trl rlvr --model_name_or_path MODEL --dataset_name PROMPTS.jsonl --output_dir OUT \
        --reward_funcs own_reward.last_number own_reward.brevity --reward_weights 1.0 0.1

A function gets the completions (texts, or chats), the columns of their rows, here `gold`, and other
arguments of TRL's by name. It returns a number for each completion, or None for no reward. The
first function is the accuracy reward: dynamic sampling keeps the prompts on which it varies.
"""

from __future__ import annotations

import re
from typing import Any

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LONGEST_WORDS = 100


def last_number(completions: list[str], gold: list[str], **kwargs: Any) -> list[float]:
    """1 where the last number of a completion is the gold answer, else 0."""
    found = [NUMBER.findall(completion) for completion in completions]
    return [
        float(bool(numbers) and float(numbers[-1]) == float(answer))
        for numbers, answer in zip(found, gold, strict=True)
    ]


def brevity(completions: list[str], **kwargs: Any) -> list[float]:
    """0 for an empty completion, falling to -1 for one of 100 words."""
    return [-min(len(text.split()) / LONGEST_WORDS, 1.0) for text in completions]
