r"""Mathematics: is the last boxed answer equal to gold? math-verify, behind exact numbers and two refutations.

Departures from calling math-verify on the whole completion, each for a measured fault:

* gold and answer are brought into one writing (`latex.clean`) and read as ``$\boxed{...}$`` (golds of OlympiadBench
  otherwise fail to match themselves);
* a name before an equals sign is set apart: ``N=n`` is compared as n (math-verify reads it as n = n, true, and passes
  ``N=n+1``), and two different names are compared with all they say;
* words are compared as text (a bare ``Evelyn`` otherwise is a product of seven symbols);
* numbers are compared as exact fractions, scientific notation with a relative tolerance (math-verify reads
  ``4.5e33`` as 4.5·e·33, and takes 1.6e-19 for 9.1e-31);
* a trailing unit is converted where gold has one as well (`units`); a letter behind a number is no unit where it may
  be a symbol, as in ``6m``;
* digits with a base are compared as such (math-verify takes 52 in base 9 for 52 in base 8);
* lists of numbers are compared with their repetitions (math-verify drops these);
* a pass is withdrawn where both sides are constants that differ relatively by more than 1e-4 (1/2^99 and
  1/2^98), or where the answer is an equation between unequal constants (``3=7`` for 7);
* expressions that math-verify cannot turn into each other are equal where their values are, at three points with
  positive symbols (``sinh`` and exponentials; ``2r\sqrt{\pi}`` and ``\sqrt{4\pi r^2}``);
* equations are equal where one is a multiple of the other at those points; math-verify, which solves them, is asked
  about those in one or two symbols only;
* a boxed answer of more than 2,000 characters (and twice gold's) is compared as text alone.

Without a box, the formula, number or word after the last ``answer is`` is taken for one; else math-verify searches.

A gold may end in ``\tolerance{1e-1}``: how far, absolutely, a number may be off.

math-verify swallows exceptions, MemoryError among them: a boxed answer that it cannot parse or compare is a fail.

This module runs untrusted text through a computer algebra system without any time limit: call it through
`GraderPool`, which limits time and memory from outside.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import get_pct_val
from sympy import Basic, Eq, Expr, Rational, nan, zoo

from eval_suite.grading.canonical import canonical, constant_value, is_contradiction, same_equation, same_function
from eval_suite.grading.extract import before_next_question, boxed_or_tail, last_boxed, plain_answer
from eval_suite.grading.fingerprint import point_values
from eval_suite.grading.latex import clean, has_equals, same_look, split_list, split_name
from eval_suite.grading.literals import Number, numbers_equal, parse_based, parse_number
from eval_suite.grading.units import conversion, split_unit
from eval_suite.records import Status

MAX_PARSED_CHARACTERS = 2_000
CONSTANT_TOLERANCE = 1e-4
MOST_SOLVED_SYMBOLS = 2  # math-verify solves equations, which takes seconds where they have more
ROUNDING = 1e-2  # how far the two sides of an approximation may be apart, relatively
# math-verify's own clean-up, but for units: it takes the letter in 6m for one
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, nits=True)
_BOXED_ONLY = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALIZATION),)
_ANYWHERE = (LatexExtractionConfig(), ExprExtractionConfig())
_TOLERANCE = re.compile(r"\\tolerance\{([^{}]*)\}\s*$")
_SCIENTIFIC = re.compile(r"\d[eE][+-]?\d|\\(?:times|cdot)\s*10\s*\^")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\{([^{}]*)\}")
_WORDS = re.compile(r"\(?([A-Za-z]+(?:[ '-][A-Za-z]+)*)\)?\.?")
# what the parser takes for something else: e-notation, Euler's constant, Euler's number with an index, a real i
_SYMBOLS: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(r"(?<=\d)[eE]([+-]?\d{1,3})(?![\w.])"), r"\\times10^{\1}"),
    (re.compile(r"\\gamma(?![A-Za-z])"), r"\\varrho"),
    (re.compile(r"(\\[A-Za-z]+)|([Ee])(?=\s*_)"), lambda match: match[1] or rf"\mathcal{{{match[2]}}}"),
    (re.compile(r"(?<=\d)i(?![A-Za-z])"), " i"),
    (re.compile(r"(?<![A-Za-z\\])([a-z])\s*(?=\([^()\[\]]*\]|\[[^()\[\]]*\))"), r"\1 \\in "),
]
_STATED = re.compile(
    r"answer(?:\s+is)?\s*:?\s*(?!not\b)(?:(?:\$([^$\n]{1,200})\$|\\\(([^\n]{1,200}?)\\\))(?=\s*[.,;(]|\s*$|\n)"
    r"|([^\s$\\][^\n$]{0,60}?)(?=\.?\s*$|\.\s|\n))",
    re.IGNORECASE,
)
_TAG = re.compile(r"<answer>([^<]{1,200})</answer>", re.IGNORECASE)
_DENIED = re.compile(r"\bnot\s+(?:equal\s+to\s+)?\$?\s?-?\d[\d.,]*\$?")
_PROPER_NAME = re.compile(r"[A-Za-z]{5,}")
_ONE_WORD = re.compile(r"\(?[A-Za-z]+\)?")
_SCALES = {"dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")  # the parser's is to base 10; where gold has ln, it is natural
# math-verify warns that its own timeouts are off: they are, on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Reading:
    """An answer taken apart: ``x = 5\\text{ cm}`` has name x, value ``5``, unit ``\\text{ cm}`` and a number."""

    text: str
    name: str | None
    value: str
    unit: str
    number: Number | None


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion (or what `boxed_or_tail` left of it) against `gold` (LaTeX, without a box).

    No limit on time or memory: see `GraderPool`.
    """
    boxed = last_boxed(before_next_question(completion))
    if boxed is None:
        tail = boxed_or_tail(completion)
        boxed = _stated(tail)
        if boxed is None:
            return _grade_tail(tail, gold)
    boxed = " ".join(boxed.split())
    if _is_long(boxed, gold):
        return "fail", plain_answer(boxed)
    answers = _candidates(clean(_TOLERANCE.sub("", boxed)))
    if not answers:
        return "unparsed", None
    right = _gold_answer(gold)
    if any(_equal(gold, answer) for answer in answers):
        return "pass", right
    vote = _vote(answers[0], gold)
    return "fail", vote if vote != right else f"not gold: {plain_answer(answers[0].text)}"  # such as another unit


def _candidates(text: str) -> list[Reading]:
    r"""The answer; of ``A \approx B`` both, where they are constants close to each other, else A."""
    left, found, right = text.partition(r"\approx")
    if not found:
        return [_read(text)] if text else []
    if split_name(f"{left}={right}")[0] is not None:
        return [_read(f"{left}={right}")]
    first, second = _read(left.strip()), _read(right.strip())
    distance = _relative_distance(_constant(first), _constant(second))
    return [first, second] if distance is not None and distance <= ROUNDING else [first]


@lru_cache(maxsize=1024)
def _read(text: str) -> Reading:
    """Take cleaned text apart. Bare words are units only behind a number: the m in ``6m`` is then one."""
    name, whole = split_name(text)
    value, unit = split_unit(whole, bare=False)
    number = parse_number(whole) or parse_number(value)
    number = _scaled(number, unit) if number is not None and unit else number
    if number is None and value.startswith("(") and value.endswith(")") and "," not in value:
        number = parse_number(value[1:-1])
    return Reading(text, name, value, unit, number)


@lru_cache(maxsize=1024)
def _read_gold(gold: str) -> tuple[Reading, Fraction | None]:
    tolerance = _TOLERANCE.search(gold)
    reading = _read(clean(_TOLERANCE.sub("", gold)))
    return reading, Fraction(tolerance[1]) if tolerance else None


def _with_bare_unit(answer: Reading) -> Reading:
    """``5 cm`` as a number: only where gold is one, so that no symbol of an expression is lost."""
    value, unit = split_unit(answer.value, bare=True)
    number = parse_number(value) if unit and answer.number is None else None
    return answer if number is None else Reading(answer.text, answer.name, value, unit, _scaled(number, unit))


def _scaled(number: Number, unit: str) -> Number:
    r"""``5\text{ million}``, whose unit is none."""
    factor = next((size for word, size in _SCALES.items() if word in unit), 1)
    return Number(number.value * factor, number.style, number.percent)


def _equal(gold_text: str, answer: Reading) -> bool:
    gold, tolerance = _read_gold(gold_text)
    if _look(answer.text) == _look(gold.text):
        return True
    if _needs_names(gold, answer):
        return _equal_parsed(gold_text, gold.text, answer.text, None)
    if gold.number is not None:
        answer = _with_bare_unit(answer)
    factor = conversion(gold.unit, answer.unit) if gold.unit and answer.unit else Fraction(1)
    if factor is None:
        return False
    if gold.number is not None and answer.number is not None:
        number = Number(answer.number.value * factor, answer.number.style, answer.number.percent)
        return numbers_equal(gold.number, number, tolerance)
    if factor == 1 and same_look(answer.value) == same_look(gold.value):
        return True
    verdict = _equal_words(gold_text, gold, answer)
    verdict = _equal_based(gold, answer) if verdict is None else verdict
    verdict = _equal_lists(gold, answer) if verdict is None else verdict
    if verdict is not None:
        return verdict
    if tolerance is None and _is_another_number(gold, answer, factor):
        return False
    value = answer.value if factor == 1 else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}({answer.value})"
    if "\\ln" in gold.value:
        value = _LOG.sub(r"\\ln", value)
    return _equal_parsed(gold_text, gold.value, value, tolerance)


def _is_another_number(gold: Reading, answer: Reading, factor: Fraction) -> bool:
    """Is the answer a number, and gold one far from it, or no number at all? Cheap: the answer is not parsed."""
    if answer.number is None or answer.number.percent or not (expected := _parse_gold(gold.value)):
        return False
    value = answer.number.value * factor
    number = Rational(value.numerator, value.denominator)
    distance = _relative_distance(expected[0], number)
    if distance is None:
        values = _gold_values(gold.value)
        return bool(values) and all(abs(each - number) > CONSTANT_TOLERANCE * abs(each) for each in values)
    return distance > CONSTANT_TOLERANCE


@lru_cache(maxsize=1024)
def _gold_values(gold: str) -> list[Any]:
    """Of an expression with variables, its values at two points; else nothing."""
    (expected, *_) = _parse_gold(gold)
    return (point_values(expected) or []) if isinstance(expected, Expr) else []


def _look(text: str) -> str:
    return same_look(_TEXT.sub(r"\1", text))


def _needs_names(gold: Reading, answer: Reading) -> bool:
    """Two different names, or a name here and another equation there: ``y=2x`` and ``2x-y=0``."""
    if gold.name is not None and answer.name is not None:
        return gold.name.casefold() != answer.name.casefold()
    named, other = (gold, answer) if gold.name is not None else (answer, gold)
    return named.name is not None and has_equals(other.text) and len(split_list(other.text)) == 1


def _equal_words(gold_text: str, gold: Reading, answer: Reading) -> bool | None:
    expected, given = _words(gold.text), _words(answer.text)
    return expected == given if expected is not None and given is not None and _is_wordy(gold_text) else None


def _is_wordy(gold_text: str) -> bool:
    """Gold is in words, or one bare word: letters in another order are another name."""
    return _TEXT.search(gold_text) is not None or _PROPER_NAME.fullmatch(gold_text.strip()) is not None


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
    except ValueError:  # a digit that the base does not have
        return None


def _equal_lists(gold: Reading, answer: Reading) -> bool | None:
    """Decided here: lists of numbers in any order, lists that look the same in another order, other repetitions."""
    expected, given = split_list(gold.text), split_list(answer.text)
    if len(expected) < 2:
        return None
    golds, answers = [_read(part) for part in expected], [_with_bare_unit(_read(part)) for part in given]
    if len(golds) == len(answers):
        named = {reading.name: reading for reading in golds}
        if len(named) == len(golds) > 1 and None not in named and {reading.name for reading in answers} == set(named):
            pairs = [(named[reading.name].text, reading) for reading in answers]
            return all(_equal(text, reading) for text, reading in pairs)
        if Counter(same_look(reading.value) for reading in golds) == Counter(same_look(a.value) for a in answers):
            return True
    numbers = [reading.number for reading in golds if reading.number is not None]
    votes = [reading.number for reading in answers if reading.number is not None]
    if len(numbers) < len(golds) or len(votes) < len(answers):
        return False if _repeats(golds) and len(golds) != len(answers) and not _is_single(golds, answers) else None
    if _is_single(golds, answers):
        return numbers_equal(numbers[0], votes[0])
    if len(numbers) != len(votes):
        return False
    in_order = zip(*(sorted(each, key=lambda number: number.value) for each in (numbers, votes)), strict=True)
    return all(numbers_equal(a, b) for a, b in in_order)


def _repeats(readings: list[Reading]) -> bool:
    return len({same_look(reading.value) for reading in readings}) < len(readings)


def _is_single(golds: list[Reading], answers: list[Reading]) -> bool:
    """One answer for several equal golds: both angles are 90 degrees."""
    return len(answers) == 1 and len({same_look(reading.value) for reading in golds}) == 1


def _equal_parsed(gold_text: str, gold: str, answer: str, tolerance: Fraction | None) -> bool:
    """As math-verify says, unless both are constants too far apart."""
    return _verified(gold_text, _parse_gold(gold), _parse_boxed(answer), tolerance)


def _verified(gold_text: str, expected: list[Any], parsed: list[Any], tolerance: Fraction | None = None) -> bool:
    if not expected or not parsed:
        return False
    distance = _relative_distance(expected[0], parsed[0])
    if distance is not None and tolerance is not None:
        return distance * abs(float(constant_value(expected[0]))) <= tolerance
    if distance is not None and (distance > CONSTANT_TOLERANCE or _SCIENTIFIC.search(gold_text)):
        return distance <= CONSTANT_TOLERANCE  # most answers: no need to simplify their difference
    if isinstance(expected[0], Eq) and isinstance(parsed[0], Eq):
        if same_equation(expected[0], parsed[0]):
            return True
        if len(expected[0].free_symbols) > MOST_SOLVED_SYMBOLS:
            return False
    if not verify(expected, parsed, allow_set_relation_comp=True, timeout_seconds=None):
        return distance is None and same_function(expected[0], parsed[0])
    return not is_contradiction(parsed[0])


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


def _stated(tail: str) -> str | None:
    """What stands after the last ``answer is`` of a completion without a box: a formula, numbers or one word."""
    if tags := _TAG.findall(tail):
        return tags[-1]
    found = list(_STATED.finditer(tail))
    if not found:
        return None
    formula, text = found[-1][1] or found[-1][2], found[-1][3]
    if formula is not None or _ONE_WORD.fullmatch(text):
        return formula or text
    return text if all(parse_number(part) is not None for part in split_list(clean(text))) else None


def _grade_tail(tail: str, gold_text: str) -> tuple[Status, str | None]:
    """A completion without a box: what math-verify finds in its end."""
    parsed = parse(_DENIED.sub("not", tail), _ANYWHERE, parsing_timeout=None)
    if not parsed:
        return "unparsed", None
    gold, tolerance = _read_gold(gold_text)
    if _verified(gold_text, _parse_gold(gold.value), parsed, tolerance):
        return "pass", _gold_answer(gold_text)
    return "fail", plain_answer(canonical(parsed[0]))


def _parse_boxed(answer: str) -> list[Any]:
    for pattern, replacement in _SYMBOLS:
        answer = pattern.sub(replacement, answer)
    parsed = parse(f"$\\boxed{{{answer}}}$", _BOXED_ONLY, parsing_timeout=None)
    return [each for each in parsed if not (isinstance(each, Basic) and each.has(zoo, nan))]


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> list[Any]:
    return _parse_boxed(gold)


def _constant(reading: Reading) -> Any:
    parsed = _parse_boxed(reading.value)
    return parsed[0] if parsed else None


@lru_cache(maxsize=1024)
def _gold_answer(gold_text: str) -> str:
    return _vote(_read_gold(gold_text)[0], gold_text)


def _vote(answer: Reading, gold_text: str) -> str:
    """What stands for this answer in a majority vote."""
    if answer.number is not None:
        return plain_answer(answer.number.vote)
    words = _words(answer.text) if _is_wordy(gold_text) else None
    if words is not None:
        return plain_answer(words)
    based = parse_based(answer.value)
    if based is not None:
        return plain_answer(f"{based[0]}_{based[1]}")
    numbers = [_read(part).number for part in split_list(answer.text)]
    if len(numbers) > 1 and None not in numbers:
        return plain_answer(f"{{{','.join(sorted(number.vote for number in numbers if number))}}}")
    parsed = _parse_boxed(answer.value)
    return plain_answer(canonical(parsed[0]) if parsed else answer.text)


def _is_long(answer: str, gold_text: str) -> bool:
    return len(answer) > max(MAX_PARSED_CHARACTERS, 2 * len(gold_text))


def _words(latex: str) -> str | None:
    r"""The casefolded words that the whole answer is, bare or in ``\text{}``, else None."""
    match = _WORDS.fullmatch(_TEXT.sub(r"\1", latex).strip())
    return match[1].casefold() if match else None
