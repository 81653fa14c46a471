r"""Mathematics: is the boxed answer equal to gold? math-verify, behind a grammar, exact numbers and
two refutations.

What is the answer. Reasoning in ``<think>`` tags is dropped. The last box counts, and boxes that
follow each other with only commas or "and" between them are one list. A box that is denied ("is
not"), altered ("twice", a minus sign before it) or taken back afterwards ("sorry, that is wrong")
does not count. Without a box, the last sentence counts if it states an answer in one of the forms
of `unboxed`; nothing else in a text without a box is looked for.

What an answer may contain (`vocabulary`, `units`). Beside the mathematics: the words of gold; a
name before an equals sign; behind a value a listed unit, counted thing or number word; before it a
few harmless words ("the answer is"). Any other word, command or mark, wherever it stands, makes the
answer wrong: nothing is dropped because it is unknown. So a hedged or revoked answer is never
right. Upright i, e and d are constants. Commas without a space, in groups of three, part thousands;
with a space they part a list; where gold is a list, they part a list.

Departures from calling math-verify on the whole completion, each for a measured fault:

* gold and answer are brought into one writing (`latex.clean`) and read as ``$\boxed{...}$`` (golds
  of OlympiadBench otherwise fail to match themselves);
* a name before an equals sign is set apart: ``N=n`` is compared as n (math-verify reads it as n =
  n, true, and passes ``N=n+1``), and two different names are compared with all they say;
* words are compared as text (a bare ``Evelyn`` otherwise is a product of seven symbols);
* numbers are compared as exact fractions, scientific notation with a relative tolerance
  (math-verify reads ``4.5e33`` as 4.5·e·33, and takes 1.6e-19 for 9.1e-31);
* a trailing unit is converted where gold has one as well (`units`); a letter behind a number is no
  unit where it may be a symbol, as in ``6m``;
* digits with a base are compared as such (math-verify takes 52 in base 9 for 52 in base 8);
* lists of numbers are compared with their repetitions (math-verify drops these);
* a pass is withdrawn where both sides are constants that differ relatively by more than 1e-4
  (1/2^99 and 1/2^98), or where the answer is an equation between unequal constants (``3=7`` for 7),
  or an inequality where gold is a value;
* of ``A \approx B`` either may be gold, but only where they are close to each other;
* expressions that math-verify cannot turn into each other are equal where their values are, at
  three points with positive symbols (``sinh`` and exponentials; ``2r\sqrt{\pi}`` and ``\sqrt{4\pi
  r^2}``);
* equations are equal where one is a multiple of the other at those points; math-verify, which
  solves them, is asked about those in one or two symbols only;
* a boxed answer of more than 2,000 characters (and twice gold's) is compared as text alone.

A gold may end in ``\tolerance{1e-1}``: how far, absolutely, a number may be off.

An answer that cannot be parsed or compared, or on which the parser fails, is a fail: a policy gains
nothing by it. Only a gold that does not equal itself is an error.

This module runs untrusted text through a computer algebra system without any time limit: call it
through `GraderPool`, which limits time and memory from outside.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.grader import get_pct_val
from sympy import Basic, Eq, Expr, MatAdd, MatMul, Rational, nan, zoo

from shaped_eval.grading.extract import ANSWER_CHARACTERS, boxed_or_tail, last_boxed, plain_answer
from shaped_eval.grading.literals import Number, numbers_equal, parse_based
from shaped_eval.grading.math.canonical import (
    canonical,
    constant_value,
    is_contradiction,
    names_another_quantity,
    same_equation,
    same_function,
)
from shaped_eval.grading.math.fingerprint import point_values
from shaped_eval.grading.math.latex import clean, has_equals, same_look, split_list, split_name
from shaped_eval.grading.math.reading import (
    TOLERANCE,
    Reading,
    is_wordy,
    read,
    read_gold,
    unreadable,
    with_bare_unit,
    without_text_commands,
    words,
)
from shaped_eval.grading.math.unboxed import stated
from shaped_eval.grading.math.units import conversion
from shaped_eval.records import Status

MAX_PARSED_CHARACTERS = 2_000
CONSTANT_TOLERANCE = 1e-4
MOST_SOLVED_SYMBOLS = 2  # math-verify solves equations, which takes seconds where they have more
ROUNDING = 1e-2  # how far the two sides of an approximation may be apart, relatively
# math-verify's own clean-up, but for units: it takes the letter in 6m for one
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, nits=True)
_BOXED_ONLY = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALIZATION),)
_SCIENTIFIC = re.compile(r"\d[eE][+-]?\d|\\(?:times|cdot)\s*10\s*\^")
# what the parser takes for something else: e-notation, Euler's constant, Euler's number with an
# index, a real i
_SYMBOLS: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(r"(?<=\d)[eE]([+-]?\d{1,3})(?![\w.])"), r"\\times10^{\1}"),
    (re.compile(r"\\gamma(?![A-Za-z])"), r"\\varrho"),
    (
        re.compile(r"(\\[A-Za-z]+)|([Ee])(?=\s*_)"),
        lambda match: match[1] or rf"\mathcal{{{match[2]}}}",
    ),
    (re.compile(r"(?<=\d)i(?![A-Za-z])"), " i"),
    (re.compile(r"(?<![A-Za-z\\])([a-z])\s*(?=\([^()\[\]]*\]|\[[^()\[\]]*\))"), r"\1 \\in "),
]
# the parser's is to base 10; where gold has ln, it is natural
_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|leq|leqslant|lt|ge|geq|geqslant|gt|neq?)(?![A-Za-z])")
# math-verify warns that its own timeouts are off: they are, on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion (or what `boxed_or_tail` left of it) against `gold` (LaTeX, without a
    box).

    No limit on time or memory: see `GraderPool`. An answer that the algebra system fails on is
    wrong.

    Raises:
        Exception: gold itself cannot be graded, whatever the answer.
    """
    try:
        return _grade(completion, gold)
    # any fault of the parser or of sympy, MemoryError and RecursionError among them
    except Exception:
        if not _equals_itself(gold):
            raise
        return "fail", plain_answer(last_boxed(completion) or completion[-ANSWER_CHARACTERS:])


def _grade(completion: str, gold: str) -> tuple[Status, str | None]:
    deciding = boxed_or_tail(completion)
    boxed = last_boxed(deciding)
    text = stated(deciding) if boxed is None else boxed
    if text is None:
        return "unparsed", None
    text = " ".join(text.split())
    if _is_long(text, gold):
        return "fail", plain_answer(text)
    answers = _candidates(clean(TOLERANCE.sub("", text)))
    if not answers[0].text:
        return "unparsed", None
    right = _gold_answer(gold)
    if any(_equal(gold, answer) for answer in answers):
        return "pass", right
    if boxed is None and unreadable(answers[0], gold):
        return "unparsed", None
    vote = _vote(answers[0], gold)
    # such as another unit
    return "fail", vote if vote != right else f"not gold: {plain_answer(answers[0].text)}"


@lru_cache(maxsize=1024)
def _equals_itself(gold: str) -> bool:
    try:
        return _grade(f"\\boxed{{{gold}}}", gold)[0] == "pass"
    except Exception:
        return False


def _candidates(text: str) -> list[Reading]:
    r"""The answer; of ``A \approx B`` both where they are close to each other, else the whole,
    which is then wrong."""
    left, found, right = text.partition(r"\approx")
    if not found:
        return [read(text)]
    if split_name(f"{left}={right}")[0] is not None:
        return [read(f"{left}={right}")]
    first, second = read(left.strip()), read(right.strip())
    return [first, second] if _are_close(first, second) else [read(text)]


def _are_close(first: Reading, second: Reading) -> bool:
    """Whether two values, or two expressions at two points, round to each other."""
    one, other = _constant(first), _constant(second)
    distance = _relative_distance(one, other)
    if distance is not None:
        return distance <= ROUNDING
    if (
        not isinstance(one, Expr)
        or not isinstance(other, Expr)
        or one.free_symbols != other.free_symbols
    ):
        return False
    pairs = list(zip(point_values(one) or [], point_values(other) or [], strict=False))
    return bool(pairs) and all(abs(a - b) <= ROUNDING * abs(a) for a, b in pairs)


def _equal(gold_text: str, answer: Reading) -> bool:
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
    """Is the answer a number, and gold one far from it, or no number at all? Cheap: the answer is
    not parsed."""
    if answer.number is None or answer.number.percent or not (expected := _parse_gold(gold.value)):
        return False
    value = answer.number.value * factor
    number = Rational(value.numerator, value.denominator)
    distance = _relative_distance(expected[0], number)
    if distance is None:
        values = _gold_values(gold.value)
        return bool(values) and all(
            abs(each - number) > CONSTANT_TOLERANCE * abs(each) for each in values
        )
    return distance > CONSTANT_TOLERANCE


@lru_cache(maxsize=1024)
def _gold_values(gold: str) -> list[Any]:
    """Of an expression with variables, its values at two points; else nothing."""
    (expected, *_) = _parse_gold(gold)
    return (point_values(expected) or []) if isinstance(expected, Expr) else []


def _look(text: str) -> str:
    return same_look(without_text_commands(text))


def _needs_names(gold: Reading, answer: Reading) -> bool:
    """Two different names, or a name here and another equation there: ``y=2x`` and ``2x-y=0``."""
    if gold.name is not None and answer.name is not None:
        return gold.name.casefold() != answer.name.casefold()
    named, other = (gold, answer) if gold.name is not None else (answer, gold)
    return named.name is not None and has_equals(other.text) and len(split_list(other.text)) == 1


def _equal_words(gold_text: str, gold: Reading, answer: Reading) -> bool | None:
    """Decided here where gold is all in words: nothing else is equal to them."""
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
    except ValueError:  # a digit that the base does not have
        return None


def _equal_lists(gold: Reading, answer: Reading) -> bool | None:
    """Decided here: lists of numbers in any order, lists that look the same in another order, other
    repetitions."""
    expected, given = split_list(gold.text), split_list(answer.text)
    if len(expected) < 2:
        return None
    golds, answers = (
        [read(part) for part in expected],
        [with_bare_unit(read(part), gold) for part in given],
    )
    if len(golds) == len(answers):
        named = {reading.name: reading for reading in golds}
        if (
            len(named) == len(golds) > 1
            and None not in named
            and {reading.name for reading in answers} == set(named)
        ):
            pairs = [(named[reading.name].text, reading) for reading in answers]
            return all(_equal(text, reading) for text, reading in pairs)
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
    """One answer for several equal golds: both angles are 90 degrees."""
    return len(answers) == 1 and len({same_look(reading.value) for reading in golds}) == 1


def _equal_parsed(gold_text: str, gold: str, answer: str, tolerance: Fraction | None) -> bool:
    """As math-verify says, unless both are constants too far apart, or only the answer is an
    inequality."""
    expected = _parse_gold(gold)
    if not expected or (isinstance(expected[0], Expr) and _INEQUALITY.search(answer)):
        return False
    parsed = _parse_boxed(answer)
    return bool(parsed) and _verified(gold_text, expected, parsed, tolerance)


def _verified(
    gold_text: str, expected: list[Any], parsed: list[Any], tolerance: Fraction | None = None
) -> bool:
    if names_another_quantity(parsed[0]) and not isinstance(expected[0], Eq):
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
    """|a − b| / |a| of two constants (the smaller one where 9% is read as 9 or as 0.09), else
    None."""
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


def _parse_boxed(answer: str) -> list[Any]:
    for pattern, replacement in _SYMBOLS:
        answer = pattern.sub(replacement, answer)
    parsed = parse(f"$\\boxed{{{answer}}}$", _BOXED_ONLY, parsing_timeout=None)
    # sums and multiples of matrices are left undone, and nothing can compare these
    parsed = [each.doit() if isinstance(each, MatAdd | MatMul) else each for each in parsed]
    return [each for each in parsed if not (isinstance(each, Basic) and each.has(zoo, nan))]


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> list[Any]:
    return _parse_boxed(gold)


def _constant(reading: Reading) -> Any:
    parsed = _parse_boxed(reading.value)
    return parsed[0] if parsed else None


@lru_cache(maxsize=1024)
def _gold_answer(gold_text: str) -> str:
    return _vote(read_gold(gold_text)[0], gold_text)


def _vote(answer: Reading, gold_text: str) -> str:
    """What stands for this answer in a majority vote."""
    if answer.number is not None:
        return plain_answer(answer.number.vote)
    said = words(answer.text) if is_wordy(gold_text) else None
    if said is not None:
        return plain_answer(said)
    based = parse_based(answer.value)
    if based is not None:
        return plain_answer(f"{based[0]}_{based[1]}")
    numbers = [read(part).number for part in split_list(answer.text)]
    if len(numbers) > 1 and None not in numbers:
        votes = sorted(number.vote for number in numbers if number)
        return plain_answer(votes[0] if votes[0] == votes[-1] else f"{{{','.join(votes)}}}")
    parsed = [] if unreadable(answer, gold_text) else _parse_boxed(answer.value)
    return plain_answer(canonical(parsed[0]) if parsed else answer.text)


def _is_long(answer: str, gold_text: str) -> bool:
    return len(answer) > max(MAX_PARSED_CHARACTERS, 2 * len(gold_text))
