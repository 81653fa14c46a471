"""Numbers that know where they stand in a quote.

Their formatted text is enclosed in marks, by which `pages.py` tells computed numbers from the words
around them. Negative numbers have the typographic minus sign, as the pages do.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass

START, END = "\x02", "\x03"  # never part of a page


def rounded(value: float, spec: str) -> str:
    """A number as a person rounds the one in the record: 1.095 to 1.10, and 0.5 to 1."""
    with decimal.localcontext(rounding=decimal.ROUND_HALF_UP):
        return format(decimal.Decimal(repr(float(value))), spec).replace("-", "−")


def marked(text: str) -> str:
    """A computed piece of a quote: a number, or a word such as a date, a commit or a verdict."""
    return f"{START}{text}{END}"


class Number(float):
    """A computed number. `f"{Number(2151):,.0f}"` is 2,151, marked as computed."""

    def __format__(self, spec: str) -> str:
        return marked(rounded(self, spec or ".0f"))


@dataclass(frozen=True)
class Interval:
    """A computed number with its interval.

    `f"{x:+.1f}"` is its value and `f"{x:[.1f]}"` its interval, both marked as computed.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        if not spec.startswith("["):
            return marked(rounded(self.value, spec))
        low, high = (rounded(end, spec[1:-1]) for end in (self.low, self.high))
        return marked(f"[{low}, {high}]")

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)
