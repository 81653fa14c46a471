"""Benchmarks that were run during training: their values by step, from the columns of the logs.

The columns are those of `shaped_trl.training.evaluation`, ``benchmark/NAME/avg@n``, ``cons@n`` and
``pass@k``. Values are shares in 0–1. Averages over several benchmarks stand beside them, under the
names of `with_averages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from shaped_eval.benchmarks import suites
from shaped_eval.statistics import Values

from shaped_trl.study.finished import BENCHMARK_COLUMN, Rows
from shaped_trl.study.reporting.evaluation_results import share_interval
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.rollout_tokens import sampled_at

# (benchmark or average, metric) → seed → (step, value) in the order of the steps
Curves = dict[tuple[str, str], dict[int, list[tuple[int, float]]]]
AVERAGE = "average, "


def benchmark_curves(runs: RegimeRuns, arm: str, stage: str) -> Curves:
    """The values of an arm's runs of a train or rlvr stage; empty if nothing was evaluated."""
    found: Curves = {}
    for seed, rows in runs.logs[arm, stage].items():
        for row in rows:
            for key, value in _values(row).items():
                found.setdefault(key, {}).setdefault(seed, []).append((row["step"], value))
    return found


def _values(row: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(benchmark or average, metric) → value in one row of a log."""
    by_metric: dict[str, dict[str, float]] = {}
    for column, value in row.items():
        if match := BENCHMARK_COLUMN.fullmatch(column):
            by_metric.setdefault(match["metric"], {})[match["benchmark"]] = value
    averaged = {metric: with_averages(values) for metric, values in by_metric.items()}
    return {(name, metric): v for metric, each in averaged.items() for name, v in each.items()}


def with_averages(values: Mapping[str, float]) -> dict[str, float]:
    """Benchmark → value, then the unweighted means over several benchmarks.

    These are over each of the paper's groups that is complete (`suites.group_averages`), and over
    all benchmarks if no group has just these.
    """
    if len(values) < 2:
        return dict(values)
    groups = suites.group_averages(values)
    sets = {**suites.GROUPS, **suites.SUITES}
    if not any(set(sets[name]) == set(values) for name in groups):
        groups["all"] = sum(values.values()) / len(values)
    return dict(values) | {f"{AVERAGE}{name}": value for name, value in groups.items()}


def by_step(runs: RegimeRuns, arm: str, stage: str) -> list[dict[str, Any]]:
    """Rows of results.json: an arm's values by step, means over the seeds that were evaluated.

    A row has step, tokens (rollout tokens up to it; None where they are not counted), benchmark,
    metric, seeds, value, and, with several seeds, low and high, its 95% t interval clipped to 0–1.
    Steps at which a seed has no value are left out.
    """
    rows: list[dict[str, Any]] = []
    logs = runs.logs[arm, stage]
    for (benchmark, metric), by_seed in benchmark_curves(runs, arm, stage).items():
        curves = [dict(curve) for curve in by_seed.values()]
        for step in curves[0]:
            if all(step in curve for curve in curves):
                values_S = np.array([curve[step] for curve in curves])
                labels = {
                    "step": step,
                    "tokens": _tokens([logs[seed] for seed in by_seed], step),
                    "benchmark": benchmark,
                    "metric": metric,
                    "seeds": len(curves),
                }
                rows.append(labels | seeds_interval(values_S))
    return sorted(rows, key=lambda row: row["step"])


def seeds_interval(shares_S: Values) -> dict[str, float]:
    """The mean over seeds of values in 0–1, with its 95% t interval if there are several."""
    return share_interval(shares_S) if len(shares_S) > 1 else {"value": float(shares_S[0])}


def _tokens(logs: list[Rows], step: int) -> float | None:
    tokens = [sampled_at(rows, [step]) for rows in logs]
    return float(np.mean(tokens)) if all(tokens) else None
