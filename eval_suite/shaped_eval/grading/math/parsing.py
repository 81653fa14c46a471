"""Parses cleaned answers with math-verify, after rewriting what its parser misreads.

Nothing here limits time or memory: call it through `GraderPool`.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from sympy import Basic, MatAdd, MatMul, nan, zoo

# math-verify's own clean-up, except for units: it would read the letter in 6m as a unit
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, nits=True)
_BOXED_ONLY = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALIZATION),)
# what the parser misreads: e-notation, Euler's constant, Euler's number with an index, the
# imaginary unit after a number, and membership in an interval
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
# math-verify warns that its own timeouts are off, which is intended.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def parse_boxed(answer: str) -> list[Any]:
    """The parsed forms of a cleaned answer; empty if it cannot be parsed or is not finite."""
    for pattern, replacement in _SYMBOLS:
        answer = pattern.sub(replacement, answer)
    parsed = parse(f"$\\boxed{{{answer}}}$", _BOXED_ONLY, parsing_timeout=None)
    # the parser leaves sums and multiples of matrices unevaluated, and they could not be compared
    parsed = [each.doit() if isinstance(each, MatAdd | MatMul) else each for each in parsed]
    return [each for each in parsed if not (isinstance(each, Basic) and each.has(zoo, nan))]


@lru_cache(maxsize=1024)
def parse_gold(gold: str) -> list[Any]:
    """`parse_boxed` of a gold, cached."""
    return parse_boxed(gold)
