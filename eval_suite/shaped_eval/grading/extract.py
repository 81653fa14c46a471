"""Find the part of a completion that decides its grade, in time linear in its length.

This runs in the caller's process on untrusted text, so nothing here backtracks, recurses or
evaluates.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from shaped_eval.grading import prose

TAIL_CHARACTERS = 1_000
ANSWER_CHARACTERS = 160
_REASONING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_TOKEN = re.compile(r"\\boxed\s*\{|\\fbox\s*\{|\\.|[{}]", re.DOTALL)
# What a base model writes when it goes on with a question of its own.
NEXT_QUESTION = re.compile(r"\n\s{0,8}(?:Question|Problem|Q)\s?:", re.IGNORECASE)
_ANSWERED = re.compile(r"####|\\boxed|\\fbox|<answer>|\banswer\s*(?:is|:)", re.IGNORECASE)
_UNBRACED = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
# what may stand between boxes that are one answer: \boxed{1} \text{ and } \boxed{-2}; no empty line
_BETWEEN = re.compile(
    r"(?:[\s$,;&{}]|\\[()\[\],;:! ]|\\\\|\\q?quad|\\text\{\s*,?\s*(?:and|or)?\s*\}|\band\b|\bor\b)*"
)
_EMPTY_LINE = re.compile(r"\n\s*\n")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ")
LONGEST_BETWEEN = 60


class Box(NamedTuple):
    r"""A ``\boxed{content}``, from its backslash up to behind its brace."""

    start: int
    end: int
    content: str


def without_reasoning(completion: str) -> str:
    """The completion without its ``<think>…</think>`` blocks: an answer that stands only there does
    not count.

    What precedes a closing tag without an opening one is reasoning (a chat template had opened it),
    and so is all that follows an opening one without a closing one.
    """
    pieces: list[str] = []
    start, is_open = 0, False
    for tag in _REASONING.finditer(completion):
        if tag[1]:
            if not is_open:
                pieces.clear()
            start, is_open = tag.end(), False
        elif not is_open:
            pieces.append(completion[start : tag.start()])
            is_open = True
    if not is_open:
        pieces.append(completion[start:])
    return "\n".join(piece for piece in pieces if piece)


def without_tags(completion: str) -> str:
    """The completion whose reasoning is graded like the rest of it: only the tags go."""
    return _REASONING.sub("\n", completion)


def boxes(text: str) -> list[Box]:
    r"""The complete ``\boxed{...}`` that are not empty, outermost where nested. One that never
    closes is none."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    found: list[Box] = []
    # where a box and its content start; None for an ordinary brace
    open_braces: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is None or not text[opened[1] : token.start()].strip():
                continue
            while found and found[-1].start > opened[0]:
                found.pop()
            found.append(Box(opened[0], token.end(), text[opened[1] : token.start()]))
        elif mark == "{":
            open_braces.append(None)
        elif mark.endswith("{") and mark != "\\{":
            open_braces.append((token.start(), token.end()))
    return found


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` (outermost where nested), else of ``\boxed
    5``."""
    if found := boxes(text):
        return found[-1].content
    unbraced = _UNBRACED.findall(text)
    return unbraced[-1] if unbraced else None


def boxed_or_tail(completion: str) -> str:
    r"""``\boxed{answer}`` with what the completion boxes last, else its last 1,000 characters.
    Idempotent.

    Boxes one after the other, with nothing but commas and "and" between them, are one answer, a
    list. What continues the box in its formula, such as an exponent, goes into it. A box that the
    prose around it denies or takes back, or that is a part of a larger formula, does not count:
    then this is empty.
    """
    completion = before_next_question(without_reasoning(completion))
    run = _last_run(completion)
    if not run:
        answer = last_boxed(completion)
        return completion[-TAIL_CHARACTERS:] if answer is None else f"\\boxed{{{answer}}}"
    before, after = completion[: run[0].start], completion[run[-1].end :]
    if prose.denies(before, after, run[-1].content):
        return ""
    content = ", ".join(dict.fromkeys(box.content.strip() for box in run))
    continued = prose.continuation(after)
    if continued.startswith("^") and not _DEGREES.match(continued) and not content.isalnum():
        content = f"({content})"  # the exponent is of all that is in the box
    return f"\\boxed{{{content}{continued}}}"


def _last_run(text: str) -> list[Box]:
    found = boxes(text)
    run = found[-1:]
    for box in reversed(found[:-1]):
        between = text[box.end : run[-1].start]
        if (
            len(between) > LONGEST_BETWEEN
            or not _BETWEEN.fullmatch(between)
            or _EMPTY_LINE.search(between)
        ):
            break
        run.append(box)
    return run[::-1]


def before_next_question(completion: str) -> str:
    """The completion up to where the model, having answered, asks itself another question."""
    if NEXT_QUESTION.search(completion) is None:  # mostly, and fast
        return completion
    answered = _ANSWERED.search(completion)
    next_question = NEXT_QUESTION.search(completion, answered.end()) if answered else None
    return completion if next_question is None else completion[: next_question.start()]


def plain_answer(text: str) -> str:
    """`text` as a vote: whitespace collapsed, encodable as UTF-8, long ones cut and told apart by a
    hash."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    if len(text) <= ANSWER_CHARACTERS:
        return text
    return f"{text[:ANSWER_CHARACTERS]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}"
