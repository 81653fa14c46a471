r"""Units behind an answer: ``15\text{ cm}^2`` is the number 15 and a unit that compares with ``\text{mm}^2``.

Units count only where gold and answer both name one from this table: data sets mostly leave them out, and models
mostly do not. Any other words behind an answer are dropped.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter metre", "1/1000": "mm millimeter millimetre", "1/100": "cm centimeter centimetre",
        "1000": "km kilometer kilometre", "0.0254": "in inch inche", "0.3048": "ft foot feet", "0.9144": "yd yard",
        "1609.344": "mi mile",
    },
    "mass": {"1": "kg kilogram", "1/1000": "g gram", "1/1000000": "mg milligram"},
    "time": {"1": "s sec second", "60": "min minute", "3600": "h hr hour", "86400": "day", "1/1000": "ms millisecond"},
    "money": {"1": "cent ¢", "100": "dollar usd"},
    "angle": {"1": "degree deg"},
}  # fmt: skip
_UNITS = {
    name: (dimension, Fraction(factor))
    for dimension, factors in _TABLE.items()
    for factor, names in factors.items()
    for name in names.split()
}
_SPEEDS = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h"}
_GROUP = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mbox|hbox|operatorname)\s*\{[^{}]*\}"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d))?"
_IN_GROUPS = re.compile(rf"(?<=\S)\s*((?:{_GROUP}{_POWER}\s*(?:/|\\cdot|\\times)?\s*)+)$")
# bare words: whole words of three letters or more, and the short names of the table
_SHORT = "|".join(sorted((name for name in _UNITS if name.isascii() and len(name) < 3), key=len, reverse=True))
_WORD = rf"(?:[A-Za-z]{{3,}}|{_SHORT}|kg|Hz|eV|Pa|nm|mL|[JNWKVATCL])"
_BARE = re.compile(rf"(?<=[\d}}) ])\s*((?<![A-Za-z\\]){_WORD}{_POWER}(?:\s*[/ ]\s*{_WORD}{_POWER})*)$")
_TOKEN = re.compile(r"(/|per\b)?\s*(square|sq|cubic|cu)?\.?\s*([a-z¢]+)\s*(?:\^\s*\{?\s*(-?\d+)\s*\}?)?")


class Unit(NamedTuple):
    """What is measured, as powers of base quantities, and the factor to their base units."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction


def split_unit(text: str, *, bare: bool) -> tuple[str, str]:
    r"""Cleaned text as (what is measured, the words behind it or ""); with `bare`, also ``5 cm`` without ``\text{}``.

    Text that is nothing but words is no unit.
    """
    if text.endswith("^\\circ"):
        return text.removesuffix("^\\circ").strip(), "degree"
    match = _IN_GROUPS.search(text) or (_BARE.search(text) if bare else None)
    if match is None or not re.search(r"[A-Za-z]", match[1]):
        return text, ""
    return text[: match.start()].strip(), match[1].strip()


@lru_cache(maxsize=1024)
def parse_unit(words: str) -> Unit | None:
    """The unit that these words name, None where the table lacks one of them."""
    text = re.sub(r"\\(?:cdot|times)|\\[A-Za-z]+\s*\{|[{}](?![\d-])", " ", words.lower()).strip()
    text = _SPEEDS.get(text, text)
    powers: dict[str, int] = {}
    factor, position = Fraction(1), 0
    for match in _TOKEN.finditer(text):
        name = match[3] if match[3] in _UNITS else match[3].removesuffix("s")
        if name not in _UNITS or text[position : match.start()].strip(" }"):
            return None
        power = int(match[4] or 1) * {"s": 2, "c": 3}.get((match[2] or " ")[0], 1) * (-1 if match[1] else 1)
        dimension, size = _UNITS[name]
        powers[dimension] = powers.get(dimension, 0) + power
        factor *= size**power
        position = match.end()
    if not powers or text[position:].strip(" }"):
        return None
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), factor)


def conversion(gold: str, answer: str) -> Fraction | None:
    """What an answer's number is multiplied by to be in gold's unit; 1 where either is not known; None: they clash."""
    expected, given = parse_unit(gold), parse_unit(answer)
    if expected is None or given is None:
        return Fraction(1)
    return given.factor / expected.factor if expected.dimensions == given.dimensions else None
