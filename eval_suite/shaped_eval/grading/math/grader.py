r"""Mathematics: grades the boxed answer against gold.

math-verify compares them, behind a grammar, exact comparison of numbers, and two checks that
withdraw a pass.

**What the answer is.** Reasoning in ``<think>`` tags is dropped. The last box counts; consecutive
boxes with only commas or "and" between them are one list. A box does not count if the text denies
it ("is not"), alters it ("twice", a minus sign before it) or takes it back afterwards ("sorry, that
is wrong"). Without a box, the last sentence counts if it states an answer in one of the forms of
`unboxed`. Nothing else is searched in a text without a box.

**What an answer may contain** (`vocabulary`, `units`). Besides the mathematics, it may contain the
words of gold, a name before an equals sign, a listed unit, counted thing or number word after a
value, and a few harmless words before it ("the answer is"). Any other word, command or mark makes
the answer wrong, wherever it stands: nothing is dropped because it is unknown. A hedged or revoked
answer is therefore never right. Upright i, e and d are constants. Commas without a space, in groups
of three digits, separate thousands; commas with a space separate a list, and so do all commas if
gold is a list.

**What an answer must have worked out** (`vocabulary`, `unfinished`). The parser would evaluate a
copy of the question and find it right. So an answer may have numbers, arithmetic, powers, roots,
factorials, binomials, absolute values and elementary functions. It may have another operation (a
sum, product, integral, limit, derivative, determinant, gcd, lcm, maximum, minimum, floor, ceiling,
remainder, intersection, or value at a point) only if gold has the same, or before the equals sign
of the value that it states. An equation or inequality must be solved for its unknown if gold is.
Arithmetic is not refused, so a question that asks for no more than arithmetic is still answered by
its own formula: the audit of a reward measures how often.

**Departures from calling math-verify on the whole completion**, each because of a measured fault:

* Gold and answer are brought into one form (`latex.clean`) and read as ``$\boxed{...}$``.
  Otherwise golds of OlympiadBench fail to match themselves.
* A name before an equals sign is split off: ``N=n`` is compared as n. math-verify reads it as the
  true statement n = n, and passes ``N=n+1``. Two different names are compared with their equations.
* Words are compared as text. A bare ``Evelyn`` is otherwise a product of seven symbols.
* Numbers are compared as exact fractions, with a relative tolerance in scientific notation.
  math-verify reads ``4.5e33`` as 4.5·e·33, and takes 1.6e-19 for 9.1e-31.
* A trailing unit is converted if gold also has one (`units`). A letter after a number is not a unit
  if it may be a symbol, as in ``6m``.
* Digits with a base are compared as such. math-verify takes 52 in base 9 for 52 in base 8.
* Lists of numbers are compared with their repetitions, which math-verify drops.
* A pass is withdrawn if both sides are constants that differ by more than a relative 1e-4 (1/2^99
  and 1/2^98), if the answer equates unequal constants (``3=7`` for 7), or if it is an inequality
  and gold is a value.
* Either side of ``A \approx B`` may be gold, but only if the sides are close to each other.
* Expressions that math-verify cannot transform into each other are equal if their values are, at
  three points with positive symbols (``sinh`` and exponentials; ``2r\sqrt{\pi}`` and
  ``\sqrt{4\pi r^2}``).
* Equations are equal if one is a multiple of the other at those points. math-verify, which solves
  equations, is used only for those in one or two symbols.
* A boxed answer of more than 2,000 characters (and twice gold's) is compared only as text.

A gold may end in ``\tolerance{1e-1}``, the absolute tolerance of its number.

An answer that cannot be parsed or compared, or on which the parser fails, is a fail, so a policy
gains nothing by it. Only a gold that does not equal itself is an error.

This module runs untrusted text through a computer algebra system without any time limit. Call it
through `GraderPool`, which limits time and memory from outside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sympy import Expr

from shaped_eval.grading.extract import ANSWER_CHARACTERS, boxed_or_tail, last_boxed, plain_answer
from shaped_eval.grading.literals import parse_based
from shaped_eval.grading.math.canonical import canonical
from shaped_eval.grading.math.equality import equal, relative_distance
from shaped_eval.grading.math.fingerprint import point_values
from shaped_eval.grading.math.latex import clean, split_list, split_name
from shaped_eval.grading.math.parsing import parse_boxed
from shaped_eval.grading.math.reading import (
    TOLERANCE,
    Reading,
    is_wordy,
    read,
    read_gold,
    unreadable,
    words,
)
from shaped_eval.grading.math.unboxed import stated
from shaped_eval.records import Status

MAX_PARSED_CHARACTERS = 2_000
ROUNDING = 1e-2  # largest relative difference between the two sides of an approximation


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion, or what `boxed_or_tail` left of it, against `gold` (LaTeX without a box).

    Time and memory are not limited here: see `GraderPool`. An answer on which the algebra system
    fails is wrong.

    Raises:
        Exception: gold itself cannot be graded, whatever the answer is.
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
    if any(equal(gold, answer) for answer in answers):
        return "pass", right
    if boxed is None and unreadable(answers[0], gold):
        return "unparsed", None
    vote = _vote(answers[0], gold)
    # a wrong answer, such as one with another unit, must not share gold's vote
    return "fail", vote if vote != right else f"not gold: {plain_answer(answers[0].text)}"


@lru_cache(maxsize=1024)
def _equals_itself(gold: str) -> bool:
    try:
        return _grade(f"\\boxed{{{gold}}}", gold)[0] == "pass"
    except Exception:
        return False


def _candidates(text: str) -> list[Reading]:
    r"""The answer; of ``A \approx B`` both sides, if they are close to each other.

    Otherwise it is the whole text, which is then wrong.
    """
    left, found, right = text.partition(r"\approx")
    if not found:
        return [read(text)]
    if split_name(f"{left}={right}")[0] is not None:
        return [read(f"{left}={right}")]
    first, second = read(left.strip()), read(right.strip())
    return [first, second] if _are_close(first, second) else [read(text)]


def _are_close(first: Reading, second: Reading) -> bool:
    """Whether two values, or two expressions at two points, agree after rounding."""
    one, other = _constant(first), _constant(second)
    distance = relative_distance(one, other)
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


def _constant(reading: Reading) -> Any:
    parsed = parse_boxed(reading.value)
    return parsed[0] if parsed else None


@lru_cache(maxsize=1024)
def _gold_answer(gold_text: str) -> str:
    return _vote(read_gold(gold_text)[0], gold_text)


def _vote(answer: Reading, gold_text: str) -> str:
    """The string that stands for this answer in a majority vote."""
    if answer.number is not None:
        return plain_answer(answer.number.vote)
    spelled = words(answer.text) if is_wordy(gold_text) else None
    if spelled is not None:
        return plain_answer(spelled)
    based = parse_based(answer.value)
    if based is not None:
        return plain_answer(f"{based[0]}_{based[1]}")
    numbers = [read(part).number for part in split_list(answer.text)]
    if len(numbers) > 1 and None not in numbers:
        votes = sorted(number.vote for number in numbers if number)
        return plain_answer(votes[0] if votes[0] == votes[-1] else f"{{{','.join(votes)}}}")
    parsed = [] if unreadable(answer, gold_text) else parse_boxed(answer.value)
    return plain_answer(canonical(parsed[0]) if parsed else answer.text)


def _is_long(answer: str, gold_text: str) -> bool:
    return len(answer) > max(MAX_PARSED_CHARACTERS, 2 * len(gold_text))
