r"""Finds the statement of the final answer in a completion.

Examples are ``\boxed{B}``, ``<answer>B</answer>``, "the answer is B" and "Answer: B". This runs in
the caller's process on untrusted text: every pattern is bounded, and linear in the text's length.
"""

from __future__ import annotations

import re
from collections import deque

from shaped_eval.grading.extract import NEXT_QUESTION, last_boxed

STATEMENT_CHARACTERS = 1_000
SHORT_LINE_CHARACTERS = 100
_TAG = re.compile(r"<answer>([^<]{0,1000})</answer>", re.IGNORECASE)
_STATEMENT = re.compile(
    r"\b(?:answer(?:\s+(?:choice|option|letter))?|(?:correct|best|right|most\s+likely)\s+(?:option"
    r"|choice))"
    r"(?:\s+(?:to|for)\s+(?:the|this)\s+(?:question|problem))?"
    r"(?:\*{0,2}\s{0,4}[:：]\*{0,2}|\s+(?:is|would\s+be|should\s+be|must\s+be"
    r"|are)\b\s{0,4}:?)\s{0,8}",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?\s+(?=[\"'“‘(]?[A-Z])")


def final_statement(completion: str) -> str | None:
    """What the completion states as its answer, up to the end of that line, or None.

    It is the last box, or else the last ``<answer>`` tag, or the last statement before the model
    continues with another question.
    """
    boxed = last_boxed(completion)
    if boxed is not None and boxed.strip():
        return boxed.strip()
    tags = _TAG.findall(completion)
    if tags:
        return tags[-1].strip() or None
    last = last_match(_STATEMENT, first_answer(completion))
    if last is None:
        return None
    rest = last.string[last.end() : last.end() + STATEMENT_CHARACTERS].lstrip("\n ")
    return rest.split("\n", 1)[0].strip() or None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match that is not inside another."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def first_answer(completion: str) -> str:
    """The completion up to the point where the model asks another question."""
    next_question = NEXT_QUESTION.search(completion)
    return completion if next_question is None else completion[: next_question.start()]


def readings(statement: str) -> list[str]:
    """The statement's line and, if that has several sentences, also its first sentence."""
    end = _SENTENCE_END.search(statement)
    return [statement] if end is None else [statement, statement[: end.start()]]


def bare_line(completion: str, *, last: bool) -> str | None:
    """The last (or first) non-empty line, or None if there is none or it is too long an answer."""
    lines = [line for line in first_answer(completion).splitlines() if line.strip()]
    if not lines:
        return None
    line = lines[-1 if last else 0].strip()
    return line if len(line) <= SHORT_LINE_CHARACTERS else None
