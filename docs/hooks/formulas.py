"""Formulas as MathML, which browsers draw without a script: made when the book is built."""

from __future__ import annotations

import re
from html import unescape

from latex2mathml.converter import convert

# what `pymdownx.arithmatex` makes of $…$ and $$…$$
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(html: str, **_: object) -> str:
    return _FORMULA.sub(_drawn, html)


def _drawn(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    mathml = convert(unescape(match["tex"]).strip(), display=display)
    return f'<{match["tag"]} class="formula">{mathml}</{match["tag"]}>'
