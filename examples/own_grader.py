"""A grader of your own, for evaluation and for reinforcement learning alike: estimates.

    cd examples
    shaped-trl rlvr --grader own_grader:grade --model_name_or_path MODEL \
        --dataset_name PROMPTS.jsonl --output_dir OUT
    shaped-trl grade --answers ANSWERS.jsonl --benchmark gsm8k --grader own_grader:grade --out RUN

A grader is a function of a completion and the gold answer. It returns a status, "pass", "fail" or
"unparsed" (no answer was found), and the answer in one fixed writing: equal answers are votes for
one another. It runs in a process of its own with limits on time and memory; an exception makes the
sample an "error". A change of this file makes verdicts that it gave before out of date.
"""

from __future__ import annotations

import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
TOLERANCE = 0.01


def grade(completion: str, gold: str) -> tuple[str, str | None]:
    """Pass where the last number of the completion is within 1% of the gold answer."""
    numbers = NUMBER.findall(completion)
    if not numbers:
        return "unparsed", None
    estimate, right = float(numbers[-1]), float(gold)
    if abs(estimate - right) <= TOLERANCE * abs(right):
        return "pass", f"{right:g}"
    return "fail", f"{estimate:g}"
