"""The content of a report's figures: lines of arms with bands, which are also written as CSV.

Notation: S seeds. With several seeds, a line is their mean, and its band is the mean's 95% t
interval. With one seed, it is the line of that seed, and the band of an evaluation is its interval
over problems.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from shaped_eval.report import default_pass_at

from shaped_trl.study.reporting.evaluation_results import share_interval, t_interval, values_of
from shaped_trl.study.reporting.reading import RegimeRuns, stages_of
from shaped_trl.study.reporting.wording import csv_text
from shaped_trl.training.log_reading import curve

CSV_COLUMNS = ("panel", "regime", "arm", "seed", "x", "y", "low", "high")
MEAN = "mean"
EXPLORATORY = "_exploratory_"  # between a chart's name and a number
TOKENS = "rollout tokens"  # the label of such an axis
MANY_ARMS = 6  # more lines in the same axes cannot be distinguished

X = int | str
# x, y, and the band's low and high if there is one
Point = tuple[X, float, float | None, float | None]
Bound = tuple[str, str, str, int, X]


@dataclass(frozen=True)
class Line:
    """One arm in one pair of axes.

    `seed` is MEAN or the only seed; `by_seed` has the values behind a mean.
    """

    panel: str
    regime: str
    arm: str
    seed: str
    points: list[Point]
    by_seed: dict[int, list[tuple[X, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """One figure, with axes for each panel (row) and regime (column).

    scale: "steps", "tokens", "k" (logarithmic, base 2), or "stages", whose names are in `order`.
    percent: values are in 0–1, and shown in %.
    bounds: (panel, regime, arm, seed, x) of the values that are only lower bounds; they are marked
        in the CSV. None for a chart that cannot have any.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    scale: str
    lines: list[Line]
    percent: bool = False
    order: tuple[str, ...] = ()
    bounds: frozenset[Bound] | None = None


def charts(regimes: Sequence[RegimeRuns], results: Mapping[str, Any]) -> list[Chart]:
    """The figures in the paper's order, without empty ones."""
    pretrained = stages_of(regimes[0].study, "train") == ["pretrain"]
    where = "in pre-training" if pretrained else "before RL"
    found = [
        _logged(regimes, "train", "perplexity", f"Perplexity {where}", "perplexity"),
        _logged(regimes, "train", "entropy", f"Token entropy {where}", "entropy (nats)"),
        _logged(
            regimes,
            "train",
            "head_mass",
            "Probability of the head, without the target",
            "head mass",
        ),
        _logged(
            regimes,
            "train",
            "tail_mass",
            "Probability of the tail, without the target",
            "tail mass",
        ),
        _logged(
            regimes,
            "rlvr",
            "entropy",
            "Policy entropy in RL",
            "entropy (nats)",
            name="policy_entropy",
        ),
        _logged(
            regimes,
            "rlvr",
            "completion_length",
            "Response length in RL",
            "length (tokens)",
            name="response_length",
        ),
        _logged(regimes, "rlvr", "raw_reward", "Reward in RL", "reward", name="reward"),
        _over_stages(regimes, results, "avg", "Avg@n from one evaluation to the next"),
        _over_stages(regimes, results, "cons", "Cons@n from one evaluation to the next"),
        _pass_at_k(regimes, results),
    ]
    return [part for chart in found if chart.lines for part in split(chart, regimes[0])]


def csv_of(chart: Chart) -> str:
    """The chart's numbers, one row per point: the drawn ones, then the seeds behind a mean.

    If the chart has `bounds`, the last column says whether a value is only a lower bound.
    """
    drawn = [(line, line.seed, point) for line in chart.lines for point in line.points]
    behind = [
        (line, str(seed), (x, y, None, None))
        for line in chart.lines
        for seed, values in line.by_seed.items()
        for x, y in values
    ]
    rows = []
    for line, seed, point in [*drawn, *behind]:
        marks = () if chart.bounds is None else (_is_bound(chart.bounds, line, seed, point[0]),)
        rows.append((line.panel, line.regime, line.arm, seed, *point, *marks))
    return csv_text((*CSV_COLUMNS, *(() if chart.bounds is None else ("lower_bound",))), rows)


def _is_bound(bounds: Collection[Bound], line: Line, seed: str, x: X) -> str:
    seeds = line.by_seed if seed == MEAN else (int(seed),)
    return (
        "yes"
        if any((line.panel, line.regime, line.arm, each, x) in bounds for each in seeds)
        else "no"
    )


def split(chart: Chart, runs: RegimeRuns) -> Iterator[Chart]:
    """Split off figures of exploratory arms with the baseline, if a chart has too many arms."""
    study = runs.study
    drawn = {line.arm for line in chart.lines}
    apart = [arm for arm, own in study.arms.items() if own.exploratory and arm in drawn]
    if len(study.arms) <= MANY_ARMS or not apart:
        yield chart
        return
    if drawn - {*apart, study.baseline}:
        yield replace(chart, lines=[line for line in chart.lines if line.arm not in apart])
    size = MANY_ARMS - 1  # besides the baseline
    for number in range(0, len(apart), size):
        shown = {study.baseline, *apart[number : number + size]}
        lines = [line for line in chart.lines if line.arm in shown]
        name = f"{chart.name}{EXPLORATORY}{number // size + 1}"
        yield replace(chart, name=name, caption=f"{chart.caption}: exploratory arms", lines=lines)


def _logged(
    regimes: Sequence[RegimeRuns],
    command: str,
    key: str,
    caption: str,
    y_label: str,
    name: str | None = None,
) -> Chart:
    """A logged quantity over the steps of each stage; held-out if every arm has it."""
    lines = []
    held_out = command == "train"
    for stage in stages_of(regimes[0].study, command):
        logs = [
            (runs.study.regime, arm, runs.logs[arm, stage])
            for runs in regimes
            for arm in runs.study.arms
        ]
        rows = [each for _, _, by_seed in logs for each in by_seed.values()]
        column = f"eval_{key}"
        if command != "train" or not all(curve(each, column)[0] for each in rows):
            column, held_out = key, False
        for regime, arm, by_seed in logs:
            curves: dict[int, list[tuple[X, float]]] = {
                seed: list(zip(*curve(each, column), strict=True)) for seed, each in by_seed.items()
            }
            lines += arm_line(
                stage, regime, arm, {seed: points for seed, points in curves.items() if points}
            )
    suffix = " (held-out)" if held_out else ""
    return Chart(name or key, caption, "step", y_label + suffix, "steps", lines)


def arm_line(
    panel: str,
    regime: str,
    arm: str,
    curves: Mapping[int, list[tuple[X, float]]],
    *,
    shares: bool = False,
) -> list[Line]:
    """An arm's line: that of its only seed, or the mean at points where all seeds have a value."""
    if not curves:
        return []
    if len(curves) == 1:
        ((seed, values),) = curves.items()
        return [Line(panel, regime, arm, str(seed), [(x, y, None, None) for x, y in values])]
    by_x = [dict(values) for values in curves.values()]
    points: list[Point] = []
    for x in by_x[0]:
        if all(x in values for values in by_x):
            interval = (share_interval if shares else t_interval)(
                np.array([values[x] for values in by_x])
            )
            points.append((x, interval["value"], interval["low"], interval["high"]))
    return [Line(panel, regime, arm, MEAN, points, dict(curves))]


def _over_stages(
    regimes: Sequence[RegimeRuns], results: Mapping[str, Any], metric: str, caption: str
) -> Chart:
    """avg@n or cons@n, with a panel for each benchmark and temperature, and a point for each
    evaluation stage."""
    lines = []
    stages = stages_of(regimes[0].study, "eval")
    places = {stage: regimes[0].study.stages[stage].temperature for stage in stages}
    for runs in regimes:
        for name, at in product(results["table_metrics"], dict.fromkeys(places.values())):
            panel = name if at is None else f"{name}, T = {at:g}"
            for arm in runs.study.arms:
                curves: dict[int, list[tuple[X, float]]] = {}
                bands: list[Point] = []
                for stage in (each for each in stages if places[each] == at):
                    entry = results["regimes"][runs.study.regime]["arms"][arm]["evaluations"].get(
                        stage, {}
                    )
                    found = [
                        each
                        for each in entry.get(name, {}).get("metrics", {})
                        if each.startswith(f"{metric}@")
                    ]
                    for seed, benchmarks in runs.evaluations[arm, stage].items() if found else ():
                        value = float(values_of(benchmarks[name], found[0]).mean())
                        curves.setdefault(seed, []).append((stage, value))
                    bands += [(stage, *_band(entry[name]["metrics"][each])) for each in found]
                lines += _with_bands(
                    arm_line(panel, runs.study.regime, arm, curves, shares=True), bands
                )
    return Chart(
        *(metric, caption, "", f"{metric.title()}@n, %", "stages", lines),
        percent=True,
        order=tuple(stages),
    )


def _pass_at_k(regimes: Sequence[RegimeRuns], results: Mapping[str, Any]) -> Chart:
    """Pass@k over k, with a panel for each evaluation stage and benchmark."""
    lines = []
    for stage in stages_of(regimes[0].study, "eval"):
        for name in results["table_metrics"]:
            for runs in regimes:
                for arm in runs.study.arms:
                    evaluated = runs.evaluations[arm, stage]
                    curves: dict[int, list[tuple[X, float]]] = {
                        seed: [
                            (k, float(values_of(each[name], f"pass@{k}").mean()))
                            for k in default_pass_at(each[name].n)
                        ]
                        for seed, each in evaluated.items()
                        if name in each
                    }
                    entry = results["regimes"][runs.study.regime]["arms"][arm]["evaluations"].get(
                        stage, {}
                    )
                    metrics = entry.get(name, {}).get("metrics", {})
                    bands: list[Point] = [
                        (int(key.split("@")[1]), *_band(value))
                        for key, value in metrics.items()
                        if key.startswith("pass@")
                    ]
                    lines += _with_bands(
                        arm_line(f"{stage}: {name}", runs.study.regime, arm, curves, shares=True),
                        bands,
                    )
    return Chart("pass_at_k", "Pass@k", "k", "Pass@k, %", "k", lines, percent=True)


def _band(metric: Mapping[str, float]) -> tuple[float, float, float]:
    return metric["value"], metric["low"], metric["high"]


def _with_bands(lines: list[Line], bands: list[Point]) -> list[Line]:
    """Give a single seed's line its intervals over problems."""
    by_x = {point[0]: point for point in bands}
    return [
        line
        if line.seed == MEAN
        else replace(line, points=[by_x.get(point[0], point) for point in line.points])
        for line in lines
    ]
