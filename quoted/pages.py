"""Compare the quotes of a page with its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quoted.values import END, START

ROOT = Path(__file__).parents[1]
NUMBER = r"[+−-]?\d+(?:,\d{3})*(?:\.\d+)?"
WORD = r"not resolved|[\w-]+"
# Code, the addresses of links and HTML have no results.
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>", re.DOTALL)
NOT_KEPT = "The records of this study were not kept"
# What the pages of the studies say again and again. A page need not have all of them.
COMMON = (
    *("95%", "β −0.25", "β = −0.25", "β 0.5", "β = 0.5", "β < 0", "β > 0", "β = 0"),
    *("avg@64", "Avg@64", "pass@64", "Pass@64", "avg@16", "T = 1", "Eq. 11", "Eq. 4"),
    *("λ̂ −0.1", "λ̃ 0.1", "λ̂ < 0", "fp32", "bf16", "bfloat16", "2512.22955"),
)


@dataclass(frozen=True)
class Page:
    """A page with what it quotes.

    Attributes:
        path: from the root of the repository.
        quotes: pieces of its text with computed numbers.
        settings: its other numbers, each with the words that say what it is.
        unrecorded: results whose records were not kept, in the words of the page.
        section: the heading of the text that is compared, up to the next heading. By default the
            whole page is.
        kept: False if the page has no records at all. It must say so, and is not compared.
    """

    path: str
    quotes: Sequence[str] = ()
    settings: Sequence[str] = ()
    unrecorded: Sequence[str] = ()
    section: str | None = None
    kept: bool = True


def read(page: Page) -> tuple[str, int, int]:
    """The page's text, and from where to where it is compared.

    Raises:
        ValueError: the page does not have the section exactly once.
    """
    text = (ROOT / page.path).read_text(encoding="utf-8")
    if page.section is None:
        return text, 0, len(text)
    found = re.findall(rf"^{re.escape(page.section)}\n", text, flags=re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{page.path}: {len(found)} headings {page.section!r}; there must be one")
    start = text.index(page.section + "\n")
    end = re.compile(r"^#+ ", flags=re.MULTILINE).search(text, start + len(page.section))
    return text, start, end.start() if end else len(text)


def compare(page: Page) -> tuple[list[str], str]:
    """What is wrong with a page, and its text with the computed numbers in place of its own."""
    text, start, end = read(page)
    if not page.kept:
        return [] if NOT_KEPT in text else [f"{page.path}: it must say: {NOT_KEPT}"], text
    problems: list[str] = []
    changes: list[tuple[int, int, str]] = []
    for quote in page.quotes:
        pattern, computed = _pattern(quote)
        matches = list(pattern.finditer(text, start, end))
        if len(matches) != 1:
            problems.append(f"{page.path}: found {len(matches)} times, not once: {_plain(quote)}")
            continue
        for group, expected in enumerate(computed, start=1):
            at = matches[0].span(group)
            changes.append((*at, expected))
            if text[slice(*at)] != expected:
                problems.append(
                    f"{page.path}: the page says {text[slice(*at)]}, and the records say "
                    f"{expected}, in: {_plain(quote)}"
                )
    problems += _without_source(page, text, start, end, changes)
    for first, last, expected in sorted(changes, reverse=True):
        text = text[:first] + expected + text[last:]
    return problems, text


def _pattern(quote: str) -> tuple[re.Pattern[str], list[str]]:
    """What finds a quote with any numbers, in lines of any length, and its own numbers."""
    parts, computed = [], []
    for piece in re.split(f"({START}[^{END}]*{END})", quote):
        if not piece.startswith(START):
            parts.append(_anywhere(piece))
            continue
        value = piece.strip(START + END)
        computed.append(value)
        kinds = (rf"\[{NUMBER}, {NUMBER}\]", NUMBER, WORD)
        kind = next(kind for kind in kinds if re.fullmatch(kind, value))
        parts.append(f"({kind})")
    return re.compile("".join(parts)), computed


def _anywhere(words: str) -> str:
    """A regular expression for words, between which a line may end."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(words))


def _plain(quote: str) -> str:
    return quote.replace(START, "").replace(END, "")


def _without_source(
    page: Page, text: str, start: int, end: int, computed: list[tuple[int, int, str]]
) -> list[str]:
    """Numbers that are neither computed nor declared, and declarations that the page lacks."""
    rest = text[:end]
    for first, last, _ in computed:
        rest = rest[:first] + " " * (last - first) + rest[last:]
    rest = NOT_PROSE.sub(lambda found: " " * len(found[0]), rest)[start:]
    problems = []
    declared = sorted({*COMMON, *page.settings, *page.unrecorded}, key=len, reverse=True)
    for words in declared:
        rest, count = re.subn(rf"(?<![\w.]){_anywhere(words)}(?![\w])", " ", rest)
        if not count and words not in COMMON:
            problems.append(f"{page.path}: declared, but not on the page: {words}")
    for found in re.finditer(rf"(?<![A-Za-z\d.]){NUMBER}", rest):  # not that of H200
        around = " ".join(rest[max(0, found.start() - 30) : found.end() + 30].split())
        problems.append(f"{page.path}: {found[0]} is neither computed nor declared, in: {around}")
    return problems
