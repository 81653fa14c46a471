"""Verdicts to numbers: ``results.json``, ``report.md``, ``report.html`` and the curve of each benchmark.

Everything is computed from the rows of problems.jsonl, samples.jsonl and verdicts.jsonl; run.json adds the
settings the numbers were made with. P problems, n samples per problem.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval_suite.compare import comparison_blocks
from eval_suite.document import Block, Heading, Image, Items, Table, Text, to_html, to_markdown
from eval_suite.errors import UserError
from eval_suite.outcomes import Outcomes, read_outcomes, read_record
from eval_suite.plots import plot_pass_at_k, to_png
from eval_suite.records import write_atomic
from eval_suite.statistics import (
    avg_at_m,
    maj_at_k,
    near_edge,
    pass_at_k,
    problem_interval,
    sampling_se,
    vote_sampling_se,
)

READING = (
    "Values are percentages, with 95% intervals over problems: how far another draw of such problems could "
    "move them. The sampling error is the standard error of drawing other samples for these same problems. "
    "Pass@k is the unbiased estimate from n samples; Avg@n is the share of samples that pass; Cons@n is the "
    "majority vote, shared among ties, and Maj@k that of k samples, averaged over all subsets of k."
)
NEAR_EDGE = (
    "* Near 0 or 100 (less than 10 problems' worth of value at one end) the interval is the exact one: it is wider "
    "than 95% needs, and covers in 97 to 100% of draws."
)


def parse_pass_at(text: str | None, n: int | None = None) -> list[int] | None:
    """``"1,8,64"`` as [1, 8, 64]; None stays None (powers of two up to n).

    Raises:
        UserError: not whole numbers from 1, or above `n` samples, where `n` is given.
    """
    if text is None:
        return None
    ks = []
    for part in str(text).split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise UserError(f"pass_at={text!r}: {part!r} is no k; give whole numbers from 1, such as 1,8,64")
        ks.append(int(part))
    if n is not None:
        _check_pass_at(ks, n)
    return sorted(set(ks))


def default_pass_at(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself."""
    return sorted({1 << power for power in range(n.bit_length())} | {n})


def report_run(folder: str | Path, pass_at: Sequence[int] | None = None) -> dict[str, Any]:
    """Write the report of one run into its folder and return what results.json holds.

    ``{benchmark: {"problems", "n", "truncated", "unparsed", "metrics": {key: {"value", "low", "high",
    "sampling_se"}}}}`` with keys such as ``pass@8``, ``avg@16``, ``maj@8``, ``cons@16``; values and rates in 0–1.

    Raises:
        UserError: a k above n, or a problem without exactly n samples and verdicts; nothing is written.
    """
    outcomes, ks = _read(folder, pass_at)
    return _write_report(Path(folder), outcomes, ks)


def report(folders: Sequence[str | Path], pass_at: Sequence[int] | None = None) -> str:
    """Write each run's report, print and return Markdown tables; several runs side by side, with differences.

    Differences are paired over problems, to the first folder.

    Raises:
        UserError: as `report_run`; or the runs have other problems in a benchmark that they share.
    """
    runs = {str(folder): _read(folder, pass_at) for folder in folders}
    if len(runs) > 1:
        ks = None if pass_at is None else list(pass_at)
        blocks = [
            *comparison_blocks({folder: outcomes for folder, (outcomes, _) in runs.items()}, ks),
            *_differing_settings({folder: read_record(folder) for folder in runs}),
        ]
    for folder, (outcomes, run_ks) in runs.items():
        results = _write_report(Path(folder), outcomes, run_ks)
    if len(runs) == 1:
        blocks = _metric_blocks(results)
    text = to_markdown(", ".join(runs), blocks)
    print(text)
    return text


def benchmark_results(outcomes: Outcomes, pass_at: Sequence[int]) -> dict[str, Any]:
    """The entry of one benchmark in results.json; maj@k for the k of pass@k between 1 and n."""
    n = outcomes.n
    total = outcomes.num_samples
    metrics = {
        f"pass@{k}": problem_interval(pass_at_k(outcomes.passes_P, n, k), sampling_se(outcomes.passes_P, n, k))
        for k in pass_at
    }
    metrics[f"avg@{n}"] = problem_interval(avg_at_m(outcomes.passes_P, n), sampling_se(outcomes.passes_P, n, 1))
    ballots_P = outcomes.ballots_P
    for k in [k for k in pass_at if 1 < k < n]:
        metrics[f"maj@{k}"] = problem_interval(maj_at_k(ballots_P, k), vote_sampling_se(ballots_P, k))
    metrics[f"cons@{n}"] = problem_interval(outcomes.votes_P, vote_sampling_se(ballots_P, n))
    return {
        "problems": len(outcomes.problem_ids),
        "n": n,
        "truncated": outcomes.truncated / total,
        "unparsed": outcomes.statuses["unparsed"] / total,
        "metrics": {key: asdict(interval) for key, interval in metrics.items()},
    }


def _read(folder: str | Path, pass_at: Sequence[int] | None) -> tuple[dict[str, Outcomes], list[int]]:
    n = read_record(folder)["settings"]["n"]
    if pass_at is not None:
        _check_pass_at(pass_at, n)
    return read_outcomes(folder), default_pass_at(n) if pass_at is None else sorted(set(pass_at))


def _check_pass_at(ks: Sequence[int], n: int) -> None:
    for k in ks:
        if not 1 <= k <= n:
            raise UserError(
                f"pass_at={k}: the run has n={n} samples a problem; choose k from 1 to {n}, or sample more"
            )


def _write_report(folder: Path, outcomes: dict[str, Outcomes], ks: list[int]) -> dict[str, Any]:
    record = read_record(folder)
    results = {name: benchmark_results(one, ks) for name, one in outcomes.items()}
    images = [_curve(name, entry, ks) for name, entry in results.items()]
    for image in images:
        (folder / image.path).write_bytes(image.png)
    title = f"Evaluation of {record['model']}" if record.get("model") else "Evaluation of given answers"
    blocks = [*_metric_blocks(results), *images, *_settings_blocks(record, outcomes)]
    write_atomic(folder / "report.md", to_markdown(title, blocks))
    write_atomic(folder / "report.html", to_html(title, blocks))
    write_atomic(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _curve(benchmark: str, entry: dict[str, Any], ks: list[int]) -> Image:
    metrics = {k: entry["metrics"][f"pass@{k}"] for k in ks}
    png = to_png(plot_pass_at_k({benchmark: {f"n = {entry['n']}": metrics}}))
    return Image(f"pass_at_k_{benchmark}.png", f"Pass@k of {benchmark}; band: 95% interval over problems", png)


def _metric_blocks(results: dict[str, Any]) -> list[Block]:
    """For each benchmark its metrics; first of all, how to read them."""
    blocks: list[Block] = [Text(READING)]
    for name, entry in results.items():
        rows, stars = [], []
        for key, metric in entry["metrics"].items():
            stars.append("*" if near_edge(metric["value"], entry["problems"]) else "")
            low, high = percent(metric["low"]), percent(metric["high"])
            rows.append([key, percent(metric["value"]), low, high + stars[-1], percent(metric["sampling_se"])])
        caption = (
            f"{name}: {entry['problems']} problems, n = {entry['n']}, "
            f"{percent(entry['truncated'])}% of samples truncated, {percent(entry['unparsed'])}% unparsed"
        )
        blocks.append(Table(caption, ["metric", "%", "low", "high", "sampling error"], rows))
        if any(stars):
            blocks.append(Text(NEAR_EDGE))
    return blocks


def _settings_blocks(record: dict[str, Any], outcomes: dict[str, Outcomes]) -> list[Block]:
    """What the numbers were made with, and how the samples fared."""
    facts = {
        "model": record.get("model"),
        "model identity": record.get("model_identity"),
        **record["settings"],
        "device": record.get("device"),
        "commit": record.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
    }
    rows = [
        [
            name,
            ", ".join(one.graders),
            *(str(one.statuses[status]) for status in ("pass", "fail", "unparsed", "timeout", "error")),
            str(one.truncated),
            f"{one.tokens / one.num_samples:.1f}",
        ]
        for name, one in outcomes.items()
    ]
    columns = [
        "benchmark",
        "grader",
        "pass",
        "fail",
        "unparsed",
        "timeout",
        "error",
        "truncated",
        "mean tokens",
    ]
    return [
        Heading("Samples"),
        Table("How the samples fared", columns, rows),
        Heading("Settings"),
        Items([f"{name}: {value}" for name, value in facts.items() if value is not None and value != ""]),
    ]


def _differing_settings(records: dict[str, dict[str, Any]]) -> list[Block]:
    """A table of the settings in which the compared runs differ, their prompts and golds among them."""
    facts = {
        folder: {
            "model": record.get("model"),
            **record["settings"],
            "problems and prompts (hash)": str(record.get("task_hash"))[:12],
            "commit": record.get("commit"),
            **record.get("versions", {}),
        }
        for folder, record in records.items()
    }
    names = dict.fromkeys(name for one in facts.values() for name in one)
    rows = [[name, *(str(one.get(name, "–")) for one in facts.values())] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return [Table("Settings that differ", ["setting", *facts], differing)] if differing else []


def percent(share: float | None) -> str:
    """``0.1234`` as ``12.3``; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}"
