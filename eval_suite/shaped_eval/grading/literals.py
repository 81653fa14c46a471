r"""Reads numbers as models write them, and compares them exactly.

Examples are ``1,000``, ``$18.50``, ``.5``, ``-3/4``, ``1\frac{1}{2}``, ``4.5\times10^{33}``,
``62.5\%``, and digits with a base, ``52_8``. Most answers of the mathematics benchmarks are such
literals. They are compared as fractions, which is cheap and avoids the pitfalls of floating-point
and symbolic comparison. The parsers return None for anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

MAX_LITERAL_CHARACTERS = 400
DECIMAL_ABSOLUTE_TOLERANCE = Fraction(5, 10**7)
RELATIVE_TOLERANCE = Fraction(1, 10**4)
SIGNIFICANT_DIGITS = 12
LARGEST_DENOMINATOR = 1000

_DECIMAL = r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_EXPONENT = r"[+-]?\d{1,3}"
_PLAIN = re.compile(_DECIMAL)
_RATIO = re.compile(rf"({_DECIMAL})/({_DECIMAL})")
_FRAC = re.compile(rf"([+-]?)\\[dtc]?frac(?:\{{({_DECIMAL})\}}|(\d))(?:\{{({_DECIMAL})\}}|(\d))")
_MIXED = re.compile(
    r"([+-]?)(\d+)(?:\\[dtc]?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))| (\d+)/(\d+))"
)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar)(?:\{(\d+)\}|(\d))")
_E_NOTATION = re.compile(rf"({_DECIMAL})[eE]({_EXPONENT})")
_TIMES_TEN = re.compile(
    rf"(?:({_DECIMAL})(?:\\times|\\cdot|[×·*]))?([+-]?)10\^(?:\{{({_EXPONENT})\}}|({_EXPONENT}))"
)
_DECORATION = re.compile(r"\\[!,;:$]|\$")
_FINAL = re.compile(r"(?<![.,;])[.,;]$")
_LIST_COMMA = re.compile(r",(?:\s|\\[,;: ])|\s,")  # a thousands separator has no space
# not between digits, where a space may separate two numbers, as in 1 1/2
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


@dataclass(frozen=True)
class Number:
    """A literal's exact value, and how it was written, which determines the tolerance."""

    value: Fraction
    style: Literal["exact", "decimal", "scientific"]
    percent: bool = False  # `value` is then the number before the percent sign

    @property
    def vote(self) -> str:
        """The string that stands for all equal numbers."""
        return str(simplest(self.value / 100 if self.percent else self.value))


def simplest(value: Fraction) -> Fraction:
    """The simple fraction that equals `value` to 12 digits, or `value` itself.

    For example, 9999.857142857143 is 69999/7.
    """
    simple = value.limit_denominator(LARGEST_DENOMINATOR)
    return (
        simple if abs(value - simple) <= abs(value) * Fraction(1, 10**SIGNIFICANT_DIGITS) else value
    )


def parse_number(text: str) -> Number | None:
    """The number that the whole `text` is, or None.

    A currency sign and final punctuation are ignored.
    """
    text = text.strip().removesuffix(",").replace("−", "-").replace("–", "-")
    if (
        len(text) > MAX_LITERAL_CHARACTERS
        or not text.isascii()
        or _LIST_COMMA.search(text)
        or "~~" in text
    ):
        return None
    text = _DECORATION.sub("", text).replace("{,}", ",").replace("\\ ", " ").replace("~", " ")
    text = _FINAL.sub("", _SPACE.sub("", text))
    if text.endswith("%"):
        number = parse_number(text[:-1].removesuffix("\\"))
        return None if number is None or number.percent else replace(number, percent=True)
    if _PLAIN.fullmatch(text):
        return Number(_fraction(text), "decimal" if "." in text else "exact")
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    if (match := _MIXED.fullmatch(text)) and (mixed := _mixed(*match.groups())):
        return mixed
    if match := _RATIO.fullmatch(text):
        return _quotient("", *match.groups())
    if match := _FRAC.fullmatch(text):
        return _quotient(match[1], match[2] or match[3], match[4] or match[5])
    if match := _E_NOTATION.fullmatch(text):
        return Number(_fraction(match[1]) * Fraction(10) ** int(match[2]), "scientific")
    if match := _TIMES_TEN.fullmatch(text):
        factor = _fraction(match[1] or "1") * (-1 if match[2] == "-" else 1)
        style: Literal["exact", "scientific"] = "scientific" if match[1] else "exact"
        return Number(factor * Fraction(10) ** int(match[3] or match[4]), style)
    return None


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").rstrip("."))


def _repeating(sign: str, whole: str, digits: str, *periods: str | None) -> Number:
    r"""``0.1\overline{6}`` is (16 − 1)/90."""
    before, period = f"0{whole}{digits}", next(digits for digits in periods if digits)
    value = Fraction(
        int(before + period) - int(before), 10 ** len(digits) * (10 ** len(period) - 1)
    )
    return Number(-value if sign == "-" else value, "exact")


def _mixed(sign: str, whole: str, *parts: str | None) -> Number | None:
    """A mixed number such as ``1 1/2``, or None if the fraction is not below 1.

    In ``4 000/3``, a quotient with a thousands separator, it is not.
    """
    top, bottom = (digits for digits in parts if digits)
    if int(top) >= int(bottom):
        return None
    return Number(
        (int(whole) + Fraction(int(top), int(bottom))) * (-1 if sign == "-" else 1), "exact"
    )


def _quotient(sign: str, numerator: str, denominator: str) -> Number | None:
    bottom = _fraction(denominator)
    if bottom == 0:
        return None
    value = _fraction(numerator) / bottom
    style: Literal["exact", "decimal"] = "decimal" if "." in numerator + denominator else "exact"
    return Number(-value if sign == "-" else value, style)


def numbers_equal(gold: Number, answer: Number, tolerance: Fraction | None = None) -> bool:
    """Whether the numbers are equal exactly, or within the precision that their notation implies.

    In scientific notation (with a gold that is not exact), the tolerance is relative 1e-4. With a
    decimal on either side, it is 6 decimals, as in math-verify, but never looser than relative
    1e-4, so that tiny numbers do not all equal each other. An absolute `tolerance` of the gold
    replaces these. A percentage equals both the number before its sign, for questions that ask for
    per cent, and a hundredth of it.
    """
    pairs = [(gold.value, answer.value, tolerance)]
    if gold.percent and not answer.percent:
        pairs.append((gold.value / 100, answer.value, tolerance and tolerance / 100))
    elif answer.percent and not gold.percent:
        pairs.append((gold.value, answer.value / 100, tolerance))
    return any(abs(a - b) <= _allowed(a, gold.style, answer.style, own) for a, b, own in pairs)


def _allowed(value: Fraction, gold: str, answer: str, tolerance: Fraction | None) -> Fraction:
    if tolerance is not None:
        return tolerance
    relative = RELATIVE_TOLERANCE * abs(value)
    if gold == "scientific" or (gold == "decimal" and answer == "scientific"):
        return relative
    if gold == "exact" and answer == "exact":
        return Fraction(0)
    return min(DECIMAL_ABSOLUTE_TOLERANCE, relative)


_BASE_NAMES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "sixteen": 16,
}
_BASED = re.compile(
    r"\(?\s*(\d[\dA-Fa-f]*)\s*\)?\s*_\s*\{?\s*(?:\\(?:text|mathrm)\{)?\s*\(?(?:base\s*)?(\d+"
    r"|[a-z]+)\)?\s*\}{0,2}"
)


def parse_based(text: str) -> tuple[str, int] | None:
    r"""Digits and their base, or None if the text is anything else.

    Examples are ``52_8``, ``52_{8}``, ``(52)_8`` and ``52_{\text{eight}}``.
    """
    match = _BASED.fullmatch(text.strip())
    if match is None or not (match[2].isdecimal() or match[2] in _BASE_NAMES):
        return None
    return match[1].upper(), _BASE_NAMES.get(match[2]) or int(match[2])
