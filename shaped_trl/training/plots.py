"""Plot a run's log: losses, entropy, masses, ranks, learning rate and shape over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from shaped_eval.reporting.figures import axes_grid, line_look, plain_label
from shaped_eval.untrusted.files import replacing

from shaped_trl.training.log_reading import curve, read_log
from shaped_trl.training.schedules import SCHEDULABLE

_GROUPS = ("informative", "all_right", "all_wrong", "truncated", "unparsed", "ungraded")
# (title, unit, columns of the log, where * matches any characters)
PANELS = (
    ("Loss", "nats per token", ("loss", "nll", "eval_loss", "eval_nll")),
    ("Entropy", "nats", ("entropy", "eval_entropy")),
    (
        "Head and tail mass",
        "probability",
        ("head_mass", "tail_mass", "eval_head_mass", "eval_tail_mass"),
    ),
    (
        "Top-1",
        "share of the targets",
        ("mean_token_accuracy", "eval_mean_token_accuracy", "eval_rare_token_accuracy"),
    ),
    (
        "Parts of the evaluation",
        "nats per token",
        ("eval_rare_nll", "eval_nll_position_*", "eval_nll_source_*"),
    ),
    ("Reward", "mean accuracy", ("raw_reward", "eval_rewards/accuracy/mean")),
    ("Response", "tokens", ("completion_length", "completion_length_max")),
    ("Completions", "share", ("truncated", "unparsed", "ungraded")),
    ("Groups", "an interval of the log", tuple(f"groups_{kind}" for kind in _GROUPS)),
    ("Rollout tokens", "per token trained on", ("rollout_tokens_per_trained",)),
    ("Clipped", "share of the tokens", ("clip_ratio", "clip_ratio_high", "clip_ratio_low")),
    ("Benchmarks", "share of the samples", ("benchmark/*/avg@*",)),
    ("Learning rate", "", ("learning_rate",)),
    ("Reward shape", "", SCHEDULABLE),
)


@dataclass(frozen=True)
class Panel:
    """One pair of axes, with one line (steps, values) for each seed of each arm."""

    title: str
    y_label: str
    curves: Mapping[str, Sequence[tuple[list[int], list[float]]]]


def log_panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels that have logged columns."""
    rows, panels = list(rows), []
    logged = list(dict.fromkeys(column for row in rows for column in row))
    for title, unit, patterns in PANELS:
        columns = [
            column for pattern in patterns for column in logged if fnmatchcase(column, pattern)
        ]
        curves = {column: [line] for column in columns if (line := curve(rows, column))[0]}
        if curves:
            panels.append(Panel(title, unit, curves))
    return [*panels, *_rank_panel(rows, logged)]


def _rank_panel(rows: list[dict[str, Any]], logged: Sequence[str]) -> list[Panel]:
    """The histogram of target ranks in four parts: of the evaluations if there are any."""
    prefix = "eval_rank_" if "eval_rank_0" in logged else "rank_"
    # The log has the buckets in the order of the ranks.
    buckets = [column for column in logged if column.startswith(prefix)]
    curves = {}
    for name, part in (
        ("0", buckets[:1]),
        ("1–7", buckets[1:4]),
        ("8–127", buckets[4:8]),
        ("128 on", buckets[8:]),
    ):
        steps = curve(rows, part[0])[0] if part else []
        if steps:
            columns = [curve(rows, column)[1] for column in part]
            curves[f"{prefix}{name}"] = [
                (steps, [sum(values) for values in zip(*columns, strict=True)])
            ]
    return [Panel("Rank of the target", "share of the targets", curves)] if curves else []


def plot_log(path: Path) -> None:
    """Draw the log at `path` as a .png of the same name. An empty log is not drawn."""
    figure = plot_panels(log_panels(read_log(path)))
    if figure is not None:
        with replacing(path.with_suffix(".png"), "wb") as file:
            figure.savefig(file, format="png", dpi=80)


def plot_panels(panels: Sequence[Panel]) -> Figure | None:
    """Draw the panels that have values, one colour per arm; return None if none has."""
    drawn = [
        panel
        for panel in panels
        if any(steps for lines in panel.curves.values() for steps, _ in lines)
    ]
    if not drawn:
        return None
    figure, axes = axes_grid(len(drawn))
    for axis, panel in zip(axes, drawn, strict=True):
        for index, (arm, lines) in enumerate(panel.curves.items()):
            for number, (steps, values) in enumerate(lines):
                label = plain_label(arm) if number == 0 else None
                axis.plot(steps, values, label=label, linewidth=1.4, **line_look(index))
        axis.set(title=panel.title, xlabel="step", ylabel=panel.y_label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    return figure
