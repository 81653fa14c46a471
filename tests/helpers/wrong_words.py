"""Wrong writings made with words before or behind gold: see `wrong_families`."""

from __future__ import annotations

_LEADING_WORDS = (
    "negative",
    "minus",
    "half of",
    "twice",
    "double",
    "at least",
    "at most",
    "less than",
    "more than",
    "no more than",
    "fewer than",
    "anything but",
    "not",
    "never",
    "not equal to",
    "nowhere near",
    "about half of",
    "except",
    "everything except",
    "other than",
    "roughly",
    "maybe",
    "perhaps",
    "approximately minus",
    "the opposite of",
    "the inverse of",
    "one over",
    "the square root of",
    "the square of",
    "the factorial of",
    "ten times",
    "10 percent of",
    "two to the power of",
    "the complement of",
    "all real numbers but",
    "undefined, not",
    "either OTHER or",
    "between OTHER and",
    "OTHER plus",
    "OTHER minus",
    "OTHER, not",
    "OTHER instead of",
    "the sum of OTHER and",
    "up to",
    "some multiple of",
)
_TRAILING_WORDS = (
    "is wrong",
    "is not the answer",
    "is incorrect",
    "squared",
    "cubed",
    "or something else",
    "or OTHER",
    "or more",
    "or less",
    "and OTHER",
    "million",
    "thousand",
    "dozen",
    "hundredths",
    "tenths",
    "halves",
    "times OTHER",
    "times ten",
    "plus OTHER",
    "minus OTHER",
    "divided by two",
    "factorial",
    "to OTHER",
    "through OTHER",
    "instead of OTHER",
    "but actually OTHER",
    "was my first guess",
    "mod OTHER",
    "in base OTHER",
    "reversed",
    "inverted",
    "rounded up",
    "plus a constant",
    "if defined, else OTHER",
    "does not exist",
    "(false)",
    "(OTHER)",
    "percent of OTHER",
    "to the power of two",
    "less than OTHER",
    "and nothing is certain",
    "no",
)


def _words(words: tuple[str, ...], *, leading: bool) -> dict[str, str]:
    """Each inside of ``\\text{}`` and bare."""
    ways = {}
    for phrase in words:
        side = "before" if leading else "behind"
        ways[f"text {side}: {phrase}"] = (
            rf"\text{{{phrase} }} GOLD" if leading else rf"GOLD \text{{ {phrase}}}"
        )
        ways[f"bare {side}: {phrase}"] = f"{phrase} GOLD" if leading else f"GOLD {phrase}"
    return ways


WORDS = _words(_LEADING_WORDS, leading=True) | _words(_TRAILING_WORDS, leading=False)
