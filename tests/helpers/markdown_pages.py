"""Pages of Markdown as a parser sees them: their code, links and headings."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt


def code(language: str, page: Path) -> list[str]:
    """A page's blocks of code in a language."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info == language]


def headings(page: Path) -> set[str]:
    """The anchors that a Markdown page has on GitHub."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def targets(page: Path) -> list[str]:
    """Where the links and images of a page lead to."""
    found = []
    for inline in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for token in inline.children or ():
            if target := token.attrs.get("href") or token.attrs.get("src"):
                found.append(str(target))
    return found


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading of a page."""
    broken = []
    for target in targets(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    return broken
