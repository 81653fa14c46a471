"""A report as a list of blocks, written once as Markdown and once as a self-contained page for any screen."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a;
  max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Items:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Image:
    """A picture: `path` relative to the report, for Markdown; `png` embedded in the page."""

    path: str
    caption: str
    png: bytes


Block = Heading | Text | Items | Table | Image


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The document as Markdown; pictures are linked."""
    return "\n\n".join([f"# {title}", *(_markdown(block) for block in blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one page that needs no other file."""
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *(_html(block) for block in blocks)])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Text(text):
            return text
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Image(path, caption, _):
            return f"![{caption}]({path})"
        case Table(caption, columns, rows):
            lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
            cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
            return f"**{caption}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Items(items):
            return "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in items) + "\n</ul>"
        case Image(_, caption, png):
            source = base64.b64encode(png).decode("ascii")
            alt = html.escape(caption, quote=True)
            return f'<figure><img alt="{alt}" src="data:image/png;base64,{source}"></figure>'
        case Table(caption, columns, rows):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in columns)
            lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
            return (
                f'<div class="table"><table><caption>{html.escape(caption)}</caption>\n<tr>{head}</tr>\n'
                + "\n".join(f"<tr>{line}</tr>" for line in lines)
                + "\n</table></div>"
            )
