"""A run's log as one picture: loss, entropy, masses, learning rate and the scheduled shape over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shaped_trl.study.figures import Panel, plot_panels
from shaped_trl.study.logs import curve, read_log
from shaped_trl.training.schedules import SCHEDULABLE

# (title, unit, columns of the log)
PANELS = (
    ("Loss", "nats per token", ("loss", "nll", "eval_loss", "eval_nll")),
    ("Entropy", "nats", ("entropy", "eval_entropy")),
    ("Head and tail mass", "probability", ("head_mass", "tail_mass", "eval_head_mass", "eval_tail_mass")),
    ("Learning rate", "", ("learning_rate",)),
    ("Reward shape", "", SCHEDULABLE),
)


def log_panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels for which something was logged, each with the columns that were."""
    panels = []
    for title, unit, columns in PANELS:
        curves = {column: [line] for column in columns if (line := curve(list(rows), column))[0]}
        if curves:
            panels.append(Panel(title, unit, curves))
    return panels


def plot_log(path: Path) -> None:
    """Draw the log at `path` as a .png of the same name; nothing where nothing was logged."""
    figure = plot_panels(log_panels(read_log(path)))
    if figure is not None:
        temporary = path.with_suffix(".png.tmp")
        figure.savefig(temporary, format="png", dpi=80)
        temporary.replace(path.with_suffix(".png"))
