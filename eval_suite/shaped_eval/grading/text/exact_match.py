r"""Answers in a fixed form (BIG-Bench Hard, last letters): grades them by string equality.

Before the comparison, spaces are collapsed, quotation marks, markup and the final period are
removed, and case is folded. Numbers are compared by value, brackets without the spaces between
them, and an option's letter as `choice` finds it.
"""

from __future__ import annotations

import re

from shaped_eval.grading.extract import plain_answer, without_reasoning
from shaped_eval.grading.literals import parse_number
from shaped_eval.grading.text import choice
from shaped_eval.grading.text.aliases import gold_aliases
from shaped_eval.grading.text.statements import bare_line, final_statement, readings
from shaped_eval.records import Status

_OPTION = re.compile(r"\(([A-Z])\)")
_WRAPPING = "\"'“”‘’`*_$ \t"
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion against `gold`, a text or a JSON list of texts that are all right.

    Without a statement ("the answer is", a box, ``<answer>``), the last line is the answer if it is
    short. Reasoning in ``<think>`` tags is dropped. `answer` is canonical: every pass of a gold has
    the same.
    """
    completion = without_reasoning(completion)
    if _OPTION.fullmatch(gold.strip()):
        return choice.grade(completion, gold)
    expected = [form for form in map(canonical, gold_aliases(gold)) if form]
    if len(completion) <= 2 * len(gold) + 20 and canonical(completion) in expected:
        return "pass", plain_answer(expected[0])
    statement = final_statement(completion)
    given = (
        readings(statement) if statement is not None else [bare_line(completion, last=True) or ""]
    )
    answers = [canonical(text) for text in given]
    if not answers[-1]:
        return "unparsed", None
    if any(answer in expected for answer in answers):
        return "pass", plain_answer(expected[0])
    if not _unwrapped(answers[-1]):
        return "unparsed", None
    return "fail", plain_answer(answers[-1])


def canonical(text: str) -> str:
    """The form in which answers are compared.

    A text of nothing but markup and quotation marks is compared as it is.
    """
    text = " ".join(_TEXT_COMMAND.sub(r"\1", text).split())
    text = _unwrapped(text) or text
    number = parse_number(text)
    if number is not None:
        return str(number.value)
    return "".join(text.split()) if not any(map(str.isalnum, text)) else text.casefold()


def _unwrapped(text: str) -> str:
    return text.strip(_WRAPPING).rstrip(".").strip(_WRAPPING)
