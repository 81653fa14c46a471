"""Plots of logged quantities over steps. No global state of matplotlib is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The palette of Okabe and Ito, which also people with colour blindness can tell apart.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Panel:
    """One pair of axes, with one line (steps, values) for each seed of each arm."""

    title: str
    y_label: str
    curves: Mapping[str, Sequence[tuple[list[int], list[float]]]]


def plot_panels(panels: Sequence[Panel]) -> Figure | None:
    """Draw the panels that have values, one colour per arm; return None if none has."""
    drawn = [
        panel
        for panel in panels
        if any(steps for lines in panel.curves.values() for steps, _ in lines)
    ]
    if not drawn:
        return None
    figure, axes = _axes(len(drawn))
    for axis, panel in zip(axes, drawn, strict=True):
        for index, (arm, lines) in enumerate(panel.curves.items()):
            for number, (steps, values) in enumerate(lines):
                axis.plot(steps, values, label=arm if number == 0 else None, **_look(index))
        axis.set(title=panel.title, xlabel="step", ylabel=panel.y_label)
        axis.legend(fontsize="small")
    return figure


def _axes(num_panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(num_panels, 2)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[num_panels:]:
        unused.set_axis_off()
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes[:num_panels]


def _look(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _STYLES[index % len(_STYLES)],
        "linewidth": 1.4,
    }
