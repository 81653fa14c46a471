"""Plot a run's log: losses, entropy, masses, ranks, learning rate and shape over steps."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from shaped_eval.untrusted.files import replacing

from shaped_trl.training.figures import Panel, plot_panels
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
