"""Logged quantities over steps, a colour for each arm. Figures without global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito: told apart with any kind of colour vision.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Panel:
    """One axis: for each arm a line (steps, values) per seed."""

    title: str
    y_label: str
    curves: Mapping[str, Sequence[tuple[list[int], list[float]]]]


def plot_panels(panels: Sequence[Panel]) -> Figure | None:
    """Panels side by side over steps, None where nothing was logged. A colour is an arm."""
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
