r"""Numbers as models write them: ``1,000``, ``$18.50``, ``.5``, ``-3/4``, ``1\frac{1}{2}``,
``4.5\times10^{33}``.

Most answers of the mathematics benchmarks are such literals. They are compared exactly, as fractions, which
is cheap and free of the traps of floating point and symbolic comparison. Whatever is not a literal is None
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_LITERAL_CHARACTERS = 400
DECIMAL_ABSOLUTE_TOLERANCE = Fraction(5, 10**7)
RELATIVE_TOLERANCE = Fraction(1, 10**4)

_DECIMAL = r"[+-]?(?:(?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_EXPONENT = r"[+-]?\d{1,3}"
_PLAIN = re.compile(_DECIMAL)
_RATIO = re.compile(rf"({_DECIMAL})/({_DECIMAL})")
_FRAC = re.compile(rf"([+-]?)\\[dt]?frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}")
_MIXED = re.compile(r"([+-]?)(\d+)(?:\\[dt]?frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")
_E_NOTATION = re.compile(rf"({_DECIMAL})[eE]({_EXPONENT})")
_TIMES_TEN = re.compile(rf"(?:({_DECIMAL})(?:\\times|\\cdot|[×·*]))?([+-]?)10\^(?:\{{({_EXPONENT})\}}|({_EXPONENT}))")
_DECORATION = re.compile(r"\\[!,;:$]|\$")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # a space between digits may part two numbers, as in 1 1/2


@dataclass(frozen=True)
class Number:
    """A literal's exact value, and how it was written, which sets the tolerance."""

    value: Fraction
    style: Literal["exact", "decimal", "scientific"]


def parse_number(text: str) -> Number | None:
    """The number that `text` as a whole is, or None. A currency sign and final punctuation are ignored."""
    if len(text) > MAX_LITERAL_CHARACTERS:
        return None
    text = _DECORATION.sub("", text).replace("{,}", ",").replace("−", "-").replace("\\ ", " ").replace("~", " ")
    text = _SPACE.sub("", text).rstrip(".,;")
    if _PLAIN.fullmatch(text):
        return Number(_fraction(text), "decimal" if "." in text else "exact")
    if match := _RATIO.fullmatch(text):
        return _quotient("", *match.groups())
    if match := _FRAC.fullmatch(text):
        return _quotient(*match.groups())
    if match := _MIXED.fullmatch(text):
        sign, whole, *parts = match.groups()
        part = _quotient("", *[digits for digits in parts if digits])
        return part and Number((int(whole) + part.value) * (-1 if sign == "-" else 1), "exact")
    if match := _E_NOTATION.fullmatch(text):
        return Number(_fraction(match[1]) * Fraction(10) ** int(match[2]), "scientific")
    if match := _TIMES_TEN.fullmatch(text):
        factor = _fraction(match[1] or "1") * (-1 if match[2] == "-" else 1)
        style: Literal["exact", "scientific"] = "scientific" if match[1] else "exact"
        return Number(factor * Fraction(10) ** int(match[3] or match[4]), style)
    return None


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").replace(" ", "").rstrip("."))


def _quotient(sign: str, numerator: str, denominator: str) -> Number | None:
    bottom = _fraction(denominator)
    if bottom == 0:
        return None
    value = _fraction(numerator) / bottom
    style: Literal["exact", "decimal"] = "decimal" if "." in numerator + denominator else "exact"
    return Number(-value if sign == "-" else value, style)


def numbers_equal(gold: Number, answer: Number) -> bool:
    """Equal exactly, or to the precision of the way they are written.

    Scientific notation (and a gold that is not exact): relative 1e-4. A decimal on either side: 6 decimals,
    as math-verify, but never looser than relative 1e-4, so that tiny numbers do not equal each other.
    """
    if gold.value == answer.value:
        return True
    distance = abs(gold.value - answer.value)
    relative = RELATIVE_TOLERANCE * abs(gold.value)
    if gold.style == "scientific" or (gold.style == "decimal" and answer.style == "scientific"):
        return distance <= relative
    if gold.style == "exact" and answer.style == "exact":
        return False
    return distance <= min(DECIMAL_ABSOLUTE_TOLERANCE, relative)
