r"""Rewrites an answer's LaTeX into one form, without changing its meaning.

Delimiters and fonts are removed, spacing commands become spaces, Unicode becomes LaTeX, and
``\text{ and }`` becomes a comma. Everything here is linear in the text and evaluates nothing.
"""

from __future__ import annotations

import re

from shaped_eval.grading.math.vocabulary import is_leading

_UNICODE = {
    "−": "-",
    "–": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": r"\div ",
    "∗": "*",
    "⁄": "/",
    "∕": "/",
    "°": r"^\circ ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "±": r"\pm ",
    "≈": r"\approx ",
    "ℝ": r"\mathbb{R}",
    "\u00a0": r"\,",
    "\u2009": r"\,",
    "\u202f": r"\,",
    "\u200b": "",
    "\ufeff": "",
    "\u2060": "",
    "′": "'",
    "¢": r"\text{ cents}",
    "€": "$",
    "£": "$",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
} | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width characters
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "varsigma sigma tau upsilon phi chi psi omega"
)
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
for _letters, _names in (("αβγδεζηθικλμνξοπρςστυφχψω", _GREEK), ("ΓΔΘΛΞΠΣΦΨΩ", _CAPITALS)):
    _UNICODE |= {
        letter: f"\\{name} " for letter, name in zip(_letters, _names.split(), strict=True)
    }
_UNICODE_TABLE = str.maketrans(_UNICODE)
# what needs more than one character: roots and powers
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\)|\{([^{}]*)\})")
_POWER = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FONT = r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathtt|mathnormal|pmb|underline|ensuremath)\s*\{"
_TEXT = r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mbox|hbox)\s*\{"
_WRAPPER = re.compile(rf"(?:{_FONT})|({_TEXT})")
# not a plain space, which separates two numbers, nor ", ", which separates a list
_THOUSANDS = r"(?:\{,\}|,\\!|\\,|\\ |~)"
_COLORS = "red|blue|green|black|orange|purple|brown|magenta|cyan|violet|teal"
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)\s*\\(?:mathrm|text)\{\s*[eE]\s*\}\s*(?=\d|[+-]\d{2})", "e"),
        # upright constants, which are not units
        (
            r"\\(?:mathrm|text|textrm|rm|operatorname)\s*(?:\{\s*([ied])\s*\}"
            r"|(?<=[a-z])\s+([ied])(?![A-Za-z]))",
            r" \1\2",
        ),
        (r"\\(?:mathrm|text|textrm)\s*\{\s*\\?pi\s*\}", r"\\pi "),
        (
            r"^\s*\\(?:text|textbf|textrm|mathrm)\{([^{}]*[\s:~])\}\s*(?=[-+\d.\\({\[$A-Za-z])",
            lambda match: "" if is_leading(match[1]) else match.group(),
        ),
        (rf"\\(?:color|textcolor)\s*\{{(?:{_COLORS})\}}", ""),
        (r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])\s*", ""),
        (r"^\s*(\*\*|`)\s*([^*`]*?)\s*\1\s*$", r"\2"),
        (r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|equation\*?)\}", " "),
        (r"&\s*=", "="),
        (r"\\text\{\s*,\s*\}", "{,}"),
        (r"(?<=\d)\s*\^\s*\{\s*\\(?:text|mathrm)\{\s*(?:st|nd|rd|th)\s*\}\s*\}\s*$", ""),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\[lr]angle(?![A-Za-z])", lambda match: "(" if match.group().startswith("\\l") else ")"),
        (r"\*\*\s*(?:\(\s*(-?\d+)\s*\)|(-?\d+))", lambda match: f"^{{{match[1] or match[2]}}}"),
        (
            r"(?<![A-Za-z\\])sqrt\s*(?:(\d+)|\(([^()]*)\))",
            lambda match: rf"\sqrt{{{match[1] or match[2]}}}",
        ),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (
            rf"(?<![\d.,])\d{{1,3}}(?:{_THOUSANDS}\d{{3}})+(?!\d)",
            lambda match: re.sub(r"\D", "", match.group()),
        ),
        (r"(?<!\\)\\[()\[\]$]|\$|(?<!\\)\\!\s*|\\(?:display|text|script)style(?![A-Za-z])", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s*", ""),
        (
            r"(?<!\\)\\[,;:> ]|(?<!~)~(?!~)|\\(?:quad|qquad|enspace|thinspace)(?![A-Za-z])"
            r"|[\t\n\r]",
            " ",
        ),
        (r"\{\s*,\s*\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (
            r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)(?![A-Za-z])"
            r"|\\degree(?![A-Za-z])",
            r"^\\circ",
        ),
        (r"(?<!\\)%", r"\\%"),
        (r"\s*(?:\\text\{\s*percent\s*\}|(?<![A-Za-z])percent(?![A-Za-z]))", r"\\%"),
        (
            r",?\s*(?:\\text(?:rm)?\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\{])(?:and"
            r"|or)(?![A-Za-z]))\s*",
            ", ",
        ),
        (r"(?<!\\)\s*;\s*", ", "),
        (r"\\(?:geqslant|geq)(?![A-Za-z])", r"\\ge"),
        (r"\\(?:leqslant|leq)(?![A-Za-z])", r"\\le"),
        (r"(?<=\d)\s*[xX*]\s*(?=10\s*\^)", r"\\times "),
        (r"\bnp\.(?=(?:arc)?(?:sin|cos|tan)|exp|log|sqrt|pi)", r"\\"),
    )
]
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_COUNTED = re.compile(r"\s*([-+]?[\d.,/]*\d)\s+([A-Za-z][^{}]*)")  # \text{5 apples}
_FINAL = re.compile(r"(?<![.\s])\s{0,9}[.,:]$")  # but "5..." may be more than 5
_LEADING = re.compile(r"\s*(?:\\(?:approx|therefore|implies|Rightarrow)(?![A-Za-z])|=)\s*")
# Spaces are needed between two letters, where a command may end, and between two digits, as in
# 1 1/2.
_NEEDLESS_SPACE = re.compile(
    r"(?<![A-Za-z\d])\s+|\s+(?![A-Za-z\d])|(?<=[A-Za-z])\s+(?=\d)|(?<=\d)\s+(?=[A-Za-z])"
)


def clean(text: str) -> str:
    """`text` in the unified form; empty if nothing is left."""
    text = _plain_characters(text).strip()
    while (inner := _BOX.match(text)) and closing(text, inner.end() - 1) == len(text) - 1:
        text = text[inner.end() : -1].strip()
    text = _unwrap(text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    if leading := _LEADING.match(text):
        text = text[leading.end() :]
    while True:
        bare = _FINAL.sub("", text.rstrip()).removesuffix("\\\\")
        bare = bare[1:-1].strip() if _closes_at_end(bare, "{", "}") else bare
        if bare == text:
            return text
        text = bare


def _plain_characters(text: str) -> str:
    r"""Unicode's mathematics as LaTeX: ``3√13`` becomes 3\sqrt{13}, and ``x¹⁰`` becomes x^{10}."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3] or ''}}}", text)
    text = _POWER.sub(lambda match: f"^{{{match.group().translate(_RAISED)}}}", text)
    return text.translate(_UNICODE_TABLE)


def _unwrap(text: str) -> str:
    r"""The text without fonts, and without ``\text{}`` around a number.

    ``\mathbf{5}`` becomes 5, and ``\text{4.5e33}`` becomes 4.5e33.
    """
    pieces = []
    position = 0
    while match := _WRAPPER.search(text, position):
        end = closing(text, match.end() - 1)
        if end is None:
            break
        content = text[match.end() : end]
        counted = _COUNTED.fullmatch(content)
        pieces.append(text[position : match.start()])
        if match[1] is None or _is_number_like(content):
            pieces.append(_unwrap(content))
        elif counted:
            pieces.append(f"{counted[1]}\\text{{ {counted[2]}}}")
        else:
            pieces.append(text[match.start() : end + 1])
        position = end + 1
    return "".join([*pieces, text[position:]])


def _is_number_like(content: str) -> bool:
    return re.search(r"\d", content) is not None and re.search(r"[A-Za-z]{2}", content) is None


def closing(text: str, start: int) -> int | None:
    """Position of the brace that closes the one at `start`, or None."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _closes_at_end(text: str, opening: str, ending: str) -> bool:
    return text.startswith(opening) and text.endswith(ending) and closing(text, 0) == len(text) - 1


def same_look(text: str) -> str:
    """Cleaned text without the spaces that no command needs."""
    return _NEEDLESS_SPACE.sub("", text)


def split_list(text: str) -> list[str]:
    r"""The parts between top-level commas of cleaned text: ``x=1, 2`` has two parts.

    The list may be enclosed in ``\{ \}``. A comma between digits also splits, so the caller must
    first check whether the whole text is one number, such as ``1,000``.
    """
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}") and text.find("\\}") == len(text) - 2:
        text = text[2:-2]
    parts = []
    depth = 0
    start = 0
    for match in re.finditer(r"\\[{}]|[\[({})\],]", text):
        mark = match.group()[-1]
        if mark == "," and depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
        elif mark in "[({":
            depth += 1
        elif mark != ",":
            depth = max(0, depth - 1)
    return [*parts, text[start:].strip()]


# a name, not an expression: letters, commands, primes and subscripts, then arguments; or a tuple of
# names
_SUB = r"(?:\s*_\s*(?:\{(?:[^{}]|\{[^{}]*\}){0,40}\}|\\[A-Za-z]+|\w))?"
_OPERATION = r"(?:frac|sqrt|binom|times|cdot|sin|cos|tan|log|ln|exp|pi)(?![A-Za-z])"
_ATOM = rf"(?:\\(?!{_OPERATION})[A-Za-z]+(?![A-Za-z])(?:\s*\{{[^{{}}]*\}})?|[A-Za-z]){_SUB}'*"
_NAME = re.compile(
    rf"(?:{_ATOM}\s*)+(?:\^\{{-1\}}\s*)?(?:\([^()=]{{1,20}}\))?"
    rf"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")


def has_equals(text: str) -> bool:
    """Whether cleaned text is an equation, or a chain or list that contains one."""
    return _EQUALS.search(text) is not None


def split_name(text: str) -> tuple[str | None, str]:
    r"""``f(x) = 2x`` as ("f(x)", "2x"); (None, text) if it is not a single assignment to a name."""
    sides = _EQUALS.split(text)
    if len(sides) != 2:
        return None, text
    left, right = sides[0].strip(), sides[1].strip()
    if not right or len(left) > 60 or not _NAME.fullmatch(left):
        return None, text
    return same_look(left), right
