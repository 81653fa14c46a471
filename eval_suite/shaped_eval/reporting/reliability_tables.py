"""The report's section on reliability, from the numbers in results.json (`reliability`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shaped_eval.reporting.document import Block, Details, Heading, Table, Text
from shaped_eval.reporting.tables import NONE, percent, signed

TITLE = "Reliability"
READING = (
    "All@k is the probability that all of k samples pass, and G-Pass@k(τ) that at least a share τ "
    "of them does, k being a power of two of at most n/3. Tokens per solved problem is the mean "
    "length of a sample divided by the share that passes. Within t tokens is the accuracy had the "
    "token limit been t. Overconfidence is the share of the samples that the majority has, minus "
    "how often it is right."
)


def reliability_blocks(results: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """The section of one run, folded by benchmark; nothing where no benchmark has such numbers."""
    folded = [
        _folded(name, entry["reliability"])
        for name, entry in results.items()
        if entry.get("reliability")
    ]
    return [Heading(TITLE), Text(READING), *folded] if folded else []


def _folded(name: str, found: Mapping[str, Any]) -> Block:
    rows = [
        [_words(key), *_cells(key, value)]
        for key, value in found.items()
        if key != "majority" and value is not None
    ]
    columns = ["metric", "% or tokens", "low", "high", "sampling error"]
    tables = [Table(f"{name}: reliability", columns, rows)]
    if found.get("majority"):
        tables.append(_bins(name, found["majority"]))
    return Details(f"Reliability of {name}", tables)


def _words(key: str) -> str:
    if key.startswith("within@"):
        return f"within {int(key.removeprefix('within@')):,} tokens"
    known = {"tokens_per_solved": "tokens per solved problem"}
    return known.get(key, (key[0].upper() + key[1:]).replace("G-pass", "G-Pass"))


def _cells(key: str, value: Mapping[str, Any]) -> list[str]:
    ends = [value.get(end) for end in ("value", "low", "high", "sampling_se")]
    show = {"tokens_per_solved": _tokens, "overconfidence": signed}.get(key, percent)
    return [NONE if end is None else show(end) for end in ends]


def _tokens(number: float) -> str:
    return f"{number:,.1f}"


def _bins(name: str, bins: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{100 * each['low']:.0f} to {100 * each['high']:.0f}%",
            f"{each['problems']:,}",
            percent(each["share"]),
            *(percent(each["right"][end]) for end in ("value", "low", "high")),
        ]
        for each in bins
    ]
    columns = ["majority has", "problems", "mean share", "right, %", "low", "high"]
    return Table(f"{name}: how often the majority is right, by its share", columns, rows)
