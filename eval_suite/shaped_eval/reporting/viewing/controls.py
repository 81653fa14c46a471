"""The fields by which a reader selects samples: the same in a report and in `shaped-trl view`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from shaped_eval.reporting.viewing.cards import LABELS
from shaped_eval.reporting.viewing.index import AGREEMENTS, VERDICTS, RunIndex
from shaped_eval.reporting.viewing.selection import TRUNCATED, Selection
from shaped_eval.untrusted.texts import in_html

_AGREEMENTS = {"majority": "majority's answer", "minority": "another answer", "none": "no vote"}


@cache
def style() -> str:
    """The rules for fields, formulas and samples, besides those of all reports."""
    return Path(__file__).with_name("viewing.css").read_text(encoding="utf-8")


def fields(indices: Sequence[RunIndex], selection: Selection, run: str = "") -> str:
    """Labelled fields for every part of a selection, and for the run where there are several.

    Args:
        indices: the runs; a choice of which only one occurs in them is left out.
        selection: what is chosen.
        run: the number of the chosen run.
    """
    parts = []
    if len(indices) > 1:
        runs = {str(number): index.label for number, index in enumerate(indices)}
        parts.append(_choice("Run", "run", runs, run, "all" if run == "" else None))
    benchmarks = {name: name for index in indices for name in index.benchmarks}
    if len(benchmarks) > 1:
        parts.append(_choice("Benchmark", "benchmark", benchmarks, selection.benchmark))
    verdicts = {name: LABELS[name] for name in VERDICTS} | {TRUNCATED: LABELS["length"]}
    parts.append(_choice("Verdict", "verdict", verdicts, selection.verdict))
    if any(index.rows.same_S.any() and (np.diff(index.first_P) > 1).any() for index in indices):
        names = {name: _AGREEMENTS[name] for name in AGREEMENTS}
        parts.append(_choice("Agreement", "agreement", names, selection.agreement))
    units = " or ".join(dict.fromkeys(index.unit for index in indices))
    parts.append(_number(f"From ({units})", "shortest", selection.shortest))
    parts.append(_number(f"To ({units})", "longest", selection.longest))
    parts.append(
        '<label class="words">Search completions and problems'
        f'<input type="search" name="words" value="{in_html(selection.words)}"></label>'
    )
    return "\n".join(parts)


def _choice(
    label: str, name: str, choices: Mapping[str, str], chosen: str, every: str | None = "all"
) -> str:
    options: Iterable[tuple[str, str]] = choices.items()
    if every is not None:
        options = [("", every), *options]
    inner = "".join(
        f'<option value="{in_html(value)}"{" selected" if value == chosen else ""}>'
        f"{in_html(text)}</option>"
        for value, text in options
    )
    return f'<label>{in_html(label)}<select name="{name}">{inner}</select></label>'


def _number(label: str, name: str, value: str) -> str:
    return (
        f'<label>{in_html(label)}<input type="number" min="0" step="1" name="{name}" '
        f'value="{in_html(value)}"></label>'
    )
