"""GPQA Diamond (arXiv 2311.12022): 198 questions of graduate science with four options.

A row has the right answer and three wrong ones in columns of their own, so the order of the
options is ours. They are sorted by a hash of the question and the option, which makes a prompt the
same in every run, while lm-eval 0.4.13 shuffles them anew in each process.

Its authors ask that examples are not published, so that they do not end up in training data
(`terms`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from shaped_eval.benchmarks.prompts import Question, Style

LETTERS = "ABCD"
INSTRUCTION = "Reason step by step, and end with a line of the form Answer: (X), X being a letter."

OPTIONS = Style(
    base="Question: {question}\n" + INSTRUCTION + "\n\nReasoning:",
    chat="{question}\n\n" + INSTRUCTION,
    stop=("\nQuestion:",),
)


def read_gpqa(row: Mapping[str, Any]) -> Question:
    """The question with its options; the gold is ``(B) text of the option``."""
    text = row["Question"].strip()
    right = _one_line(row["Correct Answer"])
    wrong = [_one_line(row[f"Incorrect Answer {number}"]) for number in (1, 2, 3)]
    if right in wrong:
        raise ValueError("the right answer stands among the wrong ones")
    options = sorted([right, *wrong], key=lambda option: _place(text, option))
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
    meta = {"subject": row["High-level domain"]}
    return Question("\n".join([text, *lines]), lines[options.index(right)], meta=meta)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _place(question: str, option: str) -> bytes:
    return hashlib.sha256(f"{question}\0{option}".encode()).digest()
