r"""Takes an answer apart into name, value and unit, and checks whether it can be read.

``x = 5\text{ cm}`` has the name x, the value 5 and the unit cm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from shaped_eval.grading.literals import Number, parse_based, parse_number
from shaped_eval.grading.math.latex import clean, has_equals, split_list, split_name
from shaped_eval.grading.math.units import scale, split_unit
from shaped_eval.grading.math.vocabulary import foreign, is_name, symbols

TOLERANCE = re.compile(r"\\tolerance\{([^{}]*)\}\s*$")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\{([^{}]*)\}")
_WORDS = re.compile(r"(?:(?:the|an?) )?\(?([A-Za-z]+(?:[ '-][A-Za-z]+)*)\)?\.?", re.IGNORECASE)
_PROPER_NAME = re.compile(r"[A-Za-z]{5,}")
_PARENTHESES = re.compile(r"\(([^(),]*)\)")
_THOUSAND = re.compile(r"\d[KM]$")  # 5K may be 5000
_RESIDUE = re.compile(
    r"(?:[A-Za-z]\s*\\equiv\s*)?(-?\d{1,300})\s*\(?\s*(?:\\[bp]?mod(?![A-Za-z])"
    r"|\\text\{\s*\(?mod\s*\}|\bmod\b)\s*\{?\s*(\d{1,300})\s*\}?\s*\)?"
)


@dataclass(frozen=True)
class Reading:
    """Cleaned text and its parts: name before an equals sign, value, unit, and number if any."""

    text: str
    name: str | None
    value: str
    unit: str
    number: Number | None


@lru_cache(maxsize=1024)
def read(text: str) -> Reading:
    """Take cleaned text apart. Bare words are units only after a number: see `with_bare_unit`."""
    name, whole = split_name(text)
    value, unit = split_unit(whole, bare=False)
    number = parse_number(whole) or parse_number(value) or _residue(whole)
    if number is None and (inner := _PARENTHESES.fullmatch(value)):
        return replace(read(inner[1]), text=text, name=name)
    return _scaled(Reading(text, name, value, unit, number))


@lru_cache(maxsize=1024)
def read_gold(gold: str) -> tuple[Reading, Fraction | None]:
    """A gold and the absolute tolerance that it states, if any.

    Any words after the gold's number are its unit.
    """
    tolerance = TOLERANCE.search(gold)
    reading = read(clean(TOLERANCE.sub("", gold)))
    if reading.number is None:
        value, unit = split_unit(reading.value, bare=True, known=False)
        number = parse_number(value)
        if number is not None and len(unit) > 1:  # the m in 6m may be a symbol
            reading = _scaled(replace(reading, value=value, unit=unit, number=number))
    return reading, Fraction(tolerance[1]) if tolerance else None


def with_bare_unit(answer: Reading, gold: Reading) -> Reading:
    r"""The answer without a unit outside of ``\text{}``, as in ``5 cm`` and ``3\pi cm``.

    A letter of gold is never a unit, nor is a single letter after a formula.
    """
    value, unit = split_unit(answer.value, bare=True)
    if not unit or answer.number is not None or _THOUSAND.search(answer.value):
        return answer
    number = parse_number(value)
    if gold.number is None or number is None:
        letters = set(re.findall(r"[A-Za-z]", unit))
        if (number is None and (len(letters) == 1 or answer.unit)) or letters & symbols(gold.value):
            return answer
    return _scaled(replace(answer, value=value, unit=unit, number=number))


def _scaled(reading: Reading) -> Reading:
    r"""The reading with a number word such as ``5\text{ million}`` multiplied out."""
    factor = scale(reading.unit)
    if factor == 1:
        return reading
    number = reading.number
    scaled = None if number is None else Number(number.value * factor, number.style, number.percent)
    return replace(reading, value=f"{factor}({reading.value})", number=scaled)


def _residue(text: str) -> Number | None:
    r"""``5 \bmod 7``, ``5 \pmod 7`` and, in a gold, ``12 \pmod 7`` as 5, the remainder."""
    match = _RESIDUE.fullmatch(text)
    if match is None or int(match[2]) == 0:
        return None
    return Number(Fraction(int(match[1]) % int(match[2])), "exact")


def _is_left_to_divide(text: str) -> bool:
    """Whether this is a remainder that has not been worked out, such as 12 mod 7 for 5."""
    match = _RESIDUE.fullmatch(text)
    return match is not None and int(match[1]) not in range(int(match[2]))


def unreadable(answer: Reading, gold_text: str) -> str | None:
    """The part of an answer that is neither mathematics, nor a unit, nor in gold, or None.

    What is left to be worked out is not mathematics here, unless gold has the same: see
    `vocabulary`.
    """
    gold, _ = read_gold(gold_text)
    parts = (
        [answer] if answer.number is not None else [read(part) for part in split_list(answer.text)]
    )
    for part in parts:
        if _is_left_to_divide(part.value) and not _RESIDUE.search(gold.text):
            return part.value
        if len(parts) > 1 and has_equals(part.value) and not has_equals(gold.text):
            return part.value
        if part.name is not None and part.name != gold.name and not is_name(part.name):
            return part.name
        if len(parts) == 1 and parse_based(part.value) is not None:
            continue
        reading = with_bare_unit(part, gold)
        if reading.number is None and (strange := _strange(reading.value, gold)):
            return strange
    return None


def _strange(value: str, gold: Reading) -> str | None:
    """As `foreign`, but names may stand before an equals sign if gold has none.

    An example is ``|\\vec{v}| = 5``.
    """
    named, equals, last = value.rpartition("=")
    if not equals or has_equals(gold.text):
        return foreign(value, gold.text)
    strange = foreign(named, gold.text, naming=True)
    return strange if strange or parse_based(last) else foreign(last, gold.text)


def words(latex: str) -> str | None:
    r"""The casefolded words that the whole answer consists of, without an article, or None.

    The words may be bare or in ``\text{}``.
    """
    match = _WORDS.fullmatch(_TEXT.sub(r"\1", latex).strip())
    return match[1].casefold() if match else None


def is_wordy(gold_text: str) -> bool:
    """Whether gold is in words, or is one bare word.

    Letters in another order are then another name, not the same product.
    """
    return (
        _TEXT.search(gold_text) is not None or _PROPER_NAME.fullmatch(gold_text.strip()) is not None
    )


def without_text_commands(latex: str) -> str:
    """The text with the words of text commands bare."""
    return _TEXT.sub(r"\1", latex)
