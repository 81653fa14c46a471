"""The tables of a report: benchmarks with averages, differences to the first run, all metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from shaped_eval.benchmarks import suites
from shaped_eval.reporting.document import Block, Cell, Details, Items, Row, Table
from shaped_eval.reporting.outcomes import Outcomes
from shaped_eval.reporting.results import GradedRun, average, find_metric, grouped

NONE = "–"
_STATUSES = ("pass", "fail", "unparsed", "timeout", "error")

Entry = Mapping[str, Any]  # of results.json
Difference = Mapping[str, Any]


def percent(share: float | None) -> str:
    """``0.1234`` as ``12.3``; a dash for None."""
    return NONE if share is None else f"{100 * share:.1f}"


def rate(share: float | None) -> str:
    """As `percent`, with the percent sign; a small share that is not 0 is shown as ``<0.1%``."""
    if share is None:
        return NONE
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


def signed(share: float) -> str:
    """A difference in percentage points with its sign; a value that rounds to 0 has no sign."""
    return "0.0" if abs(share) < 0.0005 else f"{100 * share:+.1f}"


def p_text(p_value: float) -> str:
    """``= 0.012``, or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def is_significant(difference: Difference) -> bool:
    """Whether the interval excludes 0 and the p-value, where there is one, is below 0.05."""
    one_side = difference["low"] > 0 or difference["high"] < 0
    return one_side and difference.get("p_value", 0.0) < 0.05


def headline_metrics(runs: Sequence[GradedRun], pass_at: Sequence[int] | None) -> list[str]:
    """The metrics of the main tables: ``avg@n``, ``cons@n`` and some pass@k, where available.

    The k are those in `pass_at`. By default they are the largest k that is available, and a small
    one: a power of two near its square root.
    """
    ks = [k for name in _names(runs) for k in _shared_k(runs, name)]
    largest = max(ks, default=1)
    chosen = (
        pass_at
        if pass_at is not None
        else sorted({1 << (largest.bit_length() // 2), largest} & set(ks))
    )
    metrics = ["avg@n", *(f"pass@{k}" for k in chosen if k > 1)]
    metrics += (
        ["cons@n"] if any(entry["n"] > 1 for run in runs for entry in run.results.values()) else []
    )
    return [
        metric
        for metric in metrics
        if any(_entry_metric(run, name, metric) for run in runs for name in run.results)
    ]


def _shared_k(runs: Sequence[GradedRun], name: str) -> set[int]:
    """The k of pass@k that every run with this benchmark has."""
    keys = [set(run.results[name]["metrics"]) for run in runs if name in run.results]
    return {
        int(key.removeprefix("pass@")) for key in set.intersection(*keys) if key.startswith("pass@")
    }


def layout_of_one(run: GradedRun, metrics: Sequence[str]) -> Table:
    """A table of one run: benchmarks by group and averages × metrics, n and rates."""

    def line(name: str) -> list[str | Cell]:
        entry = run.results[name]
        values = [value_cell(find_metric(entry, metric)) for metric in metrics]
        rates = [rate(entry["truncated"]), rate(entry["unparsed"])]
        return [_named(name, entry), *values, f"{entry['problems']:,}", str(entry["n"]), *rates]

    def mean(names: Sequence[str]) -> list[str | Cell]:
        return [*(_mean(run, names, metric) for metric in metrics), *[""] * 4]

    columns = ["benchmark", *map(_title, metrics), "problems", "n", "truncated", "unparsed"]
    return Table("Results, %", columns, _layout(list(run.results), line, mean))


def layout_of_many(runs: Sequence[GradedRun], metric: str) -> Table:
    """A table of several runs: benchmarks by group × runs; averages cover what all runs have."""
    names = [name for name in _names(runs) if any(_entry_metric(run, name, metric) for run in runs)]
    shared = [name for name in names if all(_entry_metric(run, name, metric) for run in runs)]

    def line(name: str) -> list[str | Cell]:
        cells = []
        for run in runs:
            found = _entry_metric(run, name, metric)
            entry = run.results.get(name)
            cells.append(value_cell(found, sampling_note(entry) if found and entry else ""))
        return [
            _named(name, next(run.results[name] for run in runs if name in run.results)),
            *cells,
        ]

    def mean(members: Sequence[str]) -> list[str | Cell]:
        return [_mean(run, members, metric) for run in runs]

    return Table(
        f"{_title(metric)}, %",
        ["benchmark", *(run.label for run in runs)],
        _layout(names, line, mean, shared),
    )


def _named(name: str, entry: Entry) -> str:
    """The benchmark's name with the kind of accuracy that its value is."""
    return f"{name} ({entry['accuracy']})" if "accuracy" in entry else name


def difference_table(
    first: GradedRun,
    others: Sequence[GradedRun],
    metric: str,
    found: Mapping[str, Mapping[str, Mapping[str, Difference]]],
) -> Table | None:
    """A table of differences to the first run: benchmarks by group and averages × the other runs.

    None where no benchmark is paired.

    Args:
        found: label of the other run → benchmark → metric → difference.
    """
    by_run = {
        run.label: {name: each[metric] for name, each in found[run.label].items() if metric in each}
        for run in others
    }
    names = [name for name in first.results if any(name in each for each in by_run.values())]
    if not names:
        return None
    shared = [name for name in names if all(name in each for each in by_run.values())]

    def line(name: str) -> list[str | Cell]:
        return [
            name,
            *(difference_cell(each[name]) if name in each else NONE for each in by_run.values()),
        ]

    def mean(members: Sequence[str]) -> list[str | Cell]:
        return [
            difference_cell(average({name: each[name] for name in members}))
            for each in by_run.values()
        ]

    caption = f"{_title(metric)}: difference to {first.label}, percentage points"
    return Table(caption, ["benchmark", *by_run], _layout(names, line, mean, shared))


def all_metrics(run: GradedRun) -> list[Block]:
    """For each benchmark, folded, every metric of results.json with interval and sampling error."""
    folded: list[Block] = []
    for name, entry in run.results.items():
        rows = [
            [key, *(percent(metric[end]) for end in ("value", "low", "high", "sampling_se"))]
            for key, metric in entry["metrics"].items()
        ]
        caption = (
            f"{_named(name, entry)}: {entry['problems']:,} problems, n = {entry['n']}, "
            f"{rate(entry['truncated'])} of samples truncated, {rate(entry['unparsed'])} unparsed"
        )
        table = Table(caption, ["metric", "%", "low", "high", "sampling error"], rows)
        folded.append(Details(f"All metrics of {name}", [table]))
    return folded


def runs_table(runs: Sequence[GradedRun]) -> Table:
    """A table of the runs: the model of each, and how it was sampled."""
    shown = {
        "n": "n",
        "temperature": "temperature",
        "top_p": "top-p",
        "max_new_tokens": "token limit",
    }
    rows = [
        [
            run.label,
            str(run.record.get("model") or "given answers"),
            *(str(run.record["settings"].get(key, NONE)) for key in shown),
            str(run.folder),
        ]
        for run in runs
    ]
    return Table("Runs", ["run", "model", *shown.values(), "folder"], rows)


def verdicts_table(run: GradedRun) -> Table:
    """How the samples of each benchmark ended."""
    rows = [
        [name, ", ".join(one.graders), *_verdict_cells(one)] for name, one in run.outcomes.items()
    ]
    return Table(
        f"{run.label}: samples by verdict",
        ["benchmark", "grader", *_STATUSES, "truncated", "mean tokens"],
        rows,
    )


def settings(record: Mapping[str, Any]) -> Items:
    """The settings that the numbers were made with."""
    facts = {
        "model": record.get("model"),
        "model identity": record.get("model_identity"),
        **record["settings"],
        "dtype that ran": record.get("dtype"),
        "device": record.get("device"),
        "repeatability": record.get("repeatability"),
        "server": record.get("base_url"),
        "confinement of generated code": "; ".join(record.get("confinement", [])),
        "commit": record.get("commit"),
        "versions": ", ".join(
            f"{name} {version}" for name, version in record.get("versions", {}).items()
        ),
    }
    return Items(
        [f"{name}: {value}" for name, value in facts.items() if value is not None and value != ""]
    )


def differing_settings(runs: Sequence[GradedRun]) -> list[Block]:
    """A table of the settings in which the runs differ, including their prompts and golds."""
    facts = {
        run.label: {
            "model": run.record.get("model"),
            **run.record["settings"],
            "dtype that ran": run.record.get("dtype"),
            "problems and prompts (hash)": str(run.record.get("task_hash"))[:12],
            "commit": run.record.get("commit"),
            **run.record.get("versions", {}),
        }
        for run in runs
    }
    names = dict.fromkeys(name for one in facts.values() for name in one)
    rows = [[name, *(str(one.get(name, NONE)) for one in facts.values())] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return [Table("Settings that differ", ["setting", *facts], differing)] if differing else []


def _names(runs: Sequence[GradedRun]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.results))


def _layout(
    names: Sequence[str],
    line: Callable[[str], list[str | Cell]],
    mean: Callable[[Sequence[str]], list[str | Cell]],
    averaged: Sequence[str] | None = None,
) -> list[Sequence[str | Cell] | Row]:
    """Group headings, a row for each benchmark, and averages of two or more benchmarks."""
    averaged = names if averaged is None else averaged
    rows: list[Sequence[str | Cell] | Row] = []

    def average_row(title: str, members: Sequence[str]) -> None:
        if len(members) > 1:
            rows.append(
                Row([Cell(title, note=f"of {len(members)} benchmarks"), *mean(members)], "average")
            )

    groups = grouped(names)
    for group, members in groups.items():
        rows.append(Row([group], "group"))
        rows += [line(name) for name in members]
        if len(groups) > 1 and group in suites.GROUPS:
            average_row(f"Average, {group}", [name for name in members if name in averaged])
    of_paper = [name for name in averaged if name in suites.BASE]
    if len(of_paper) < len(averaged):
        average_row("Average, the paper's groups", of_paper)
    average_row("Average, all", averaged)
    return rows


def _mean(run: GradedRun, names: Sequence[str], metric: str) -> str | Cell:
    found = {name: _entry_metric(run, name, metric) for name in names}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return NONE
    return value_cell(
        average(known), "" if len(known) == len(names) else f"of the {len(known)} that have it"
    )


def _entry_metric(run: GradedRun, name: str, metric: str) -> dict[str, Any] | None:
    return find_metric(run.results[name], metric) if name in run.results else None


def value_cell(metric: Entry | None, note: str = "") -> str | Cell:
    """A metric of results.json with its interval; a dash where there is none."""
    if metric is None:
        return NONE
    return Cell(
        percent(metric["value"]), f"[{percent(metric['low'])}, {percent(metric['high'])}]", note
    )


def difference_cell(difference: Difference, *, with_p: bool = True) -> Cell:
    """The difference with its interval and, where it has one, its p-value. Averages have none."""
    value, low, high = (signed(difference[key]) for key in ("value", "low", "high"))
    note = f"p {p_text(difference['p_value'])}" if with_p and "p_value" in difference else ""
    tone: Literal["", "up", "down"] = ""
    if is_significant(difference):
        tone = "up" if difference["value"] > 0 else "down"
    return Cell(value, f"[{low}, {high}]", note, tone)


def sampling_note(entry: Entry) -> str:
    """Samples per problem, and the shares of samples that were cut or have no answer."""
    return f"n {entry['n']}, {rate(entry['truncated'])} cut, {rate(entry['unparsed'])} unparsed"


def _title(metric: str) -> str:
    return metric[0].upper() + metric[1:]


def _verdict_cells(outcomes: Outcomes) -> list[str]:
    counts = [f"{outcomes.statuses[status]:,}" for status in _STATUSES]
    if outcomes.truncated is None or outcomes.tokens is None:
        return [*counts, NONE, NONE]
    return [*counts, f"{outcomes.truncated:,}", f"{outcomes.tokens / outcomes.num_samples:,.1f}"]
