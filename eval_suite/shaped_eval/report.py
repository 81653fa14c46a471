"""From verdicts to numbers: results.json, report.md, report.html and pictures, of one or more runs.

Everything is computed from the rows of problems.jsonl, samples.jsonl and verdicts.jsonl; run.json
adds the settings that the numbers were made with. No clock is read: the same rows give the same
bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic
from shaped_eval.reporting.cautions import cautions, cautions_of_many
from shaped_eval.reporting.compare import (
    READING_DIFFERENCES,
    Differences,
    compare_runs,
    comparison_results,
    difference_pictures,
    paired_differences,
    solve_rates,
)
from shaped_eval.reporting.compare_many import compare_many
from shaped_eval.reporting.document import (
    Block,
    Details,
    Heading,
    Image,
    Notes,
    Text,
    to_html,
    to_markdown,
)
from shaped_eval.reporting.examples import example_blocks
from shaped_eval.reporting.plan import plan
from shaped_eval.reporting.plots import STRIP_CELLS, plot_pass_at_k, plot_solve_rates, to_png
from shaped_eval.reporting.reliability_tables import TITLE as RELIABILITY
from shaped_eval.reporting.reliability_tables import reliability_blocks
from shaped_eval.reporting.results import (
    GradedRun,
    default_pass_at,
    in_order,
    parse_pass_at,
    read_runs,
    results_text,
)
from shaped_eval.reporting.tables import (
    all_metrics,
    difference_table,
    differing_settings,
    headline_metrics,
    layout_of_many,
    layout_of_one,
    percent,
    runs_table,
    settings,
    verdicts_table,
)
from shaped_eval.reporting.viewing.embedded import all_samples
from shaped_eval.untrusted.files import file_name

__all__ = ["compare", "default_pass_at", "parse_pass_at", "percent", "report", "report_run"]

READING = (
    "Values are percentages with 95% intervals over problems, which say how much another draw of "
    "such problems could change them. The sampling error is the standard error from drawing "
    "other samples for these same problems. Pass@k is the unbiased estimate from n samples; "
    "Avg@n is the share of samples that pass, and equals Pass@1; Cons@n is the majority vote, "
    "where tied answers share the win, and Maj@k is the majority vote of k samples, averaged "
    "over all subsets of k. An average counts each benchmark once."
)
CHOSEN = (
    "Some samples of each outcome that occurs, chosen by a hash of their ids. Long texts are "
    "shortened, and of long prompts only the end is shown. Invisible characters are shown by "
    "their code."
)
COMBINED = "comparison"  # folder of a report on several runs, beside the first run
# sections
METRICS = "All metrics"
PICTURES = "Pass@k and problems"
EXAMPLES = "Samples to read"
ALL_SAMPLES = "All samples"
EXAMPLES_OF_ONE = 2  # samples of each kind in the report of one run
EXAMPLES_OF_MANY = 1  # the same, for each of several runs


def report_run(folder: str | Path, pass_at: Sequence[int] | None = None) -> dict[str, Any]:
    """Write the report of one run into its folder and return the content of results.json.

    It is ``{benchmark: {"problems", "n", "truncated", "unparsed", "metrics": {key: {"value", "low",
    "high", "sampling_se"}}, "reliability": {...}}}`` with keys such as ``pass@8``, ``avg@16``,
    ``maj@8``, ``cons@16``; `reporting.reliability` describes the last object. Values and rates are
    in 0–1; `sampling_se` is null for greedy decoding, where nothing is drawn.

    Raises:
        UserError: a k is above n, or a problem has not exactly n samples and verdicts. Nothing is
            written then.
    """
    (run,) = read_runs([folder], pass_at)
    _write_one(run, run.folder, pass_at)
    return run.results


def places(folders: Sequence[str | Path], out: str | Path | None = None) -> list[Path]:
    """The folders that `report` writes to.

    Runs that do not exist are left out; `report` refuses them.
    """
    if out is not None:
        return [Path(out)]
    runs = [Path(folder) for folder in folders if Path(folder).is_dir()]
    return [*runs, *([_beside(runs[0])] if len(folders) > 1 and runs else [])]


def _beside(run: Path) -> Path:
    return run.absolute().parent / COMBINED


def report(
    folders: Sequence[str | Path],
    pass_at: Sequence[int] | None = None,
    out: str | Path | None = None,
    interrupted: bool = False,
) -> str:
    """Write the report of one or more runs; print its tables as Markdown and return them.

    The report of one run goes into its folder. With several runs, each run's own report goes into
    its folder, and the joint report goes into the folder ``comparison`` beside the first run; it
    has differences to the first run, paired over problems. With `out`, only the one report in `out`
    is written. With `interrupted`, problems that lack samples or verdicts are left out, and the
    report says how many.

    Raises:
        UserError: as `report_run`; also if the runs have different problems in a benchmark that
            they share, or `out` is a run's folder. Nothing is written then.
    """
    runs = read_runs(folders, pass_at, interrupted)
    if out is not None:
        _check_out(out)
    if len(runs) == 1:
        place = Path(out) if out is not None else runs[0].folder
        title, blocks = _write_one(runs[0], place, pass_at)
    else:
        place = Path(out) if out is not None else _beside(runs[0].folder)
        _check_out(place)
        title, blocks, results = _document_of_many(runs, pass_at)
        if out is None:
            for run in runs:
                _write_one(run, run.folder, pass_at)
        _write(place, title, blocks, results)
    return _print(title, blocks, place)


def compare(
    folder_a: str | Path,
    folder_b: str | Path,
    pass_at: Sequence[int] | None = None,
    out: str | Path | None = None,
) -> str:
    """Print how run B differs from run A, as Markdown, and return it.

    With `out`, a page with pictures is written there too.

    Raises:
        UserError: a folder holds no complete run, the runs do not have the same problems, or `out`
            is a run's folder.
    """
    return compare_with_baseline([folder_a, folder_b], pass_at, out)


def compare_with_baseline(
    folders: Sequence[str | Path],
    pass_at: Sequence[int] | None = None,
    out: str | Path | None = None,
) -> str:
    """As `compare`, for the first of `folders` and one or more others.

    The p-values of several others are corrected for their number (Holm).

    Raises:
        UserError: as `compare`.
    """
    if out is not None:
        _check_out(out)
    if len(folders) == 2:
        title, blocks, results = compare_runs(
            folders[0], folders[1], pass_at, pictures=out is not None
        )
    else:
        title, blocks, results = compare_many(folders, pass_at, pictures=out is not None)
    if out is not None:
        _write(Path(out), title, blocks, results)
    return _print(title, blocks, out)


def plan_comparison(
    folders: Sequence[str | Path], points: float, out: str | Path | None = None
) -> str:
    """Print how many problems and samples would show a difference, and return it as Markdown.

    Args:
        folders: of one graded run, or of two on the same problems.
        points: the difference, in percentage points.
        out: folder to write the page into; None to print it only.

    Raises:
        UserError: as `plan`, or `out` is a run's folder.
    """
    if out is not None:
        _check_out(out)
    title, blocks, rows = plan(folders, points)
    if out is not None:
        _write(Path(out), title, blocks, rows)
    return _print(title, blocks, out)


def _document_of_one(run: GradedRun, pass_at: Sequence[int] | None) -> tuple[str, list[Block]]:
    model = run.record.get("model")
    blocks: list[Block] = [Text(READING)]
    if notes := cautions(run):
        blocks.append(Notes(notes))
    blocks += [Heading("Results"), layout_of_one(run, headline_metrics([run], pass_at))]
    blocks += [*_pictures([run]), Heading(METRICS), *all_metrics(run)]
    blocks += reliability_blocks(run.results)
    blocks += [
        Heading("How samples ended"),
        verdicts_table(run),
        Heading("Settings"),
        settings(run.record),
    ]
    blocks += [Heading(EXAMPLES), Text(CHOSEN), *example_blocks(run.folder, EXAMPLES_OF_ONE)]
    blocks += [Heading(ALL_SAMPLES), *all_samples([run.folder])]
    return f"Evaluation of {model}" if model else "Evaluation of given answers", blocks


def _document_of_many(
    runs: Sequence[GradedRun], pass_at: Sequence[int] | None
) -> tuple[str, list[Block], dict[str, Any]]:
    first, *others = runs
    metrics = headline_metrics(runs, pass_at)
    found: dict[str, Differences] = {
        run.label: paired_differences(first, run, metrics) for run in others
    }
    blocks: list[Block] = [runs_table(runs), Text(READING)]
    if notes := cautions_of_many(runs):
        blocks.append(Notes(notes))
    blocks += [Heading("Results"), *(layout_of_many(runs, metric) for metric in metrics)]
    tables = [difference_table(first, others, metric, found) for metric in metrics]
    if any(tables):
        blocks += [Heading(f"Differences to {first.label}"), Text(READING_DIFFERENCES)]
        blocks += [table for table in tables if table is not None]
        blocks += difference_pictures(found, first.label, metrics)
    blocks += _pictures(runs)
    blocks += [Heading("How samples ended"), *(verdicts_table(run) for run in runs)]
    blocks += [Heading("Settings"), *differing_settings(runs)]
    blocks += [Text(f"Settings of {first.label}:"), settings(first.record)]
    blocks += [Heading(EXAMPLES), Text(CHOSEN)]
    for run in runs:
        blocks += example_blocks(run.folder, EXAMPLES_OF_MANY, f"{run.label}: ")
    blocks += [Heading(ALL_SAMPLES), *all_samples([run.folder for run in runs])]
    return (
        f"Evaluation of {', '.join(run.label for run in runs)}",
        blocks,
        comparison_results(runs, found),
    )


def _pictures(runs: Sequence[GradedRun]) -> list[Block]:
    """Curves of pass@k, then heat maps of the problems; left out where a table suffices."""
    names = in_order(name for run in runs for name in run.results)
    runs_with = {name: [run for run in runs if name in run.results] for name in names}
    sampled = [name for name in names if any(run.results[name]["n"] > 1 for run in runs_with[name])]
    mapped = [name for name in names if name in sampled or len(runs_with[name]) > 1]
    pictures = [_curve(name, runs_with[name]) for name in sampled] + [
        _heat_map(name, runs_with[name]) for name in mapped
    ]
    return [Heading(PICTURES), *pictures] if pictures else []


def _curve(benchmark: str, runs: Sequence[GradedRun]) -> Image:
    curves = {}
    for run in runs:
        entry = run.results[benchmark]
        curves[f"{run.label}, n = {entry['n']}"] = _pass_curve(entry)
    png = to_png(plot_pass_at_k({benchmark: curves}))
    return Image(
        f"pass_at_k_{file_name(benchmark)}.png",
        f"Pass@k of {benchmark}; band: 95% interval over problems",
        png,
    )


def _pass_curve(entry: Mapping[str, Any]) -> dict[int, Mapping[str, float]]:
    metrics = entry["metrics"].items()
    return {
        int(key.removeprefix("pass@")): value for key, value in metrics if key.startswith("pass@")
    }


def _heat_map(benchmark: str, runs: Sequence[GradedRun]) -> Image:
    rates = solve_rates(benchmark, runs)
    png = to_png(plot_solve_rates(benchmark, rates))
    extremes = [
        f"{label}: {int((rates_P == 0).sum()):,} never solved, {int((rates_P == 1).sum()):,} always"
        for label, rates_P in rates.items()
    ]
    problems = runs[0].results[benchmark]["problems"]
    shared = (
        f"; a column is the mean of {problems / STRIP_CELLS:.1f} neighbours"
        if problems > STRIP_CELLS
        else ""
    )
    caption = f"Solve rate of each problem of {benchmark}{shared}. {'; '.join(extremes)}"
    return Image(f"solve_rates_{file_name(benchmark)}.png", caption, png)


def _write_one(
    run: GradedRun, place: Path, pass_at: Sequence[int] | None
) -> tuple[str, list[Block]]:
    title, blocks = _document_of_one(run, pass_at)
    _write(place, title, blocks, run.results)
    return title, blocks


def _write(place: Path, title: str, blocks: Sequence[Block], results: Mapping[str, Any]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Image):
            write_atomic(place / block.path, block.png)
    write_atomic(place / "report.md", to_markdown(title, blocks))
    write_atomic(place / "report.html", to_html(title, blocks))
    write_atomic(place / "results.json", results_text(results))


def _check_out(out: str | Path) -> None:
    """Refuse the folder of a run or of a study, which has a report of its own."""
    if Path(out).is_file():
        raise UserError(f"out={str(out)!r} is a file: name a folder")
    for name in ("run.json", "study.yaml"):
        if (Path(out) / name).exists():
            raise UserError(
                f"out={str(out)!r} is the folder of a run or a study ({name}): choose another --out"
            )


def _print(title: str, blocks: Sequence[Block], place: str | Path | None) -> str:
    """Print and return what fits a terminal: no pictures, no samples, and only the main metrics."""
    left_out = (METRICS, PICTURES, EXAMPLES, ALL_SAMPLES, RELIABILITY)
    shown: list[Block] = []
    skipping = False
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            skipping = block.text in left_out
        folded = block.blocks if isinstance(block, Details) else [block]
        shown += [each for each in folded if not skipping and not isinstance(each, Image)]
    text = to_markdown(title, shown)
    print(text.replace("&lt;", "<"))  # the escape is only needed where Markdown is rendered
    if place is not None:
        print(f"written: {Path(place) / 'report.html'}", file=sys.stderr)
    return text
