r"""Mathematics: is the last boxed answer equal to gold? math-verify, behind exact numbers and two
refutations.

Departures from calling math-verify on the whole completion, each for a measured fault:

* gold and answer are both read as ``$\boxed{...}$`` (golds of OlympiadBench otherwise fail to match
  themselves);
* words are compared as text (a bare ``Evelyn`` otherwise is a product of seven symbols);
* numbers are compared as exact fractions, scientific notation with a relative tolerance (math-verify reads
  ``4.5e33`` as 4.5·e·33, and takes 1.6e-19 for 9.1e-31);
* a pass is withdrawn where both sides are constants that differ relatively by more than 1e-4 (1/2^99 and
  1/2^98), or where the answer is an equation between unequal constants (``3=7`` for 7);
* a boxed answer of more than 2,000 characters (and twice gold's) is compared as text alone.

math-verify swallows exceptions, MemoryError among them: a boxed answer that it cannot parse or compare is a
fail.

This module runs untrusted text through a computer algebra system without any time limit: call it through
`GraderPool`, which limits time and memory from outside.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import get_pct_val
from sympy import Rational

from eval_suite.grading.canonical import canonical, constant_value, is_contradiction
from eval_suite.grading.extract import boxed_or_tail, last_boxed, plain_answer
from eval_suite.grading.literals import Number, numbers_equal, parse_number
from eval_suite.records import Status

MAX_PARSED_CHARACTERS = 2_000
CONSTANT_TOLERANCE = 1e-4
_BOXED_ONLY = (LatexExtractionConfig(boxed_match_priority=0),)
_ANYWHERE = (LatexExtractionConfig(), ExprExtractionConfig())
_E_NOTATION = re.compile(r"(?<=\d)[eE]([+-]?\d{1,3})(?![\w.])")
_SCIENTIFIC = re.compile(r"\d[eE][+-]?\d|\\(?:times|cdot)\s*10\s*\^")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\{([^{}]*)\}")
_WORDS = re.compile(r"\(?([A-Za-z]+(?:[ '-][A-Za-z]+)*)\)?\.?")
_SAME_LOOK = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\\left(?![a-z])|\\right(?![a-z])|\\[!,;:]|(?<=\\)[dt](?=frac)")
# math-verify warns that its own timeouts are off: they are, on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion (or what `boxed_or_tail` left of it) against `gold` (LaTeX, without a box).

    No limit on time or memory: see `GraderPool`.
    """
    boxed = last_boxed(completion)
    if boxed is None:
        return _grade_parsed(_parse_tail(boxed_or_tail(completion)), gold)
    if not boxed.strip():
        return "unparsed", None
    expected, number = parse_number(gold), parse_number(boxed)
    if expected is not None and number is not None:
        equal = numbers_equal(expected, number)
        return ("pass", str(expected.value)) if equal else ("fail", plain_answer(str(number.value)))
    if _look(boxed) == _look(gold):
        return "pass", _gold_answer(gold)
    expected_words, words = _words(gold), _words(boxed)
    if expected_words is not None and words is not None and _TEXT.search(gold):
        return ("pass", _gold_answer(gold)) if words == expected_words else ("fail", plain_answer(words))
    if number is not None and _far_from(gold, number):
        return "fail", plain_answer(str(number.value))
    if len(boxed) > max(MAX_PARSED_CHARACTERS, 2 * len(gold)):
        return "fail", plain_answer(boxed)
    text = boxed if number is None else str(number.value)
    return _grade_parsed(_parse_boxed(boxed) or [text], gold, number)


def _grade_parsed(parsed: list[Any], gold: str, number: Number | None = None) -> tuple[Status, str | None]:
    """Compare what math-verify read of the answer: an expression where it could be parsed, its text last."""
    if not parsed:
        return "unparsed", None
    if _equal(gold, _parse_gold(gold), parsed):
        return "pass", _gold_answer(gold)
    return "fail", plain_answer(canonical(parsed[0]) if number is None else str(number.value))


def _equal(gold: str, expected: list[Any], parsed: list[Any]) -> bool:
    if not expected:
        return False
    distance = _relative_distance(expected[0], parsed[0])
    if distance is not None and (distance > CONSTANT_TOLERANCE or _SCIENTIFIC.search(gold)):
        return distance <= CONSTANT_TOLERANCE  # most answers: no need to simplify their difference
    return verify(expected, parsed, timeout_seconds=None) and not is_contradiction(parsed[0])


def _far_from(gold: str, number: Number) -> bool:
    """Is gold a constant other than this number? Cheap: the answer is not parsed."""
    expected = _parse_gold(gold)
    answer = Rational(number.value.numerator, number.value.denominator)
    distance = _relative_distance(expected[0], answer) if expected else None
    return distance is not None and distance > CONSTANT_TOLERANCE


def _relative_distance(expected: Any, answer: Any) -> float | None:
    """|a − b| / |a| of two constants (the smaller one where 9% is read as 9 or as 0.09), else None."""
    distances = []
    for a, b in ((expected, answer), (get_pct_val(expected, expected), get_pct_val(answer, answer))):
        gold_value, value = constant_value(a), constant_value(b)
        if gold_value is None or value is None:
            return None
        difference = abs(gold_value - value)
        distances.append(float(difference / abs(gold_value)) if gold_value != 0 else float(difference))
    return min(distances)


def _parse_boxed(answer: str) -> list[Any]:
    answer = _E_NOTATION.sub(r"\\times10^{\1}", answer)
    return parse(f"$\\boxed{{{answer}}}$", _BOXED_ONLY, parsing_timeout=None)


def _parse_tail(tail: str) -> list[Any]:
    return parse(tail, _ANYWHERE, parsing_timeout=None)


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> list[Any]:
    gold = gold.strip()
    if len(gold) > 2 and gold[0] == gold[-1] == "$" and "$" not in gold[1:-1]:
        gold = gold[1:-1]
    return _parse_boxed(gold)


@lru_cache(maxsize=1024)
def _gold_answer(gold: str) -> str:
    number = parse_number(gold)
    parsed = [] if number is not None else _parse_gold(gold)
    return str(number.value) if number is not None else plain_answer(canonical(parsed[0]) if parsed else gold)


def _words(latex: str) -> str | None:
    r"""The casefolded words that the whole answer is, bare or in ``\text{}``, else None."""
    match = _WORDS.fullmatch(_TEXT.sub(r"\1", latex).strip())
    return match[1].casefold() if match else None


def _look(latex: str) -> str:
    return _SAME_LOOK.sub("", latex).strip("$")
