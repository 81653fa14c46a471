"""Print a help page, wrapped to the width of the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

PAGES = Path(__file__).parent / "pages"
# how the lines of a page begin; others are paragraphs
HEADING = "# "
OPTION = "--"
TEXT = "    "
EXAMPLE = "  "


def read_page(command: str) -> str:
    """The committed help page of a command that takes a recipe."""
    return (PAGES / f"{command}.txt").read_text(encoding="utf-8")


def print_page(page: str) -> None:
    """Print the text of a page, in colour on a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for line in page.rstrip().splitlines():
            _print_line(console, line)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_line(console: Console, line: str) -> None:
    if line.startswith(HEADING):
        console.print(Text(line.removeprefix(HEADING) + ":", style="bold"))
    elif line.startswith(OPTION):
        console.print(Padding(Text(line, style="cyan"), (0, 0, 0, 2)))
    elif line.startswith(TEXT):
        console.print(Padding(Text(line.strip()), (0, 0, 0, 6)))
    elif line.startswith(EXAMPLE):
        console.print(Text(line), no_wrap=True, overflow="ignore", crop=False)
    else:
        console.print(Text(line))
