"""Whether a program printed what a test expects, by the rule of LiveCodeBench's own evaluator.

White space at both ends of the output, and of each line, does not count. There must be as many
lines as expected. A line is right if it is the expected text, or if both lines are decimal numbers,
as many on either, that are equal exactly: ``1.50`` is ``1.5``, and ``0.33333`` is not ``0.3333``.
There is no tolerance, and no other order of lines or words is accepted.

There are two departures, for output that no test expects: a number is written with ASCII digits
(``Decimal`` also takes other digits and underscores), and words such as ``inf`` are not numbers.

All of this is linear in the expected output, however long the printed one is.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,9})?", re.ASCII)
_SHOWN = 60  # characters of a wrong line


def difference(printed: str, expected: str) -> str | None:
    """What is wrong with an output, in words; None if it is right."""
    printed, expected = printed.strip(), expected.strip()
    have, need = (text.count("\n") + 1 if text else 0 for text in (printed, expected))
    if have != need:
        return f"{have:,} lines of output, where {need:,} are expected"
    lines = zip(printed.split("\n"), expected.split("\n"), strict=True)
    for number, (line, right) in enumerate(lines, 1):
        if not _is_same(line.strip(), right.strip()):
            return f"line {number} is {line.strip()[:_SHOWN]!r}"
    return None


def _is_same(line: str, right: str) -> bool:
    if line == right:
        return True
    words = right.split()
    numbers = _numbers(words)
    return numbers is not None and numbers == _numbers(line.split(maxsplit=len(words)))


def _numbers(words: list[str]) -> list[Decimal] | None:
    """The words as exact numbers; None if one is not a number."""
    if not all(map(_NUMBER.fullmatch, words)):
        return None
    try:
        return [Decimal(word) for word in words]
    except InvalidOperation:  # an exponent beyond those of `decimal`
        return None
