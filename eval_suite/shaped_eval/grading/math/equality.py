"""Decides whether an answer equals gold: as words, numbers, lists or parsed expressions.

The rules, and why they depart from math-verify's, are described in `grader`.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import verify
from math_verify.grader import get_pct_val
from sympy import Eq, Expr, Rational

from shaped_eval.grading.literals import Number, numbers_equal, parse_based
from shaped_eval.grading.math.canonical import (
    constant_value,
    is_contradiction,
    names_another_quantity,
    same_equation,
    same_function,
)
from shaped_eval.grading.math.fingerprint import point_values
from shaped_eval.grading.math.latex import has_equals, same_look, split_list
from shaped_eval.grading.math.parsing import parse_boxed, parse_gold
from shaped_eval.grading.math.reading import (
    Reading,
    is_wordy,
    read,
    read_gold,
    unreadable,
    with_bare_unit,
    without_text_commands,
    words,
)
from shaped_eval.grading.math.unfinished import is_unfinished
from shaped_eval.grading.math.units import conversion

CONSTANT_TOLERANCE = 1e-4
MOST_SOLVED_SYMBOLS = 2  # math-verify solves equations, which takes seconds with more symbols
_SCIENTIFIC = re.compile(r"\d[eE][+-]?\d|\\(?:times|cdot)\s*10\s*\^")
# the parser's logarithm is to base 10, but natural if gold has ln
_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|leq|leqslant|lt|ge|geq|geqslant|gt|neq?)(?![A-Za-z])")


def equal(gold_text: str, answer: Reading) -> bool:
    """Whether an answer equals a gold."""
    gold, tolerance = read_gold(gold_text)
    if _look(answer.text) == _look(gold.text):
        return True
    verdict = _equal_words(gold_text, gold, answer)
    if verdict is not None or unreadable(answer, gold_text):
        return verdict is True
    if _needs_names(gold, answer):
        return _equal_parsed(gold_text, gold.text, answer.text, None)
    answer = with_bare_unit(answer, gold)
    factor = conversion(gold.unit, answer.unit) if gold.unit and answer.unit else Fraction(1)
    if factor is None:
        return False
    if gold.number is not None and answer.number is not None:
        number = Number(answer.number.value * factor, answer.number.style, answer.number.percent)
        return numbers_equal(gold.number, number, tolerance)
    if factor == 1 and same_look(answer.value) == same_look(gold.value):
        return True
    verdict = _equal_based(gold, answer)
    verdict = _equal_lists(gold, answer) if verdict is None else verdict
    if verdict is not None:
        return verdict
    if tolerance is None and _is_another_number(gold, answer, factor):
        return False
    value = (
        answer.value
        if factor == 1
        else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}({answer.value})"
    )
    if "\\ln" in gold.value:
        value = _LOG.sub(r"\\ln", value)
    return _equal_parsed(gold_text, gold.value, value, tolerance)


def _is_another_number(gold: Reading, answer: Reading, factor: Fraction) -> bool:
    """Whether the answer is a number, and gold is either far from it or not a number.

    This check is cheap, because the answer is not parsed.
    """
    if answer.number is None or answer.number.percent or not (expected := parse_gold(gold.value)):
        return False
    value = answer.number.value * factor
    number = Rational(value.numerator, value.denominator)
    distance = relative_distance(expected[0], number)
    if distance is None:
        values = _gold_values(gold.value)
        return bool(values) and all(
            abs(each - number) > CONSTANT_TOLERANCE * abs(each) for each in values
        )
    return distance > CONSTANT_TOLERANCE


@lru_cache(maxsize=1024)
def _gold_values(gold: str) -> list[Any]:
    """Values at two points of an expression with variables; empty for anything else."""
    (expected, *_) = parse_gold(gold)
    return (point_values(expected) or []) if isinstance(expected, Expr) else []


def _look(text: str) -> str:
    return same_look(without_text_commands(text))


def _needs_names(gold: Reading, answer: Reading) -> bool:
    """Whether the names matter: two different names, or a name here and another equation there.

    An example is ``y=2x`` and ``2x-y=0``.
    """
    if gold.name is not None and answer.name is not None:
        return gold.name.casefold() != answer.name.casefold()
    named, other = (gold, answer) if gold.name is not None else (answer, gold)
    return named.name is not None and has_equals(other.text) and len(split_list(other.text)) == 1


def _equal_words(gold_text: str, gold: Reading, answer: Reading) -> bool | None:
    """Whether the words are equal, if gold consists of words; None if it does not."""
    expected = words(gold.text) if is_wordy(gold_text) else None
    return None if expected is None else words(answer.text) == expected


def _equal_based(gold: Reading, answer: Reading) -> bool | None:
    expected, given = parse_based(gold.value), parse_based(answer.value)
    if expected is not None:
        return expected == given if given is not None else expected[0] == answer.value.upper()
    if gold.number is not None and given is not None:
        return 2 <= given[1] <= 36 and gold.number.value == _based_value(*given)
    return None


def _based_value(digits: str, base: int) -> int | None:
    try:
        return int(digits, base)
    except ValueError:  # a digit that does not exist in the base
        return None


def _equal_lists(gold: Reading, answer: Reading) -> bool | None:
    """Whether two lists are equal, if that can be decided without parsing; else None.

    It can for lists of numbers in any order, for lists that look the same in another order, and for
    lists with different repetitions.
    """
    expected, given = split_list(gold.text), split_list(answer.text)
    if len(expected) < 2:
        return None
    golds = [read(part) for part in expected]
    answers = [with_bare_unit(read(part), gold) for part in given]
    if len(golds) == len(answers):
        named = {reading.name: reading for reading in golds}
        if (
            len(named) == len(golds) > 1
            and None not in named
            and {reading.name for reading in answers} == set(named)
        ):
            pairs = [(named[reading.name].text, reading) for reading in answers]
            return all(equal(text, reading) for text, reading in pairs)
        if Counter(same_look(reading.value) for reading in golds) == Counter(
            same_look(a.value) for a in answers
        ):
            return True
    numbers = [reading.number for reading in golds if reading.number is not None]
    votes = [reading.number for reading in answers if reading.number is not None]
    if len(numbers) < len(golds) or len(votes) < len(answers):
        return (
            False
            if _repeats(golds) and len(golds) != len(answers) and not _is_single(golds, answers)
            else None
        )
    if _is_single(golds, answers):
        return numbers_equal(numbers[0], votes[0])
    if len(numbers) != len(votes):
        return False
    in_order = zip(
        *(sorted(each, key=lambda number: number.value) for each in (numbers, votes)), strict=True
    )
    return all(numbers_equal(a, b) for a, b in in_order)


def _repeats(readings: list[Reading]) -> bool:
    return len({same_look(reading.value) for reading in readings}) < len(readings)


def _is_single(golds: list[Reading], answers: list[Reading]) -> bool:
    """Whether one answer is given for several equal golds, as when both angles are 90 degrees."""
    return len(answers) == 1 and len({same_look(reading.value) for reading in golds}) == 1


def _equal_parsed(gold_text: str, gold: str, answer: str, tolerance: Fraction | None) -> bool:
    """Whether math-verify finds the parsed forms equal.

    It is overruled if both are constants that are too far apart, or if only the answer is an
    inequality.
    """
    expected = parse_gold(gold)
    if not expected or (isinstance(expected[0], Expr) and _INEQUALITY.search(answer)):
        return False
    parsed = parse_boxed(answer)
    return bool(parsed) and _verified(gold_text, expected, parsed, tolerance)


def _verified(
    gold_text: str, expected: list[Any], parsed: list[Any], tolerance: Fraction | None = None
) -> bool:
    if is_unfinished(parsed[0], expected[0]):
        return False
    if names_another_quantity(parsed[0]) and not isinstance(expected[0], Eq):
        return False
    distance = relative_distance(expected[0], parsed[0])
    if distance is not None and tolerance is not None:
        return distance * abs(float(constant_value(expected[0]))) <= tolerance
    if distance is not None and (distance > CONSTANT_TOLERANCE or _SCIENTIFIC.search(gold_text)):
        return (
            distance <= CONSTANT_TOLERANCE
        )  # decides most answers, without simplifying their difference
    if isinstance(expected[0], Eq) and isinstance(parsed[0], Eq):
        if same_equation(expected[0], parsed[0]):
            return True
        if len(expected[0].free_symbols) > MOST_SOLVED_SYMBOLS:
            return False
    if not verify(expected, parsed, allow_set_relation_comp=True, timeout_seconds=None):
        return distance is None and same_function(expected[0], parsed[0])
    return not is_contradiction(parsed[0])


def relative_distance(expected: Any, answer: Any) -> float | None:
    """The relative distance |a − b| / |a| of two constants, or None if either is not a constant.

    It is the smaller distance if 9% can be read as 9 or as 0.09.
    """
    distances = []
    for a, b in (
        (expected, answer),
        (get_pct_val(expected, expected), get_pct_val(answer, answer)),
    ):
        gold_value, value = constant_value(a), constant_value(b)
        if gold_value is None or value is None:
            return None
        difference = abs(gold_value - value)
        distances.append(
            float(difference / abs(gold_value)) if gold_value != 0 else float(difference)
        )
    return min(distances)
