"""Runs on the same problems: differences paired over problems, and which problems changed.

The difference of two models on the same problems is estimated far more precisely than either value,
because the difficulty of each problem cancels. Letter: P problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shaped_eval.benchmarks.terms import is_publishable
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from shaped_eval.reporting.cautions import cautions_of_many
from shaped_eval.reporting.document import (
    Block,
    Cell,
    Details,
    Heading,
    Image,
    Notes,
    Row,
    Table,
    Text,
)
from shaped_eval.reporting.examples import common_start, prompt_text
from shaped_eval.reporting.plots import plot_differences, plot_flips, to_png
from shaped_eval.reporting.results import GradedRun, average, find_metric, in_order, read_runs
from shaped_eval.reporting.tables import (
    NONE,
    difference_cell,
    differing_settings,
    headline_metrics,
    p_text,
    percent,
    runs_table,
    sampling_note,
    signed,
    value_cell,
    verdicts_table,
)
from shaped_eval.statistics import paired_difference
from shaped_eval.statistics.votes import Values
from shaped_eval.untrusted.files import file_name
from shaped_eval.untrusted.texts import shorten

READING_DIFFERENCES = (
    "Values are percentages with 95% intervals over problems. Differences are in percentage "
    "points and paired over problems, with a bootstrap interval and a two-sided sign-flip "
    "p-value that is not corrected for the number of rows. ▲ and ▼ mark differences whose "
    "interval excludes 0 and, for a single benchmark, whose p is below 0.05. The intervals say "
    "how much a difference could change with other problems, not with other training seeds."
)
LISTED_PROBLEMS = 10
_GOLD_CHARACTERS = 80
_QUESTION_CHARACTERS = 240

Differences = dict[str, dict[str, dict[str, float]]]  # benchmark → metric → difference


def paired_differences(
    first: GradedRun, other: GradedRun, metrics: Sequence[str] | None = None
) -> Differences:
    """Other − first for the benchmarks that both runs have, paired over problems.

    Args:
        metrics: the metrics to compare, such as ``avg@n`` and ``cons@n``; None for all. Avg@n is
            compared at any n; cons@n needs the same n in both runs.

    Raises:
        UserError: the runs have different problems in a benchmark that both have.
    """
    found: Differences = {}
    for name in in_order(first.outcomes):
        if name in other.outcomes:
            one = first.outcomes[name]
            order = same_problems(name, first, other)
            pairs = _shared_values(
                first.values[name], other.values[name], one.n, other.outcomes[name].n
            )
            found[name] = {
                metric: asdict(paired_difference(a_P, b_P[order]))
                for metric, (a_P, b_P) in pairs.items()
                if metrics is None or metric in metrics
            }
    return found


def solve_rates(benchmark: str, runs: Sequence[GradedRun]) -> dict[str, Values]:
    """Label → share of samples that pass [P], with the problems in the first run's order.

    Raises:
        UserError: the runs have different problems.
    """
    first = runs[0]
    rates = {}
    for run in runs:
        outcomes = run.outcomes[benchmark]
        order = same_problems(benchmark, first, run)
        rates[run.label] = (outcomes.passes_P / outcomes.n)[order]
    return rates


def compare_runs(
    folder_a: str | Path,
    folder_b: str | Path,
    pass_at: Sequence[int] | None = None,
    *,
    pictures: bool = True,
) -> tuple[str, list[Block], dict[str, Any]]:
    """Compare two runs; return the title, the document and the content of results.json.

    Args:
        folder_a, folder_b: the folders of the runs; differences are b − a.
        pass_at: the k of pass@k; None for powers of two.
        pictures: whether the document contains figures.

    Raises:
        UserError: a folder holds no complete run, the runs have no benchmark in common, or a common
            benchmark has different problems.
    """
    a, b = read_runs([folder_a, folder_b], pass_at)
    differences = paired_differences(a, b)
    if not differences:
        raise UserError(
            f"{str(folder_a)!r} ({', '.join(a.outcomes)}) and {str(folder_b)!r} "
            f"({', '.join(b.outcomes)}) have no benchmark in common: compare runs on the same "
            "problems"
        )
    headline = headline_metrics([a, b], pass_at)
    blocks: list[Block] = [
        runs_table([a, b]),
        Text(f"Each difference is {b.label} minus {a.label}. {READING_DIFFERENCES}"),
    ]
    if notes := cautions_of_many([a, b]):
        blocks.append(Notes(notes))
    only = [*(set(a.outcomes) ^ set(b.outcomes))]
    if only:
        blocks.append(
            Text(f"Not compared, because only one run has them: {', '.join(sorted(only))}.")
        )
    blocks += [Heading("Values and differences"), _value_table(a, b, differences, headline)]
    blocks += difference_pictures({b.label: differences}, a.label, headline) if pictures else []
    blocks += _flips(a, b, list(differences), pictures)
    blocks += [Heading("Samples"), *(verdicts_table(run) for run in (a, b))]
    if differing := differing_settings([a, b]):
        blocks += [Heading("Settings"), *differing]
    return (
        f"{b.label} against {a.label}",
        blocks,
        comparison_results([a, b], {b.label: differences}),
    )


def comparison_results(
    runs: Sequence[GradedRun], differences: Mapping[str, Differences]
) -> dict[str, Any]:
    """The content of results.json for several runs: their results and differences to the first."""
    first = runs[0]
    entries = {run.label: run.results for run in runs}
    rows = [
        {
            "run": label,
            "against": first.label,
            "benchmark": name,
            "metric": _own_name(metric, first.results[name], entries[label][name]),
            **difference,
        }
        for label, by_benchmark in differences.items()
        for name, by_metric in by_benchmark.items()
        for metric, difference in by_metric.items()
    ]
    described = {
        run.label: {
            "folder": str(run.folder),
            "model": run.record.get("model"),
            "results": run.results,
        }
        for run in runs
    }
    return {"runs": described, "differences": rows}


def difference_pictures(
    found: Mapping[str, Differences], first: str, metrics: Sequence[str]
) -> list[Block]:
    """One figure for each headline metric: the benchmarks' differences to the first run."""
    blocks: list[Block] = []
    for metric in metrics:
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for label, by_benchmark in found.items():
            for name, by_metric in by_benchmark.items():
                if metric in by_metric:
                    rows.setdefault(name, {})[label] = by_metric[metric]
        if len(rows) > 1 or len(found) > 1:  # the table suffices for a single difference
            title = f"{metric[0].upper()}{metric[1:]}: difference to {first}"
            path = f"differences_{file_name(metric.replace('@', '_at_'))}.png"
            caption = f"{title}, percentage points; lines: 95% intervals over problems"
            blocks.append(Image(path, caption, to_png(plot_differences(rows, title))))
    return blocks


def _shared_values(
    a: Mapping[str, Values], b: Mapping[str, Values], n_a: int, n_b: int
) -> dict[str, tuple[Values, Values]]:
    """Metric → the values of both runs [P], each in its own order of problems.

    Pass@1 equals avg@n and is left out.
    """
    pairs = {"avg@n": (a[f"avg@{n_a}"], b[f"avg@{n_b}"])}
    pairs |= {
        key: (a[key], b[key]) for key in a if key in b and key not in ("pass@1", f"avg@{n_a}")
    }
    if f"cons@{n_a}" in pairs:
        pairs["cons@n"] = pairs.pop(f"cons@{n_a}")
    return pairs


def same_problems(benchmark: str, first: GradedRun, other: GradedRun) -> NDArray[np.int64]:
    """Position in the other run of each problem of the first run [P].

    Raises:
        UserError: the runs have other problems, golds or graders.
    """
    ids = first.outcomes[benchmark].problem_ids
    other_ids = other.outcomes[benchmark].problem_ids
    only_one = set(ids) ^ set(other_ids)
    if only_one:
        raise UserError(
            f"{str(first.folder)!r} and {str(other.folder)!r} differ in {len(only_one)} problems "
            f"of {benchmark}, such as {min(only_one)}: paired differences need the same problems, "
            "so sample both runs with the same --limit"
        )
    tasks = dict(zip(ids, first.outcomes[benchmark].tasks_P, strict=True))
    other_tasks = dict(zip(other_ids, other.outcomes[benchmark].tasks_P, strict=True))
    changed = [problem_id for problem_id in ids if tasks[problem_id] != other_tasks[problem_id]]
    if changed:
        raise UserError(
            f"{str(first.folder)!r} and {str(other.folder)!r} have different golds or graders in "
            f"{len(changed):,} of {len(ids):,} problems of {benchmark}, such as {changed[0]}: "
            "paired differences need the same problems"
        )
    position = {problem_id: index for index, problem_id in enumerate(other_ids)}
    return np.array([position[problem_id] for problem_id in ids], dtype=np.int64)


def _value_table(
    a: GradedRun, b: GradedRun, differences: Differences, headline: Sequence[str]
) -> Table:
    rows: list[Sequence[str | Cell] | Row] = []
    for name, by_metric in differences.items():
        left, right = a.results[name], b.results[name]
        rows.append(Row([f"{name}, {left['problems']:,} problems"], "group"))
        rows.append(
            ["", Cell("", note=sampling_note(left)), Cell("", note=sampling_note(right)), "", ""]
        )
        for metric, difference in by_metric.items():
            values = [value_cell(find_metric(entry, metric)) for entry in (left, right)]
            rows.append([_own_name(metric, left, right), *values, *_change(difference)])
    for metric in headline:
        names = [name for name, by_metric in differences.items() if metric in by_metric]
        if len(names) > 1:
            means = [
                average({name: find_metric(run.results[name], metric) or {} for name in names})
                for run in (a, b)
            ]
            change = average({name: differences[name][metric] for name in names})
            cells = [*(value_cell(mean) for mean in means), *_change(change)]
            rows.append(
                Row(
                    [Cell(f"{metric}, average", note=f"of {len(names)} benchmarks"), *cells],
                    "average",
                )
            )
    columns = ["metric", a.label, b.label, "difference", "p"]
    return Table(
        f"{b.label} against {a.label}: values in %, differences in percentage points", columns, rows
    )


def _change(difference: Mapping[str, float]) -> list[str | Cell]:
    p_value = difference.get("p_value")
    return [
        difference_cell(difference, with_p=False),
        NONE if p_value is None else p_text(p_value).removeprefix("= "),
    ]


def _own_name(metric: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """``avg@16`` in place of ``avg@n`` where both runs have 16 samples per problem."""
    return f"{metric[:-1]}{a['n']}" if metric.endswith("@n") and a["n"] == b["n"] else metric


def _flips(
    a: GradedRun, b: GradedRun, benchmarks: Sequence[str], with_pictures: bool
) -> list[Block]:
    """Report which problems one run solves more often than the other."""
    summary, pictures, lists = [], [], []
    for name in benchmarks:
        rates_a_P, rates_b_P = solve_rates(name, [a, b]).values()
        change_P = rates_b_P - rates_a_P
        counts = [
            change_P > 0,
            change_P < 0,
            change_P == 0,
            (rates_a_P == 0) & (rates_b_P > 0),
            (rates_a_P > 0) & (rates_b_P == 0),
        ]
        summary.append([name, f"{len(change_P):,}", *(f"{int(which.sum()):,}" for which in counts)])
        if with_pictures:
            pictures.append(_flip_picture(name, a, b, rates_a_P, rates_b_P))
        lists += _extremes(name, a, b, rates_a_P, rates_b_P)
    columns = ["benchmark", "problems", "better", "worse", "same", f"solved by {b.label} alone",
               f"solved by {a.label} alone"]  # fmt: skip
    explained = (
        f"Better (worse): a larger (smaller) share of the samples of {b.label} passes. Solved: at "
        "least one sample passes. With few samples per problem, many of these changes are "
        "chance, and the largest ones shrink when the problems are sampled again."
    )
    blocks: list[Block] = [Heading("Problems that changed"), Text(explained)]
    return [
        *blocks,
        Table("Number of problems by kind of change", columns, summary),
        *pictures,
        *lists,
    ]


def _flip_picture(name: str, a: GradedRun, b: GradedRun, a_P: Values, b_P: Values) -> Image:
    better, worse = int((b_P > a_P).sum()), int((b_P < a_P).sum())
    alt = (
        f"{name}: solve rates of {len(a_P):,} problems; {better:,} are solved more often by "
        f"{b.label} than by {a.label}, {worse:,} less often"
    )
    caption = (
        f"{alt}. The area of a dot is the number of problems; blue: more often, orange: less often."
    )
    return Image(
        f"flips_{file_name(name)}.png",
        caption,
        to_png(plot_flips(name, (a.label, b.label), a_P, b_P)),
        alt,
    )


def _extremes(name: str, a: GradedRun, b: GradedRun, a_P: Values, b_P: Values) -> list[Block]:
    """Tables of the problems with the largest gains and losses; ties stay in the run's order."""
    ids = a.outcomes[name].problem_ids
    gains, losses = (
        [int(i) for i in np.argsort(-gain_P, kind="stable")[:LISTED_PROBLEMS] if gain_P[i] > 0]
        for gain_P in (b_P - a_P, a_P - b_P)
    )
    problems = {
        row["problem_id"]: row
        for row in read_jsonl(a.folder / "problems.jsonl")
        if row["benchmark"] == name
    }
    prompts = [(name, prompt_text(row["prompt"])) for row in problems.values()]
    start = len(common_start(prompts)[name])
    shown = is_publishable(name)
    blocks: list[Block] = []
    for title, chosen in (("gains", gains), ("losses", losses)):
        rows = [
            [
                ids[i],
                percent(a_P[i]),
                percent(b_P[i]),
                signed(b_P[i] - a_P[i]),
                *(_gold_and_question(problems[ids[i]], start) if shown else (NONE, NONE)),
            ]
            for i in chosen
        ]
        if rows:
            columns = ["problem", f"{a.label}, %", f"{b.label}, %", "points", "gold", "question"]
            table = Table(f"{name}: largest {title} of {b.label}", columns, rows)
            blocks.append(
                Details(
                    f"{name}: the {len(rows)} largest {title}, up to {rows[0][3]} points", [table]
                )
            )
    return blocks


def _gold_and_question(problem: Mapping[str, Any], start: int) -> tuple[str, str]:
    """Both shortened; the first `start` characters of the prompt are left out."""
    question = " ".join(prompt_text(problem["prompt"])[start:].split())
    return shorten(str(problem["gold"]), _GOLD_CHARACTERS, 0), shorten(
        question, _QUESTION_CHARACTERS, 0
    )
