"""A report as a list of blocks, rendered as Markdown and as a self-contained HTML page.

Blocks may quote any text, including completions of a model. Nothing in it acts as markup, and
characters that hide or reorder other text are shown by their code.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal

from shaped_eval.untrusted.texts import fenced, in_html, readable

_WIDE_PIXELS = 1000  # a wider picture gets a line of its own and scrolls on a small screen
_CONTENTS_FROM_HEADINGS = 4


@dataclass(frozen=True)
class Heading:
    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Items:
    items: Sequence[str]


@dataclass(frozen=True)
class Notes:
    """Remarks that a reader must not miss; they are set apart."""

    items: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A value with its interval, a small note, and whether it moved beyond chance."""

    text: str
    interval: str = ""
    note: str = ""
    tone: Literal["", "up", "down"] = ""


@dataclass(frozen=True)
class Row:
    """A row of a table that stands out: the heading of a group, or an average."""

    cells: Sequence[str | Cell]
    kind: Literal["group", "average"]


@dataclass(frozen=True)
class Table:
    """A table whose rows are as long as `columns`; the first cell of a row names the row.

    A row of kind "group" may be shorter.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell] | Row]


@dataclass(frozen=True)
class Image:
    """A picture: Markdown links to `path`, relative to the report; the page embeds `png`.

    `alt` describes it for those who cannot see it; the caption is used where `alt` is empty.
    """

    path: str
    caption: str
    png: bytes
    alt: str = ""


@dataclass(frozen=True)
class Code:
    """A text quoted verbatim."""

    label: str
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that are folded until the reader opens them."""

    summary: str
    blocks: Sequence[Text | Items | Table | Code]


@dataclass(frozen=True)
class Markup:
    """Elements in which the caller has escaped every foreign text, with their style and script.

    Markdown has the sentence `text` in their place.
    """

    elements: str
    text: str
    css: str = ""
    script: str = ""


Block = Heading | Text | Items | Notes | Table | Image | Code | Details | Markup


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The document as Markdown; pictures are linked."""
    return "\n\n".join([f"# {_inline(title)}", *(_markdown(block) for block in blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one page that needs no other file."""
    parts = [f"<header>\n<h1>{in_html(title)}</h1>\n{_contents(blocks)}</header>\n<main>"]
    numbers = {
        id(block): index for index, block in enumerate(b for b in blocks if isinstance(b, Heading))
    }
    for pictures, run in groupby(blocks, key=lambda block: isinstance(block, Image)):
        if pictures:
            parts.append(
                '<div class="figures">\n' + "\n".join(_html(block) for block in run) + "\n</div>"
            )
        else:
            parts += [_html(block, numbers.get(id(block))) for block in run]
    made = [block for block in blocks if isinstance(block, Markup)]
    return to_page(
        title,
        "\n".join([*parts, "</main>"]),
        "".join(block.css for block in made),
        "".join(block.script for block in made),
    )


def to_page(title: str, body: str, css: str = "", script: str = "", forms: bool = False) -> str:
    """A page with the style of all reports, which no request leaves.

    Its policy admits the given style and script alone, so that markup which slipped through the
    escaping could run and fetch nothing.

    Args:
        body: elements.
        css: rules besides those of all reports.
        forms: whether forms may be sent to where the page comes from.
    """
    style = _css() + css
    action = "'self'" if forms else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action {action}; "
        f"style-src {_source(style)}; script-src {_source(script)}"
    )
    run = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{in_html(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n{run}</body>\n</html>\n"
    )


def _source(text: str) -> str:
    """The source expression of a policy for an inline style or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'" if text else "'none'"


@cache
def _css() -> str:
    return "\n" + Path(__file__).with_name("document.css").read_text(encoding="utf-8")


# Markdown


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_inline(text)}"
        case Text(text):
            return _paragraph(text)
        case Items(items):
            return "\n".join(f"- {_paragraph(item)}" for item in items)
        case Notes(items):
            return "\n".join(f"> - {_paragraph(item)}" for item in items)
        case Image(path, caption, _, alt):
            shown = readable(alt or caption).replace("[", "(").replace("]", ")")
            return f"![{_inline(shown)}]({path})" + (f"\n\n{_paragraph(caption)}" if alt else "")
        case Code(label, text):
            return f"{_paragraph(label)}:\n\n{fenced(text, 'text')}"
        case Markup(text=text):
            return _paragraph(text)
        case Details(summary, blocks):
            inner = "\n\n".join(_markdown(one) for one in blocks)
            heading = in_html(" ".join(summary.split()))
            return f"<details>\n<summary>{heading}</summary>\n\n{inner}\n\n</details>"
        case Table(caption, columns, rows):
            return f"**{_inline(caption)}**\n\n" + "\n".join(_markdown_lines(columns, rows))


def _markdown_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str | Cell] | Row]
) -> Iterator[str]:
    left = _left_columns(columns, rows)
    lines = [[_inline(name) for name in columns], ["---" if each else "---:" for each in left]]
    for row in rows:
        cells = [_markdown_cell(cell) for cell in _cells(row)]
        if isinstance(row, Row):
            cells = [f"**{cells[0]}**", *cells[1:]]
        lines.append([*cells, *[""] * (len(columns) - len(cells))])
    for number, line in enumerate(lines):
        escaped = line if number == 1 else [cell.replace("|", "\\|") for cell in line]
        yield f"| {' | '.join(escaped)} |"


def _markdown_cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _inline(cell)
    words = (
        _inline(word) for word in (_marked(cell), cell.interval, cell.note and f"({cell.note})")
    )
    return " ".join(word for word in words if word)


def _paragraph(text: str) -> str:
    """Text as a line that does not begin a heading, list, quotation, table or fence."""
    return re.sub(r"^(?=[#>+*=|~`-])|^(\d+)(?=[.)])", r"\1\\", _inline(text))


def _inline(text: str) -> str:
    """Text as one line in which nothing is HTML, a picture or a link."""
    text = " ".join(readable(text).split())
    return (
        text.replace("<", "&lt;").replace("![", "!\\[").replace("](", "]\\(").replace("]:", "]\\:")
    )


# HTML


def _html(block: Block, number: int | None = None) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="s{number}">{in_html(text)}</h{level}>'
        case Text(text):
            return f"<p>{in_html(text)}</p>"
        case Items(items):
            return _html_list(items)
        case Notes(items):
            return f'<aside class="notes" aria-label="Notes">\n{_html_list(items)}\n</aside>'
        case Image(_, caption, png, alt):
            width, height = struct.unpack(">II", png[16:24])
            source = base64.b64encode(png).decode("ascii")
            shape = ' class="wide"' if width > _WIDE_PIXELS else ""
            return (
                f'<figure{shape}><div class="picture" tabindex="0">'
                f'<img width="{width}" height="{height}" '
                f'alt="{in_html(alt or caption)}" src="data:image/png;base64,{source}"></div>'
                f"<figcaption>{in_html(caption)}</figcaption></figure>"
            )
        case Code(label, text):
            name = in_html(label)
            quoted = f'<pre dir="auto" tabindex="0" aria-label="{name}">\n{in_html(text)}</pre>'
            return f'<div class="code"><div>{name}</div>\n{quoted}</div>'
        case Markup(elements):
            return elements
        case Details(summary, blocks):
            inner = "\n".join(_html(one) for one in blocks)
            return f"<details>\n<summary>{in_html(summary)}</summary>\n{inner}\n</details>"
        case Table():
            return _html_table(block)


def _html_list(items: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{in_html(item)}</li>" for item in items) + "\n</ul>"


def _html_table(table: Table) -> str:
    caption = in_html(table.caption)
    left = _left_columns(table.columns, table.rows)
    classes = [' class="left"' if each else "" for each in left]
    head = "".join(
        f'<th scope="col"{style}>{in_html(name)}</th>'
        for name, style in zip(table.columns, classes, strict=True)
    )
    lines = []
    for row in table.rows:
        first, *others = _cells(row)
        name, note = (first, "") if isinstance(first, str) else (first.text, first.note)
        kind = f' class="{row.kind}"' if isinstance(row, Row) else ""
        small = f" <small>{in_html(note)}</small>" if note else ""
        if others:
            line = f'<th scope="row" class="left">{in_html(name)}{small}</th>'
            line += "".join(
                _html_cell(cell, style) for cell, style in zip(others, classes[1:], strict=True)
            )
        else:
            line = (
                f'<th scope="rowgroup" class="left" colspan="{len(left)}">'
                f"<span>{in_html(name)}{small}</span></th>"
            )
        lines.append(f"<tr{kind}>{line}</tr>")
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{caption}"><table>'
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _html_cell(cell: str | Cell, style: str) -> str:
    if isinstance(cell, str):
        return f"<td{style}>{in_html(cell)}</td>"
    style = f' class="{cell.tone}"' if cell.tone else style
    text = f"<b>{in_html(_marked(cell))}</b>" if cell.tone else in_html(cell.text)
    interval = f' <span class="range">{in_html(cell.interval)}</span>' if cell.interval else ""
    note = f" <small>{in_html(cell.note)}</small>" if cell.note else ""
    return f"<td{style}>{text}{interval}{note}</td>"


def _contents(blocks: Sequence[Block]) -> str:
    """Links to the sections of a long document."""
    headings = [block for block in blocks if isinstance(block, Heading)]
    links = [
        f'<li><a href="#s{index}">{in_html(one.text)}</a></li>'
        for index, one in enumerate(headings)
        if one.level == 2
    ]
    if len(links) < _CONTENTS_FROM_HEADINGS:
        return ""
    return '<nav aria-label="Contents"><ul>\n' + "\n".join(links) + "\n</ul></nav>\n"


# Markdown and HTML


def _marked(cell: Cell) -> str:
    """The value with an arrow, so that the tone does not depend on colour."""
    return {"": "", "up": "▲ ", "down": "▼ "}[cell.tone] + cell.text


def _cells(row: Sequence[str | Cell] | Row) -> Sequence[str | Cell]:
    return row.cells if isinstance(row, Row) else row


def _left_columns(columns: Sequence[str], rows: Sequence[Sequence[str | Cell] | Row]) -> list[bool]:
    """For each column, whether it holds words and is left-aligned; numbers are right-aligned."""
    left = [True, *[False] * (len(columns) - 1)]
    for row in rows:
        for index, cell in enumerate(_cells(row)):
            if isinstance(cell, str) and re.search("[^\\W\\d_]{2}", cell):
                left[index] = True
    return left
