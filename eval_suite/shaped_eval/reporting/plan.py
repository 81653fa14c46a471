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
    "{problems:,} problems of this benchmark would show as often."
)
MORE = " More samples make only the chance of drawing smaller, not the differences among problems."
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

    A benchmark that cannot be planned has the reason in place of a table.

    Raises:
        UserError: `points` is out of range, there are more than two folders, a folder holds no
            complete run, the runs have no benchmark in common, or none can be planned.
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
    rows: dict[str, list[dict[str, Any]]] = {}
    refused: list[UserError] = []
    for name in names:
        problems = len(runs[0].outcomes[name].problem_ids)
        try:
            spread = _spread(name, runs, points / 100)
        except UserError as error:
            refused.append(error)
            blocks += [Heading(name), Text(f"No plan. {error}")]
            continue
        rows[name] = _rows(spread, problems, points / 100)
        reading = READING.format(points=points, problems=problems) + (MORE if spread.within else "")
        blocks += [Heading(name), Text(reading), _table(name, rows[name])]
    if not rows:
        raise refused[0]
    return f"Plan to show a difference of {points:g} points", blocks, rows


def _spread(name: str, runs: Sequence[GradedRun], difference: float) -> Spread:
    first, *others = (run.outcomes[name] for run in runs)
    drawn = [run.outcomes[name].drawn and not run.greedy for run in runs]
    try:
        if not others and not drawn[0]:
            raise UserError(
                "nothing is drawn here, so one run does not say on how many problems two models "
                "differ: give a second run"
            )
        if not others:
            return spread_of_shift(first.passes_P, first.n, difference)
        other, order = others[0], same_problems(name, *runs)
        spread = spread_of_two(
            first.passes_P, first.n, other.passes_P[order], other.n, (drawn[0], drawn[1])
        )
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if spread.variance(1) == 0.0:
        raise UserError(
            f"{name}: in both runs the samples of each problem are all right or all wrong, and the "
            "runs do not differ: plan from a run with problems that are sometimes right"
        )
    return spread


def _rows(spread: Spread, problems: int, difference: float) -> list[dict[str, Any]]:
    rows = []
    n = 1
    while n <= (MOST_SAMPLES if spread.within else 1):
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
