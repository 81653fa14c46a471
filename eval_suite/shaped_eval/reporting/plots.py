"""Figures of a report. They use no global state, and equal data give equal bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter

from shaped_eval.reporting.figures import COLOURS, axes_grid, line_look, plain_label
from shaped_eval.statistics.votes import Values

_UP, _DOWN, _SAME = "#0072B2", "#D55E00", "#8a8a8a"
STRIP_CELLS = 600  # about the width of the heat map in pixels
_LABEL_CHARACTERS = 24
_NUMBERED_SPOTS = 12


def plot_pass_at_k(panels: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> Figure:
    """Pass@k over k, in one panel for each title.

    Args:
        panels: title → label → k → {"value", "low", "high"}, in 0–1; low to high is the band.
    """
    figure, axes = axes_grid(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for index, (label, metrics) in enumerate(curves.items()):
            look = line_look(index)
            ks = sorted(metrics)
            low, high = ([metrics[k][end] for k in ks] for end in ("low", "high"))
            axis.plot(
                ks,
                [metrics[k]["value"] for k in ks],
                label=plain_label(label),
                marker=".",
                linewidth=1.4,
                **look,
            )
            axis.fill_between(ks, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=None))
        axis.set(xlabel="k", ylabel="Pass@k, %", ylim=(0, 1.02))
        axis.set_title(plain_label(title))
        _style_axis(axis)
        axis.legend(fontsize="small", frameon=False)
    return figure


def plot_solve_rates(title: str, rates: Mapping[str, Values]) -> Figure:
    """Heat map of problems × runs.

    Columns are the problems from the hardest to the easiest by their mean over the runs, so that no
    run is favoured. Beyond `STRIP_CELLS` problems a column is the mean of neighbours.

    Args:
        rates: label → share of samples that pass for each problem [P], all in the same order.
    """
    grid = np.array([np.asarray(rates_P, dtype=np.float64) for rates_P in rates.values()])
    grid = grid[:, np.argsort(grid.mean(axis=0), kind="stable")]
    problems = grid.shape[1]
    edges = np.linspace(0, problems, min(problems, STRIP_CELLS) + 1).round().astype(int)
    figure = Figure(figsize=(4.8, 1.5 + 0.3 * len(rates)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        np.add.reduceat(grid, edges[:-1], axis=1) / np.diff(edges),
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(0, problems, len(rates), 0),
    )
    for line in range(1, len(rates)):
        axis.axhline(line, color="white", linewidth=1.2)
    axis.set_yticks(
        np.arange(len(rates)) + 0.5, [_short(label) for label in rates], fontsize="small"
    )
    axis.tick_params(axis="y", length=0)
    axis.set_title(plain_label(title))
    axis.set_xlabel(f"{problems:,} problems, hardest first", fontsize="small")
    axis.tick_params(axis="x", labelsize="small")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bar = figure.colorbar(
        image, ax=axis, orientation="horizontal", aspect=40, pad=0.1, fraction=0.12
    )
    bar.set_label("% of samples that pass", fontsize="small")
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=None))
    bar.ax.tick_params(labelsize="small")
    return figure


def plot_flips(title: str, labels: tuple[str, str], a_P: Values, b_P: Values) -> Figure:
    """Solve rates of two runs on the same problems; the area of a dot is the number of problems."""
    spots, counts = np.unique(np.stack([a_P, b_P], axis=1), axis=0, return_counts=True)
    colours = [_SAME if a == b else _UP if b > a else _DOWN for a, b in spots]
    figure = Figure(figsize=(4.8, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=1)
    area = np.maximum(6, 1200 * counts / max(counts.sum(), 1))
    axis.scatter(spots[:, 0], spots[:, 1], s=area, c=colours, alpha=0.6, linewidths=0, zorder=2)
    if len(spots) <= _NUMBERED_SPOTS:
        for (a, b), count, size in zip(spots, counts, area, strict=True):
            beside = (0, 2 + math.sqrt(size) / 2)
            axis.annotate(
                f"{count:,}",
                (a, b),
                beside,
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize="small",
            )
    better, worse = int((b_P > a_P).sum()), int((b_P < a_P).sum())
    axis.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.14), aspect="equal")
    axis.set_xlabel(f"{_short(labels[0])}, % of samples that pass")
    axis.set_ylabel(f"{_short(labels[1])}, % of samples that pass")
    axis.set_title(plain_label(f"{title}: {better:,} better, {worse:,} worse"))
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(PercentFormatter(1, symbol=None))
    _style_axis(axis)
    return figure


def plot_differences(rows: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Figure:
    """Dots with their 95% intervals.

    Args:
        rows: row → label → {"value", "low", "high"} in 0–1, drawn in percentage points.
    """
    labels = list(dict.fromkeys(label for each in rows.values() for label in each))
    figure = Figure(
        figsize=(4.8, 1.1 + (0.16 + 0.16 * len(labels)) * len(rows)), layout="constrained"
    )
    axis = figure.subplots()
    step = 0.7 / len(labels)
    for index, label in enumerate(labels):
        colour = COLOURS[(index + 1) % len(COLOURS)]
        places = [
            line + step * (index - (len(labels) - 1) / 2)
            for line, each in enumerate(rows.values())
            if label in each
        ]
        found = [each[label] for each in rows.values() if label in each]
        value, low, high = (
            np.array([100 * one[end] for one in found]) for end in ("value", "low", "high")
        )
        axis.errorbar(
            value,
            places,
            xerr=np.stack([value - low, high - value]),
            fmt="o",
            markersize=4,
            color=colour,
            elinewidth=1.4,
            capsize=0,
            label=_short(label),
        )
    axis.axvline(0, color="#666666", linewidth=1)
    axis.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize="small")
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("percentage points", fontsize="small")
    axis.set_title(plain_label(title), fontsize="medium")
    _style_axis(axis)
    if len(labels) > 1:
        figure.legend(fontsize="small", frameon=False, loc="outside lower center", ncols=2)
    return figure


def plot_over_steps(title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Metrics over the steps of training.

    Args:
        curves: label → rows with "step", "value", "low" and "high", in 0–1; low to high is the
            band.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for index, (label, rows) in enumerate(curves.items()):
        look = line_look(index)
        steps, values, low, high = (
            [row[name] for row in rows] for name in ("step", "value", "low", "high")
        )
        axis.plot(steps, values, label=label, marker=".", linewidth=1.4, **look)
        axis.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=None))
    axis.set(xlabel="step", ylabel="%", ylim=(0, 1.02))
    axis.set_title(plain_label(title))
    _style_axis(axis)
    axis.legend(fontsize="small", frameon=False)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def _style_axis(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _short(text: str) -> str:
    """Shorten a long label to its end, where labels differ."""
    return plain_label(
        text if len(text) <= _LABEL_CHARACTERS else "…" + text[1 - _LABEL_CHARACTERS :]
    )
