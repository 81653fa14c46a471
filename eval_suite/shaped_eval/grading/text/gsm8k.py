r"""GSM8K: grades the final number of a solution.

It is the number directly after ``####``, or else the last boxed number, the one after "the answer
is", or the last number. Headings, such as ``#### Step 2`` and ``#### 2. Add``, are not answers. Of
an equation, as in ``#### 40 + 2 = 42``, it is the number after the last equals sign. Numbers are
compared as exact decimals. Reasoning in ``<think>`` tags is dropped.
"""

from __future__ import annotations

import re

from shaped_eval.grading.extract import (
    before_next_question,
    last_boxed,
    plain_answer,
    without_reasoning,
)
from shaped_eval.grading.literals import Number, parse_number
from shaped_eval.grading.text.statements import last_match
from shaped_eval.records import Status

SEARCHED_CHARACTERS = 10_000
# A minus sign counts if it cannot be a subtraction: not after a digit, letter or closing bracket.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-−–]\s?\\?\$?\s?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_STATEMENT = re.compile(
    r"\banswer(?:\s*\*{0,2}\s?[:=]|\s+(?:is|are|would\s+be|should\s+be"
    r"|must\s+be)\b)[:\s*$({\\]{0,8}(?=[-−–]?\s?[$\\]{0,2}[\d.])"
    r"([^\n]{1,200})",
    re.IGNORECASE,
)
# ``####`` with the answer behind it: a number, also with words and a colon, a sign, a currency,
# markup or a box before it. A number that begins a line with more text below it is a heading.
_MARKED = re.compile(
    r"####[ \t]*(?:[A-Za-z][A-Za-z ]{0,30}[:=])?"
    r"(?P<answer>(?:[ \t*_$(\[{`~≈=€£¥₹]|\\[$([]|\\(?:boxed|text|textbf|mathbf)\{|US\$"
    r"|[-−–+](?=[ \t*$\\]*[.\d])){0,12}"
    r"(?!\d{1,3}[.):][ \t]+\S[^\n]*\n\s*\S)\.?\d(?:(?!####)[^\n])*)"
)
_HEADING = re.compile(
    r"[*_ ]{0,4}(?:step|part|case|section|question|problem|check|method|phase|example)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def extract_number(text: str) -> Number | None:
    """The final answer of a solution, or None if it has no number."""
    line = last_match(_MARKED, text)
    marked = line["answer"] if line else _last_line(text)
    statement = last_match(_STATEMENT, text)
    stated = _SENTENCE_END.split(statement[1], maxsplit=1)[0] if statement else ""
    for part, first in (
        (marked, True),
        (last_boxed(text) or "", False),
        (stated, True),
        (text, False),
    ):
        part = part.strip()
        whole = parse_number(part.rstrip("%").rstrip("\\"))
        if whole is not None:
            return whole
        part = part[:SEARCHED_CHARACTERS] if first else part[-SEARCHED_CHARACTERS:]
        behind = _NUMBER.findall(part.rpartition("=")[2]) if first else []
        found = behind or _NUMBER.findall(part)
        if found:
            return parse_number(found[0] if first else found[-1])
    return None


def _last_line(text: str) -> str:
    """The last line after ``####``, unless it is a heading; empty if the last line has no mark."""
    line = text.rpartition("####")[2].strip() if "####" in text else ""
    return "" if "\n" in line or _HEADING.match(line) else line


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade one solution. `gold` is a GSM8K solution with ``####``, or only the number.

    Answers are equal as decimals: ``1,000.0`` equals ``$1000``.
    """
    expected = extract_number(gold)
    number = extract_number(before_next_question(without_reasoning(completion)))
    if number is None:
        return "unparsed", None
    equal = expected is not None and number.value == expected.value
    return ("pass" if equal else "fail"), plain_answer(str(number.value))
