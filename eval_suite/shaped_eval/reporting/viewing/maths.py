"""Foreign texts in HTML with their LaTeX as MathML, which browsers render without a library.

latex2mathml reads a formula into a tree, if all commands in it are of the allowlist in `latex`. Its
own writer unescapes what it has escaped, so the markup is written here: elements and attributes of
an allowlist, with every text escaped. A formula that cannot be read, or that needs anything else,
stays the text that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from shaped_eval.reporting.viewing.latex import is_known
from shaped_eval.untrusted.texts import readable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MOST_FORMULA_CHARACTERS = 1_000
MOST_MARKUP_CHARACTERS = 50_000  # of a formula; the longest one in real answers has 6,341
MOST_CHARACTERS = 20_000  # of all formulas of a text, which take time and room
MOST_DEPTH = 60  # of elements in each other; browsers stop nesting at some hundreds
_KEPT_FORMULAS = 4_096  # the samples of a problem repeat their formulas

_ENVIRONMENTS = "|".join(
    rf"{name}\*?" for name in ("align", "aligned", "gather", "gathered", "equation", "multline")
)
# what begins or ends a formula, or looks as if it did
_DELIMITER = re.compile(
    r"(?P<escaped>\\[\\$])|(?P<dollars>\$\$?)|\\(?P<bracket>[()\[\]])"
    rf"|\\(?P<end>begin|end)\{{(?P<name>{_ENVIRONMENTS})\}}"
)
_CLOSING = {"(": ")", "[": "]"}
_GROUPS_AND_COMMANDS = re.compile(r"\\[A-Za-z]+|\{[^{}]*\}")
_TWO_WORDS = re.compile(r"[A-Za-z]{2,}[,;]? +[A-Za-z]{2,}")
_CHARACTER = re.compile(r"&#x([0-9A-Fa-f]{1,6});")  # as latex2mathml writes characters
_COMMAND = re.compile(r"\\[A-Za-z]")

_ELEMENTS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "ms", "mspace", "mstyle", "mpadded"),
    *("mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover"),
    *("mtable", "mtr", "mtd"),
}
_CHILDREN = dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2)
_CHILDREN |= dict.fromkeys(("msubsup", "munderover"), 3)
_EM = r"[0-2](\.\d{1,3})?em"
_SWITCH = "true|false"
_ATTRIBUTES = {
    name: re.compile(values)
    for name, values in {
        "accent": _SWITCH,
        "columnalign": "left|center|right",
        "displaystyle": _SWITCH,
        "fence": _SWITCH,
        "form": "prefix|infix|postfix",
        "largeop": _SWITCH,
        "linethickness": "0",
        "maxsize": _EM,
        "minsize": _EM,
        "movablelimits": _SWITCH,
        "scriptlevel": "[0-2]",
        "separator": _SWITCH,
        "stretchy": _SWITCH,
    }.items()
}


class Piece(NamedTuple):
    """A part of a text.

    Attributes:
        source: the part as it is written.
        formula: the LaTeX between its delimiters; None outside of formulas.
        is_display: whether the formula stands on a line of its own.
    """

    source: str
    formula: str | None = None
    is_display: bool = False


def with_maths(text: str) -> str:
    """`text` as HTML: escaped, invisible characters as their code, and formulas as MathML.

    Beside each formula stands its source. The style sheet shows one of the two.
    """
    parts = []
    left = MOST_CHARACTERS
    for piece in pieces(readable(text)):
        source = escape(piece.source)
        maths = None
        if piece.formula is not None and len(piece.source) <= left:
            left -= len(piece.source)
            maths = mathml(piece.formula, piece.is_display)
        if maths is None:
            parts.append(source)
        else:
            shape = "tex display" if piece.is_display else "tex"
            parts.append(f'<span class="{shape}">{maths}<code>{source}</code></span>')
    return "".join(parts)


def pieces(text: str) -> Iterator[Piece]:
    r"""Divide `text` into formulas and what stands between them; the sources add up to `text`.

    Formulas stand in ``\(…\)``, ``\[…\]``, ``$…$``, ``$$…$$``, or in an environment such as
    ``align``. For a single dollar Pandoc's rule holds: no space after the first one or before the
    last one, and no digit after the last one. Spaces are allowed beside a command, and words and a
    last equals sign are not. Prices are therefore not taken for formulas.
    """
    delimiters = [each for each in _DELIMITER.finditer(text) if not each["escaped"]]
    done = number = 0
    while number < len(delimiters):
        closing = _closing(text, delimiters, number)
        if closing is None:
            number += 1
            continue
        first, last = delimiters[number], delimiters[closing]
        start, end = first.start(), last.end()
        inner = text[start:end] if first["end"] else text[first.end() : last.start()]
        is_display = first["dollars"] != "$" and first["bracket"] != "("
        if is_display:  # its line ends belong to it: it has a line of its own in any case
            start -= start > done and text[start - 1] == "\n"
            end += text[end : end + 1] == "\n"
        if start > done:
            yield Piece(text[done:start])
        yield Piece(text[start:end], inner, is_display)
        done = end
        number = closing + 1
    if done < len(text):
        yield Piece(text[done:])


def _closing(text: str, delimiters: list[re.Match[str]], number: int) -> int | None:
    """The place in `delimiters` of the one that ends what the given one begins."""
    first = delimiters[number]
    if first["end"] == "end" or first["bracket"] in (")", "]"):
        return None
    for place in range(number + 1, len(delimiters)):
        last = delimiters[place]
        if last.start() - first.end() > MOST_FORMULA_CHARACTERS:
            return None
        if first["dollars"]:
            if last["dollars"] == first["dollars"]:
                ends = _is_formula(text, first, last)
                return place if ends else None
        elif first["bracket"]:
            if last["bracket"] == first["bracket"]:
                return None
            if last["bracket"] == _CLOSING[first["bracket"]]:
                return place
        elif last["name"] == first["name"]:
            return place if last["end"] == "end" else None
    return None


def _is_formula(text: str, first: re.Match[str], last: re.Match[str]) -> bool:
    """Whether the text between two dollar signs is a formula, and not between two prices."""
    inner = text[first.end() : last.start()]
    if not inner.strip() or "\n\n" in inner:
        return False
    if first["dollars"] == "$$":
        return True
    if inner != inner.strip() and not _COMMAND.search(inner):
        return False
    if text[last.end() : last.end() + 1].isdigit() or inner.endswith("="):
        return False
    return not _TWO_WORDS.search(_GROUPS_AND_COMMANDS.sub("", inner))


@lru_cache(_KEPT_FORMULAS)
def mathml(latex: str, is_display: bool = False) -> str | None:
    """A formula as MathML of the allowlist; None where it cannot be read."""
    if len(latex) > MOST_FORMULA_CHARACTERS or not is_known(latex):
        return None
    from latex2mathml.converter import Converter

    try:
        tree = Converter(display="block" if is_display else "inline").convert_to_element(latex)
        return _joined(_markup(tree))
    except Exception:  # a parser of foreign text: whatever it fails with, the text is shown
        return None


def _joined(parts: Iterator[str]) -> str:
    """The markup. Raises ValueError if it is longer than any formula needs."""
    written, room = [], MOST_MARKUP_CHARACTERS
    for part in parts:
        written.append(part)
        room -= len(part)
        if room < 0:
            raise ValueError(f"the markup has more than {MOST_MARKUP_CHARACTERS} characters")
    return "".join(written)


def _markup(element: Element, depth: int = 0) -> Iterator[str]:
    """The element as markup. Raises ValueError for one that is not in the allowlist."""
    tag, text = element.tag, element.text or ""
    attributes = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value)
    )
    if tag == "math":
        attributes = ' display="block"' if element.get("display") == "block" else ""
    elif tag == "menclose":  # browsers' MathML does not have it; the style sheet draws it
        tag = "mrow"
        attributes = f' class="{"box" if element.get("notation") == "box" else "struck"}"'
    elif tag == "mspace" and re.fullmatch(_EM, element.get("width", "")):
        attributes = f' width="{element.get("width")}"'
    complete = len(element) == _CHILDREN.get(tag, len(element))
    if tag not in _ELEMENTS or not complete or depth > MOST_DEPTH or _COMMAND.match(text):
        raise ValueError(f"<{tag}> of {text!r} is not shown as mathematics")
    shown = _CHARACTER.sub(lambda match: chr(int(match[1], 16)), text)
    yield f"<{tag}{attributes}>{escape(readable(shown))}"
    for child in element:
        yield from _markup(child, depth + 1)
    yield f"</{tag}>"
