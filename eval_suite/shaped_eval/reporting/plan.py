"""The document of ``compare --plan``: problems and samples that would show a difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.reporting.compare import same_problems
from shaped_eval.reporting.document import Block, Heading, Table, Text
from shaped_eval.reporting.results import GradedRun, in_order, read_runs
from shaped_eval.reporting.tables import NONE
from shaped_eval.statistics.planning import (
    Spread,
    problems_needed,
    smallest_difference,
    spread_of_shift,
    spread_of_two,
)

MOST_SAMPLES = 256
READING = (
    "Each row says how many problems would show a difference of {points:g} points in avg@n with a "
    "probability of 80%, at 5%, two-sided and paired over problems, and which difference the "
    "{problems:,} problems of this benchmark would show as often. More samples make only the "
    "chance of drawing them smaller, not the differences among problems."
)
FROM_TWO = (
    "The variances are estimated from the two runs; with few problems the estimates are unsure."
)
FROM_ONE = (
    "One run does not say how much the difference varies among problems: it is taken as the same "
    "shift of the log-odds of each, so the true numbers of problems are larger. Give a second run "
    "to estimate it."
)


def plan(
    folders: Sequence[str | Path], points: float
) -> tuple[str, list[Block], dict[str, list[dict[str, Any]]]]:
    """Plan a comparison from one graded run or two; return title, document and rows.

    Args:
        folders: of a baseline, and of another run on the same problems if there is one.
        points: the difference to show, in percentage points.

    Raises:
        UserError: `points` is out of range, there are more than two folders, a folder holds no
            complete run, or the runs have no benchmark in common.
    """
    if not 0.0 < points < 100.0:
        raise UserError(f"plan={points:g} is out of range: use more than 0 and less than 100")
    if len(folders) > 2:
        raise UserError(f"plan={points:g} takes one run or two, not {len(folders)}")
    runs = read_runs(folders)
    names = [name for name in in_order(runs[0].outcomes) if name in runs[-1].outcomes]
    if not names:
        raise UserError(
            f"{' and '.join(repr(str(folder)) for folder in folders)} have no benchmark in common: "
            "plan from runs on the same problems"
        )
    blocks: list[Block] = [Text(FROM_TWO if len(runs) == 2 else FROM_ONE)]
    rows = {}
    for name in names:
        problems = len(runs[0].outcomes[name].problem_ids)
        rows[name] = _rows(_spread(name, runs, points / 100), problems, points / 100)
        blocks += [
            Heading(name),
            Text(READING.format(points=points, problems=problems)),
            _table(name, rows[name]),
        ]
    return f"Plan to show a difference of {points:g} points", blocks, rows


def _spread(name: str, runs: Sequence[GradedRun], difference: float) -> Spread:
    first = runs[0].outcomes[name]
    if len(runs) == 1:
        return spread_of_shift(first.passes_P, first.n, difference)
    other = runs[1].outcomes[name]
    order = same_problems(name, *runs)
    spread = spread_of_two(first.passes_P, first.n, other.passes_P[order], other.n)
    if spread.variance(1) == 0.0:
        raise UserError(
            f"{name}: in both runs the samples of each problem are all right or all wrong, and the "
            "runs do not differ: plan from a run with problems that are sometimes right"
        )
    return spread


def _rows(spread: Spread, problems: int, difference: float) -> list[dict[str, Any]]:
    rows = []
    n = 1
    while n <= MOST_SAMPLES:
        needed = problems_needed(spread, difference, n)
        shown = smallest_difference(spread, problems, n) if problems > 1 else None
        rows.append({"n": n, "problems": needed, "samples": n * needed, "shown": shown})
        n *= 2
    return rows


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    cells = [
        [
            str(row["n"]),
            f"{row['problems']:,}",
            f"{row['samples']:,}",
            NONE if row["shown"] is None else f"{100 * row['shown']:.1f}",
        ]
        for row in rows
    ]
    columns = ["samples of each", "problems needed", "samples in all, of each run"]
    return Table(f"{name}: plan", [*columns, "shown by this benchmark, points"], cells)
