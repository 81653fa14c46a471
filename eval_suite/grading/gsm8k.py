r"""GSM8K: the number after ``####``, else the last boxed one, else the last; compared as exact decimals."""

from __future__ import annotations

import re

from eval_suite.grading.extract import before_next_question, last_boxed, plain_answer
from eval_suite.grading.literals import Number, parse_number
from eval_suite.records import Status

SEARCHED_CHARACTERS = 10_000
# A sign counts where it cannot be a subtraction: not after a digit, a letter or a closing bracket.
_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-−]\s?\\?\$?\s?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


def extract_number(text: str) -> Number | None:
    """The final answer of a solution, or None where it has no number."""
    marked = text.rpartition("####")[2] if "####" in text else ""
    for part, first in ((marked.split("\n", 1)[0], True), (last_boxed(text) or "", False), (text, False)):
        part = part.strip()
        whole = parse_number(part.rstrip("%").rstrip("\\"))
        if whole is not None:
            return whole
        found = _NUMBER.findall(part[:SEARCHED_CHARACTERS] if first else part[-SEARCHED_CHARACTERS:])
        if found:
            return parse_number(found[0] if first else found[-1])
    return None


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade one solution. `gold` is a GSM8K solution with ``####`` or the bare number.

    Answers are equal as decimals: ``1,000.0`` is ``$1000``.
    """
    expected = extract_number(gold)
    number = extract_number(before_next_question(completion))
    if number is None:
        return "unparsed", None
    equal = expected is not None and number.value == expected.value
    return ("pass" if equal else "fail"), plain_answer(str(number.value))
