"""The paper's tables of RL by step: for each arm, steps and benchmarks × Avg@n, Cons@n, Pass@k."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from shaped_eval.reporting.document import Block, Cell, Details, Row, Table, Text
from shaped_eval.reporting.tables import percent

from shaped_trl.study.reporting.by_step.curves import AVERAGE
from shaped_trl.study.reporting.wording import METRICS, NONE, in_regime

Summaries = Mapping[str, dict[str, Any]]  # arm → its entry in a regime of results.json
_FOLDED_FROM = 12  # longer tables are folded
READING = (
    "These values come from evaluations during training, of the model in memory at the steps of "
    "eval_benchmark_steps. All arms are sampled at temperature 0.7 and top-p 0.95, whatever the "
    "temperature of their rollouts. The logs keep the shares alone, so that a single seed has no "
    "interval."
)


def step_tables(regime: str, arms: Summaries, kind: str, stage: str) -> list[Block]:
    """A table for each arm that was evaluated during a stage; `kind` is "training" or "rl"."""
    tables = []
    for arm, values in arms.items():
        rows = values[kind].get(stage, {}).get("by_step", [])
        if rows:
            tables.append(_step_table(in_regime(regime, f"{stage} by step: {arm}"), rows))
    folded = [Details(t.caption, [t]) if len(t.rows) > _FOLDED_FROM else t for t in tables]
    return [*folded, Text(READING)] if folded else []


def _step_table(caption: str, rows: Sequence[dict[str, Any]]) -> Table:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    counted = any(row["tokens"] is not None for row in rows)
    seeds = max(row["seeds"] for row in rows)
    mean = f", means over {seeds} seeds with their 95% intervals" if seeds > 1 else ""
    columns = ("step", *(["rollout tokens"] if counted else []), "benchmark", *metrics)
    return Table(f"{caption}, %{mean}", columns, list(_lines(rows, metrics, counted)))


def _lines(
    rows: Sequence[dict[str, Any]], metrics: Sequence[str], counted: bool
) -> Iterator[list[str | Cell] | Row]:
    for step, here in groupby(rows, key=lambda row: row["step"]):
        by_name: dict[str, dict[str, dict[str, Any]]] = {}
        for row in here:
            by_name.setdefault(row["benchmark"], {})[row["metric"]] = row
        # The averages follow the benchmarks.
        for name in sorted(by_name, key=lambda name: name.startswith(AVERAGE)):
            found = by_name[name]
            tokens = next(iter(found.values()))["tokens"]
            cells: list[str | Cell] = [f"{step:,}"]
            cells += [NONE if tokens is None else f"{tokens:,.0f}"] if counted else []
            cells += [name, *(share_cell(found.get(metric)) or NONE for metric in metrics)]
            yield Row(cells, "average") if name.startswith(AVERAGE) else cells


def share_cell(row: Mapping[str, float] | None) -> Cell | None:
    """A share in percent with its interval over seeds, where it has one."""
    if row is None:
        return None
    interval = f"[{percent(row['low'])}, {percent(row['high'])}]" if "low" in row else ""
    return Cell(percent(row["value"]), interval)


def tokens_tables(regime: str, arms: Summaries, stage: str) -> list[Block]:
    """The rollout tokens of each arm until it has a share of the baseline's plateau."""
    found = {
        arm: values["rl"][stage]
        for arm, values in arms.items()
        if "tokens_to" in values["rl"].get(stage, {})
    }
    if not found:
        return []
    metrics = list(next(iter(found.values()))["tokens_to"])
    rows: list[list[str | Cell]] = [
        [
            arm,
            f"{summary['rollout_tokens']:,.0f}",
            *(tokens_cell(summary, metric) or NONE for metric in metrics),
        ]
        for arm, summary in found.items()
    ]
    columns = ("arm", "whole run", *(_to_plateau(metric) for metric in metrics))
    several = any(summary["seeds"] > 1 for summary in found.values())
    caption = f"{stage}: rollout tokens{', means over seeds with 95% intervals' * several}"
    return [
        Table(in_regime(regime, caption), columns, rows),
        Text(
            "Rollout tokens are those of all sampled completions, including groups that were then "
            "dropped. The plateau is the mean reward over the last tenth of the baseline's run of "
            "the same seed. It is reached when the mean of the reward over a tenth of the rows is "
            "first that high. A run that does not reach it counts with all of its tokens, so that "
            "the mean is a lower bound (≥)."
        ),
    ]


def _to_plateau(metric: str) -> str:
    return METRICS[metric].removeprefix("rollout tokens ")


def tokens_cell(summary: Mapping[str, Any], metric: str) -> Cell | None:
    """The tokens to a share of the plateau, from an arm's summary of RL; None without a count."""
    reached = summary.get("tokens_to", {}).get(metric)
    if reached is None:
        return None
    band, censored = summary.get("over_seeds", {}).get(metric), reached["censored"]
    return Cell(
        f"{'≥ ' if censored else ''}{reached['value']:,.0f}",
        f"[{band['low']:,.0f}, {band['high']:,.0f}]" if band else "",
        f"not reached in {censored} of {summary['seeds']} runs" if censored else "",
    )
