"""Several runs against one baseline, with p-values that are corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.reporting.cautions import cautions_of_many
from shaped_eval.reporting.compare import (
    READING_DIFFERENCES,
    Differences,
    comparison_results,
    difference_pictures,
    paired_differences,
)
from shaped_eval.reporting.document import Block, Cell, Heading, Notes, Row, Table, Text
from shaped_eval.reporting.results import GradedRun, find_metric, read_runs
from shaped_eval.reporting.tables import (
    difference_cell,
    differing_settings,
    headline_metrics,
    p_text,
    runs_table,
    value_cell,
    verdicts_table,
)
from shaped_eval.statistics.multiple import holm

READING_HOLM = (
    "p (Holm) is corrected for the number of runs that are compared with the baseline on the same "
    "benchmark and metric: if none of them differs, a value below 0.05 occurs in at most 5% of "
    "such comparisons. ▲ and ▼ here also need p (Holm) below 0.05. Nothing is corrected for the "
    "number of benchmarks and metrics."
)


def compare_many(
    folders: Sequence[str | Path],
    pass_at: Sequence[int] | None = None,
    *,
    pictures: bool = True,
) -> tuple[str, list[Block], dict[str, Any]]:
    """Compare runs with the first; return the title, the document and the content of results.json.

    Args:
        folders: of the baseline, then of two or more other runs.
        pass_at: the k of pass@k; None for powers of two.
        pictures: whether the document contains figures.

    Raises:
        UserError: a folder holds no complete run, a run has no benchmark in common with the
            baseline, or a common benchmark has different problems.
    """
    first, *others = read_runs(folders, pass_at)
    found = {run.label: paired_differences(first, run) for run in others}
    for run in others:
        if not found[run.label]:
            raise UserError(
                f"{str(first.folder)!r} ({', '.join(first.outcomes)}) and {str(run.folder)!r} "
                f"({', '.join(run.outcomes)}) have no benchmark in common: compare runs on the "
                "same problems"
            )
    _correct(list(found.values()))
    runs = [first, *others]
    headline = headline_metrics(runs, pass_at)
    blocks: list[Block] = [
        runs_table(runs),
        Text(f"Each difference is a run minus {first.label}. {READING_DIFFERENCES}"),
        Text(READING_HOLM),
    ]
    if notes := cautions_of_many(runs):
        blocks.append(Notes(notes))
    blocks.append(Heading("Values and differences"))
    blocks += [_table(first, others, found, metric) for metric in headline]
    blocks += difference_pictures(found, first.label, headline) if pictures else []
    blocks += [Heading("Samples"), *(verdicts_table(run) for run in runs)]
    if differing := differing_settings(runs):
        blocks += [Heading("Settings"), *differing]
    names = ", ".join(run.label for run in others)
    return f"{names} against {first.label}", blocks, comparison_results(runs, found)


def _correct(differences: Sequence[Differences]) -> None:
    """Add ``p_corrected`` to each difference, among the runs that have its benchmark and metric."""
    families: dict[tuple[str, str], list[dict[str, float]]] = {}
    for by_benchmark in differences:
        for name, by_metric in by_benchmark.items():
            for metric, difference in by_metric.items():
                families.setdefault((name, metric), []).append(difference)
    for family in families.values():
        for difference, p_value in zip(
            family, holm([each["p_value"] for each in family]), strict=True
        ):
            difference["p_corrected"] = p_value


def _table(
    first: GradedRun, others: Sequence[GradedRun], found: dict[str, Differences], metric: str
) -> Table:
    rows: list[Sequence[str | Cell] | Row] = []
    for name, entry in first.results.items():
        compared = [run for run in others if metric in found[run.label].get(name, {})]
        if not compared:
            continue
        rows.append(Row([f"{name}, {entry['problems']:,} problems"], "group"))
        rows.append([first.label, value_cell(find_metric(entry, metric)), "", "", ""])
        for run in compared:
            difference = found[run.label][name][metric]
            marked = {**difference, "p_value": difference["p_corrected"]}
            rows.append(
                [
                    run.label,
                    value_cell(find_metric(run.results[name], metric)),
                    difference_cell(marked, with_p=False),
                    *(
                        p_text(difference[key]).removeprefix("= ")
                        for key in ("p_value", "p_corrected")
                    ),
                ]
            )
    caption = f"{metric}: values in %, differences to {first.label} in percentage points"
    return Table(caption, ["run", "value", "difference", "p", "p (Holm)"], rows)
