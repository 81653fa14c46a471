"""Pages of the reference that are made of parsers and recipes when the book is built."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from html import escape
from unittest.mock import patch

from shaped_trl import recipes
from shaped_trl.cli import COMMANDS, main
from shaped_trl.help.show import EXAMPLE, HEADING, OPTION, PAGES, TEXT, read_page

ASYNCHRONOUS = "rlvr-async"  # the help page of `rlvr --asynchronous true`
TITLES = {ASYNCHRONOUS: "rlvr --asynchronous true"}
_MARKUP = re.compile(r"([\\`*_\[\]])")


@cache
def command_pages() -> dict[str, str]:
    """Page of the book → its Markdown, for each command, in the order of `shaped-trl --help`."""
    pages = {}
    for command in COMMANDS:
        for name in [command, *([ASYNCHRONOUS] if command == "rlvr" else [])]:
            title = f"# {TITLES.get(name, name)}\n\n"
            written = (PAGES / f"{name}.txt").is_file()
            body = _options(read_page(name)) if written else _printed(name)
            pages[f"commands/{name}.md"] = title + body
    return pages


def _options(page: str) -> str:
    """Markdown of a help page: paragraphs, examples, and lists of options with headings."""
    lines = []
    for line in page.splitlines():
        if line.startswith(HEADING):
            lines += ["", f"## {_text(line.removeprefix(HEADING))}", ""]
        elif line.startswith(OPTION):
            name, _, value = line.partition(" ")
            lines += ["", f"`{name}`{' `' + value + '`' if value else ''}", ""]
        elif line.startswith(TEXT):
            lines.append(f":   {_text(line.strip())}")
        elif line.startswith((EXAMPLE, "usage: ")):
            lines.append(f"    {line.removeprefix('usage: ').strip()}")
        else:
            lines.append(_text(line))
    return "\n".join(lines) + "\n"


def _printed(command: str) -> str:
    """What `shaped-trl COMMAND --help` prints, in a block."""
    with redirect_stdout(io.StringIO()) as printed, patch.dict(os.environ, COLUMNS="80"):
        main([command, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```\n"


def list_of_recipes() -> str:
    """Markdown: every shipped recipe with the comment at its top and, folded, the file itself."""
    parts = [""]
    folder = None
    for name in recipes.names():
        if name.rpartition("/")[0] != folder:
            folder = name.rpartition("/")[0]
            parts.append(f"## {folder}")
        parts += [f"### {name}", *_recipe((recipes.ROOT / f"{name}.yaml").read_text("utf-8"))]
    return "\n\n".join(parts) + "\n"


def _recipe(text: str) -> Iterator[str]:
    """The paragraphs of the comment at the top of a recipe, and its settings."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = [line.removeprefix("#").removeprefix(" ") for line in lines[:end]]
    paragraph: list[str] = []
    for line in [*comment, ""]:
        if line and line.startswith("  ") == bool(paragraph and paragraph[0].startswith("  ")):
            paragraph.append(line)
            continue
        if paragraph:
            yield _paragraph(paragraph)
        paragraph = [line] if line else []
    settings = "\n".join(f"    {line}".rstrip() for line in lines[end:])
    yield f'??? note "Settings"\n\n    ```yaml\n{settings}\n    ```'


def _paragraph(lines: list[str]) -> str:
    """Indented lines are commands."""
    if lines[0].startswith("  "):
        return "\n".join(["```", *(line.strip() for line in lines), "```"])
    return _text("\n".join(lines))


def _text(text: str) -> str:
    """A text as Markdown that shows it unchanged, with what stands in backticks as code."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part if number % 2 else _MARKUP.sub(r"\\\1", escape(part, quote=False))
        for number, part in enumerate(parts)
    )
