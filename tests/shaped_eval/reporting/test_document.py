"""The document: hostile text stays text, nothing is fetched, and the page is accessible."""

from __future__ import annotations

import io
import re

import pytest
from html_pages import check_self_contained
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from shaped_eval.reporting.document import (
    Cell,
    Code,
    Details,
    Heading,
    Image,
    Items,
    Notes,
    Row,
    Table,
    Text,
    readable,
    to_html,
    to_markdown,
)

HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "closing": "</pre></details></main></body></html>",
    "fences": "```\n````html\n<b>`````\n~~~",
    "table": "a | b || c |\n|---|\n",
    "markdown": "# no heading\n![x](http://example.org/x.png) [y](javascript:z) "
    "<http://example.org>\n***",
    "entities": "&lt;&amp;&#0; &notanentity; \"quotes' `",
    "controls": "a\x00b\x07c\x1b[31md\x85e\x0cf\r\ng\rh",
    "bidi": "left \u202eright\u2066 to left\u200f \ufeff\u2028",
    "surrogates": "half \ud83d \udc00 pairs",
    "long": "x" * 50_000,
    "math": "\\boxed{$\\frac{1}{2}$} ]]> <!-- <style>*{display:none}</style>",
}


@pytest.fixture(scope="module")
def png() -> bytes:
    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png")
    return buffer.getvalue()


def blocks_of(text: str, png: bytes):
    return [
        Heading(text),
        Text(text),
        Notes([text]),
        Items([text, text]),
        Table(
            text,
            [text, text],
            [
                Row([text], "group"),
                [text, text],
                [text, Cell(text, text, text, "up")],
                Row([Cell(text, note=text), text], "average"),
            ],
        ),
        Image("picture.png", text, png),
        Heading(text, 3),
        Details(text, [Code(text, text), Text(text)]),
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text_in_the_page(name, png):
    text = HOSTILE[name]
    page_text = to_html(text, blocks_of(text, png))
    page_text.encode("utf-8")
    page = check_self_contained(page_text)
    assert page.pres == ["\n" + readable(text)]  # browsers drop the first newline of a <pre>
    assert page.tags.count("details") == 1
    assert page.tags.count("table") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text_in_markdown(name, png):
    text = HOSTILE[name]
    written = to_markdown(text, blocks_of(text, png))
    written.encode("utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(written)
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences == [readable(text) + "\n"]
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h3"]
    html = "".join(token.content for token in tokens if token.type == "html_block")
    assert re.findall("</?([a-z]+)", html) == ["details", "summary", "summary", "details"]
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 5
    inline = [child for token in tokens for child in token.children or []]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["picture.png"]
    assert not [child for child in inline if child.type in ("html_inline", "link_open")]


def test_what_cannot_be_seen_stands_as_its_code():
    assert readable("a\x00\u202eb\r\nc\rd\te") == "a[U+0000][U+202E]b\nc\nd\te"
    assert (
        readable("\ud800 é 漢字 👩\u200d🔬 نیم\u200cفاصله")
        == "[U+D800] é 漢字 👩\u200d🔬 نیم\u200cفاصله"
    )


def test_numbers_stand_right_and_words_left():
    table = Table(
        "T", ["name", "value", "word"], [["a", "1.0 [0.5, 1.5]", "yes"], ["b", "–", "no"]]
    )
    assert "| --- | ---: | --- |" in to_markdown("T", [table])
    page = to_html("T", [table])
    assert "<td>1.0 [0.5, 1.5]</td>" in page
    assert '<td class="left">yes</td>' in page


def test_long_documents_have_contents():
    headings = [Heading(f"Part {i}") for i in range(4)]
    assert "<nav" not in to_html("T", headings[:3])
    page = to_html("T", headings)
    check_self_contained(page)
    assert page.count('<a href="#s') == 4


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(scheme):
    css = re.findall("<style>(.*?)</style>", to_html("T", []), re.S)[0]
    roots = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    colours = roots[0] if scheme == "light" else roots[1]
    for text in ("text", "soft", "accent", "up", "down"):
        for ground in ("page", "raised", "note"):
            high, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
