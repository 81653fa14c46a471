"""Pass@k over k with its bands. Figures without global state; equal data give equal bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito: told apart with any kind of colour vision.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_STYLES = ("-", "--", ":", "-.")


def plot_pass_at_k(panels: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> Figure:
    """A panel for each title: title → label → k → {"value", "low", "high"}, in 0–1, low to high the band."""
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for index, (label, metrics) in enumerate(curves.items()):
            look = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _STYLES[index % len(_STYLES)]}
            ks = sorted(metrics)
            low, high = ([metrics[k][end] for k in ks] for end in ("low", "high"))
            axis.plot(ks, [metrics[k]["value"] for k in ks], label=label, marker=".", linewidth=1.4, **look)
            axis.fill_between(ks, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axis.grid(alpha=0.3)
        axis.set(title=title, xlabel="k", ylabel="Pass@k", ylim=(0, 1.02))
        axis.legend(fontsize="small")
    return figure


def plot_over_steps(title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Metrics over training: label → rows with "step", "value", "low" and "high", in 0–1, low to high the band."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for index, (label, rows) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _STYLES[index % len(_STYLES)]}
        steps, values, low, high = ([row[name] for row in rows] for name in ("step", "value", "low", "high"))
        axis.plot(steps, values, label=label, marker=".", linewidth=1.4, **look)
        axis.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.set(title=title, xlabel="step", ylabel="share", ylim=(0, 1.02))
    axis.legend(fontsize="small")
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
