"""Find the part of a completion that decides its grade, in time linear in its length.

This runs in the caller's process on untrusted text, so nothing here backtracks, recurses or evaluates.
"""

from __future__ import annotations

import hashlib
import re

TAIL_CHARACTERS = 1_000
ANSWER_CHARACTERS = 160
_TOKEN = re.compile(r"\\boxed\s*\{|\\fbox\s*\{|\\.|[{}]", re.DOTALL)
# What a base model writes when it goes on with a question of its own.
NEXT_QUESTION = re.compile(r"\n\s{0,8}(?:Question|Problem|Q)\s?:", re.IGNORECASE)
_ANSWERED = re.compile(r"####|\\boxed|\\fbox|<answer>|\banswer\s*(?:is|:)", re.IGNORECASE)
_UNBRACED = re.compile(r"\\boxed\s+([^\s{}$\\]+)")


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` (outermost where nested), else of ``\boxed 5``.

    A box that is never closed, as in a truncated completion, does not count.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    content = None
    open_braces: list[int | None] = []  # where a box's content starts; None for an ordinary brace
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and text[start : token.start()].strip():  # an empty one is no answer
                content = text[start : token.start()]
        elif mark == "{":
            open_braces.append(None)
        elif mark.endswith("{") and mark != "\\{":
            open_braces.append(token.end())
    if content is None:
        unbraced = _UNBRACED.findall(text)
        return unbraced[-1] if unbraced else None
    return content


def boxed_or_tail(completion: str) -> str:
    r"""``\boxed{answer}`` with the last boxed answer, else the last 1,000 characters. Idempotent."""
    completion = before_next_question(completion)
    answer = last_boxed(completion)
    return completion[-TAIL_CHARACTERS:] if answer is None else f"\\boxed{{{answer}}}"


def before_next_question(completion: str) -> str:
    """The completion up to where the model, having answered, asks itself another question."""
    if NEXT_QUESTION.search(completion) is None:  # mostly, and fast
        return completion
    answered = _ANSWERED.search(completion)
    next_question = NEXT_QUESTION.search(completion, answered.end()) if answered else None
    return completion if next_question is None else completion[: next_question.start()]


def plain_answer(text: str) -> str:
    """`text` as a vote: whitespace collapsed, encodable as UTF-8, long ones cut and told apart by a hash."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    if len(text) <= ANSWER_CHARACTERS:
        return text
    return f"{text[:ANSWER_CHARACTERS]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}"
