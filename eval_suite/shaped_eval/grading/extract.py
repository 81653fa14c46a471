"""Finds the part of a completion that decides its grade, in time linear in its length.

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
_NOT_SPACE = re.compile(r"\S")
# What a base model writes when it continues with a question of its own.
NEXT_QUESTION = re.compile(r"\n\s{0,8}(?:Question|Problem|Q)\s?:", re.IGNORECASE)
_ANSWERED = re.compile(r"####|\\boxed|\\fbox|<answer>|\banswer\s*(?:is|:)", re.IGNORECASE)
_UNBRACED = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
# what may stand between boxes that form one answer, as in \boxed{1} \text{ and } \boxed{-2}
_BETWEEN = re.compile(
    r"(?:[\s$,;&{}]|\\[()\[\],;:! ]|\\\\|\\q?quad|\\text\{\s*,?\s*(?:and|or)?\s*\}|\band\b|\bor\b)*"
)
_EMPTY_LINE = re.compile(r"\n\s*\n")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ")
LONGEST_BETWEEN = 60


class Box(NamedTuple):
    r"""A ``\boxed{content}``: from its backslash to the end of its closing brace."""

    start: int
    end: int
    content: str


def without_reasoning(completion: str) -> str:
    """The completion without its ``<think>…</think>`` blocks, in which an answer does not count.

    Text before a closing tag without an opening one is reasoning, because a chat template had
    opened it. So is all text after an opening tag without a closing one.
    """
    pieces: list[str] = []
    start = 0
    is_open = False
    for tag in _REASONING.finditer(completion):
        if tag[1]:
            if not is_open:
                pieces.clear()
            start = tag.end()
            is_open = False
        elif not is_open:
            pieces.append(completion[start : tag.start()])
            is_open = True
    if not is_open:
        pieces.append(completion[start:])
    return "\n".join(piece for piece in pieces if piece)


def without_tags(completion: str) -> str:
    """The completion without its reasoning tags, whose content is then graded like the rest."""
    return _REASONING.sub("\n", completion)


def boxes(text: str) -> list[Box]:
    r"""The complete, non-empty ``\boxed{...}``, only the outermost where they are nested.

    A box that never closes is left out.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    # Start, content and end of each box. Contents are cut out at the end, since a nest of boxes
    # would otherwise be copied once for each box in it.
    found: list[tuple[int, int, int]] = []
    # the positions where a box and its content start, or None for an ordinary brace
    open_braces: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is None or not _NOT_SPACE.search(text, opened[1], token.start()):
                continue
            while found and found[-1][0] > opened[0]:
                found.pop()
            found.append((*opened, token.end()))
        elif mark == "{":
            open_braces.append(None)
        elif mark.endswith("{") and mark != "\\{":
            open_braces.append((token.start(), token.end()))
    return [Box(start, end, text[content : end - 1]) for start, content, end in found]


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, or else of the last ``\boxed 5``.

    Of nested boxes, the outermost counts.
    """
    if found := boxes(text):
        return found[-1].content
    unbraced = _UNBRACED.findall(text)
    return unbraced[-1] if unbraced else None


def boxed_or_tail(completion: str) -> str:
    r"""``\boxed{answer}`` with the completion's last box, or else its last 1,000 characters.

    Consecutive boxes with only commas or "and" between them are one answer, a list. Text that
    continues the box in its formula, such as an exponent, becomes part of it. The result is empty
    if the text around the box denies it or takes it back, or if the box is part of a larger
    formula. The function is idempotent.
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
        content = f"({content})"  # the exponent applies to the whole content of the box
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
    """The completion up to the point where the model, having answered, asks another question."""
    if NEXT_QUESTION.search(completion) is None:  # the usual case, and a fast check
        return completion
    answered = _ANSWERED.search(completion)
    next_question = NEXT_QUESTION.search(completion, answered.end()) if answered else None
    return completion if next_question is None else completion[: next_question.start()]


def plain_answer(text: str) -> str:
    """`text` as a vote: with single spaces, and encodable as UTF-8.

    Long texts are cut, and a hash keeps different ones apart.
    """
    text = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    if len(text) <= ANSWER_CHARACTERS:
        return text
    return f"{text[:ANSWER_CHARACTERS]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}"
