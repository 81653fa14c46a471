"""A study's charts as pictures, with the same colour for an arm in all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter
from shaped_eval.reporting.figures import COLOURS, plain_label

from shaped_trl.study.reporting.charts import TOKENS, Chart, Line
from shaped_trl.study.reporting.wording import in_regime


def plot_chart(chart: Chart, arms: Sequence[str], dashed: Collection[str]) -> Figure:
    """Draw a chart: a row of axes for each panel, a column for each regime.

    Args:
        chart: what to draw.
        arms: all arms of the study, so that an arm has the same colour in every figure.
        dashed: the arms that are drawn with dashes.
    """
    panels = list(dict.fromkeys(line.panel for line in chart.lines))
    regimes = list(dict.fromkeys(line.regime for line in chart.lines))
    figure = Figure(figsize=(4.8 * len(regimes), 3.2 * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), len(regimes), squeeze=False)
    places = {name: number for number, name in enumerate(chart.order)}
    for row, panel in enumerate(panels):
        for column, regime in enumerate(regimes):
            axis: Axes = axes[row, column]
            lines = [line for line in chart.lines if (line.panel, line.regime) == (panel, regime)]
            for number, line in enumerate(lines):
                beside = 0.07 * (number - (len(lines) - 1) / 2)
                x = [
                    places[str(point[0])] + beside if chart.order else point[0]
                    for point in line.points
                ]
                _draw(axis, line, x, _colour(arms.index(line.arm)), line.arm in dashed, chart)
            _label(axis, chart, in_regime(regime, panel))
    handles = {
        text: handle
        for axis in axes.flat
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    ordered = [arm for arm in arms if arm in handles]
    figure.legend(
        [handles[arm] for arm in ordered],
        [plain_label(arm) for arm in ordered],
        loc="outside lower center",
        ncols=min(len(ordered), 3 * len(regimes)),
        fontsize="small",
        frameon=False,
    )
    return figure


def _colour(place: int) -> str:
    """The colour of an arm. The first one is unique; the others repeat if there are many arms."""
    return COLOURS[0] if place == 0 else COLOURS[1 + (place - 1) % (len(COLOURS) - 1)]


def _draw(
    axis: Axes, line: Line, x: Sequence[Any], colour: str, dashed: bool, chart: Chart
) -> None:
    """Draw a line with its band; over stages, points with error bars and arms side by side."""
    look: dict[str, Any] = {"color": colour, "linestyle": "--" if dashed else "-", "linewidth": 1.4}
    marker = "" if chart.scale in ("steps", "tokens") else "o"
    axis.plot(
        x,
        [point[1] for point in line.points],
        label=line.arm,
        marker=marker,
        markersize=3.5,
        **look,
    )
    ends = [(place, *point[2:]) for place, point in zip(x, line.points, strict=True)]
    band = np.array([each for each in ends if None not in each], dtype=float).reshape(-1, 3)
    if chart.order:
        axis.vlines(*band.T, color=colour, linewidth=1.4)
    else:
        axis.fill_between(*band.T, color=colour, alpha=0.15, linewidth=0)


def _label(axis: Axes, chart: Chart, title: str) -> None:
    axis.set(xlabel=chart.x_label, ylabel=chart.y_label)
    axis.set_title(plain_label(title), fontsize="medium")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if chart.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=None))
    if chart.scale == "k":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
    elif chart.scale == "stages":
        axis.set_xticks(range(len(chart.order)), [plain_label(name) for name in chart.order])
        axis.set_xlim(-0.5, len(chart.order) - 0.5)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for each, label in ((axis.xaxis, chart.x_label), (axis.yaxis, chart.y_label)):
        if label == TOKENS:
            each.set_major_formatter(EngFormatter(sep=""))
