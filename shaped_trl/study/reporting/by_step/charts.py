"""Charts over rollout tokens, and of benchmarks that were run during training.

With several seeds, whose rollouts have different lengths, a line over tokens is the mean of their
interpolated curves, on a grid that all of them cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from shaped_trl.study.reporting.by_step.curves import benchmark_curves
from shaped_trl.study.reporting.charts import TOKENS, Bound, Chart, Line, X, arm_line, split
from shaped_trl.study.reporting.reading import RegimeRuns, stages_of
from shaped_trl.study.reporting.rollout_tokens import TOKENS_TO, sampled_at
from shaped_trl.study.reporting.training_results import tokens_to_plateau
from shaped_trl.training.log_reading import curve

BY_TOKENS = "_by_tokens"  # at the end of a chart's name
# column of RL logs → name of its chart, caption, and label of the values
_LOGGED = {
    "entropy": ("policy_entropy", "Policy entropy in RL", "entropy (nats)"),
    "completion_length": ("response_length", "Response length in RL", "length (tokens)"),
    "raw_reward": ("reward", "Reward in RL", "reward"),
}
# command → beginning of the charts' names, and where the benchmarks were run
_COMMANDS = {"train": ("training", "in training"), "rlvr": ("rl", "in RL")}
_METRICS = {"avg": "Avg@n", "cons": "Cons@n", "pass": "Pass@k"}

Points = Mapping[int, Sequence[tuple[int, float]]]  # seed → (step, value)


def step_charts(regimes: Sequence[RegimeRuns]) -> list[Chart]:
    """The charts for which the logs have columns."""
    found = [_logged(regimes, column) for column in _LOGGED]
    found += [
        chart
        for command in _COMMANDS
        for metric in _METRICS
        for chart in _benchmarks(regimes, command, metric)
    ]
    found.append(_tokens_to(regimes))
    return [part for chart in found if chart.lines for part in split(chart, regimes[0])]


def _logged(regimes: Sequence[RegimeRuns], column: str) -> Chart:
    name, caption, label = _LOGGED[column]
    lines = []
    for stage in stages_of(regimes[0].study, "rlvr"):
        for runs in regimes:
            for arm in runs.study.arms:
                logs = runs.logs[arm, stage].items()
                points = {seed: list(zip(*curve(rows, column), strict=True)) for seed, rows in logs}
                lines += _over_tokens(runs, arm, stage, stage, points)
    caption = f"{caption}, over rollout tokens"
    return Chart(f"{name}{BY_TOKENS}", caption, TOKENS, label, "tokens", lines)


def _benchmarks(regimes: Sequence[RegimeRuns], command: str, metric: str) -> list[Chart]:
    """A metric of the benchmarks over steps, and over rollout tokens where they are counted."""
    by_steps, by_tokens = [], []
    for stage in stages_of(regimes[0].study, command):
        for runs in regimes:
            for arm in runs.study.arms:
                for (benchmark, name), points in benchmark_curves(runs, arm, stage).items():
                    if name.startswith(f"{metric}@"):
                        panel = f"{stage}: {benchmark}, {name.title()}"
                        curves: dict[int, list[tuple[X, float]]] = {
                            seed: list(values) for seed, values in points.items()
                        }
                        by_steps += arm_line(panel, runs.study.regime, arm, curves, shares=True)
                        by_tokens += _over_tokens(runs, arm, stage, panel, points, shares=True)
    prefix, where = _COMMANDS[command]
    label = _METRICS[metric]
    chart = Chart(
        f"{prefix}_{metric}",
        f"{label} {where}",
        "step",
        f"{label}, %",
        "steps",
        by_steps,
        percent=True,
    )
    over_tokens = replace(
        chart,
        name=f"{chart.name}{BY_TOKENS}",
        caption=f"{chart.caption}, over rollout tokens",
        x_label=TOKENS,
        scale="tokens",
        lines=by_tokens,
    )
    return [chart, over_tokens]


def _over_tokens(
    runs: RegimeRuns, arm: str, stage: str, panel: str, points: Points, *, shares: bool = False
) -> list[Line]:
    """An arm's line over rollout tokens; none if a run has no counts."""
    curves: dict[int, list[tuple[X, float]]] = {}
    for seed, values in points.items():
        tokens = sampled_at(runs.logs[arm, stage][seed], [step for step, _ in values])
        if not tokens:
            return []
        curves[seed] = [(round(x), y) for x, (_, y) in zip(tokens, values, strict=True)]
    if len(curves) < 2:
        return arm_line(panel, runs.study.regime, arm, curves)
    lines = arm_line(panel, runs.study.regime, arm, _on_one_grid(curves), shares=shares)
    return [replace(line, by_seed=curves) for line in lines]


def _on_one_grid(
    curves: Mapping[int, Sequence[tuple[X, float]]],
) -> dict[int, list[tuple[X, float]]]:
    """The curves at equally spaced numbers of tokens that all of them cover, linearly interpolated.

    There are as many points as the longest curve has.
    """
    # [2, points] for each seed
    arrays = {seed: np.array(values, dtype=float).T for seed, values in curves.items()}
    first = max(x[0] for x, _ in arrays.values())
    last = min(x[-1] for x, _ in arrays.values())
    grid = np.linspace(first, last, max(map(len, curves.values()))).round()
    return {
        seed: [(int(x), float(y)) for x, y in zip(grid, np.interp(grid, *array), strict=True)]
        for seed, array in arrays.items()
    }


def _tokens_to(regimes: Sequence[RegimeRuns]) -> Chart:
    """The rollout tokens to 50% and 80% of the baseline's plateau."""
    order = tuple(f"{share:.0%}" for share in TOKENS_TO.values())
    lines: list[Line] = []
    bounds: set[Bound] = set()
    for stage in stages_of(regimes[0].study, "rlvr"):
        for runs in regimes:
            regime = runs.study.regime
            for arm in runs.study.arms:
                found = tokens_to_plateau(runs, arm, stage)
                points: dict[int, list[tuple[X, float]]] = {}
                for x, by_seed in zip(order, found.values(), strict=False):
                    for seed, reached in by_seed.items():
                        points.setdefault(seed, []).append((x, reached.tokens))
                        if reached.censored:
                            bounds.add((stage, regime, arm, seed, x))
                lines += arm_line(stage, regime, arm, points)
    return Chart(
        "tokens_to",
        "Rollout tokens until the reward is first at a share of the baseline's plateau",
        "share of the plateau",
        TOKENS,
        "stages",
        lines,
        order=order,
        bounds=frozenset(bounds),
    )
