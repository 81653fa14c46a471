"""The figure of a study's claims: differences with their intervals, in panels by claim and unit.

`shaped_trl.study.reporting.opening` fills it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from shaped_eval.reporting.figures import COLOURS, plain_label

from shaped_trl.study.reporting.wording import csv_text, in_regime

CSV_COLUMNS = ("panel", "regime", "verdict", "quantity", "unit", "value", "low", "high", "filled")
_INCHES_AXIS, _INCHES_A_BAR, _INCHES_A_TITLE_LINE = 0.45, 0.22, 0.17
_LETTERS_A_COLUMN = 45  # of a title, for each column of axes


@dataclass(frozen=True)
class Bar:
    """A difference with its interval; its marker is filled or hollow."""

    label: str
    regime: str
    value: float
    low: float
    high: float
    filled: bool


@dataclass(frozen=True)
class Panel:
    """A row of axes, one for each regime.

    title, unit: of the differences.
    verdicts: regime → what was concluded there; it stands above the axes.
    band: half the width of a band around 0 in which differences count as none; None for no band.
    """

    title: str
    unit: str
    bars: Sequence[Bar]
    verdicts: Mapping[str, str]
    band: float | None = None


@dataclass(frozen=True)
class ClaimFigure:
    """A figure with its caption; `name` is that of its files."""

    name: str
    caption: str
    panels: Sequence[Panel]


def figure_csv(claims: ClaimFigure) -> str:
    """The numbers of the figure, a row for each bar."""
    rows = []
    for panel in claims.panels:
        for bar in panel.bars:
            labels = (panel.title, bar.regime, panel.verdicts[bar.regime], bar.label, panel.unit)
            rows.append((*labels, bar.value, bar.low, bar.high, "yes" if bar.filled else "no"))
    return csv_text(CSV_COLUMNS, rows)


def plot_claims(claims: ClaimFigure) -> Figure:
    """Draw the figure: a row of axes for each panel, a column for each regime.

    Neighbouring panels with the same title share it, and their verdicts.
    """
    regimes = list(dict.fromkeys(r for panel in claims.panels for r in panel.verdicts))
    labels = [list(dict.fromkeys(bar.label for bar in panel.bars)) for panel in claims.panels]
    titles = _titles(claims, len(regimes))
    heights = [
        _INCHES_AXIS
        + _INCHES_A_BAR * max(len(names), 1)
        + _INCHES_A_TITLE_LINE * (title.count("\n") + 2 if title else 0)
        for names, title in zip(labels, titles, strict=True)
    ]
    figure = Figure(figsize=(2.6 + 3.6 * len(regimes), sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(heights),
        len(regimes),
        squeeze=False,
        sharex="row",
        sharey="row",
        gridspec_kw={"height_ratios": [max(len(names), 1) for names in labels]},
    )
    for axes, panel, names, title in zip(grid, claims.panels, labels, titles, strict=True):
        for axis, regime in zip(axes, regimes, strict=True):
            _draw(axis, [bar for bar in panel.bars if bar.regime == regime], names, panel)
            if title:
                verdict = plain_label(in_regime(regime, panel.verdicts[regime]))
                # Empty lines make room for the panel's title.
                lines = "\n" * (title.count("\n") + 1)
                axis.set_title(f"{lines}{verdict}", loc="left", fontsize="small")
        if title:
            _write_title(axes[0], title)
    return figure


def _titles(claims: ClaimFigure, columns: int) -> list[str]:
    """The panels' titles, wrapped to the figure; empty if it is that of the panel before."""
    titles = [panel.title for panel in claims.panels]
    return [
        ""
        if number and title == titles[number - 1]
        else "\n".join(textwrap.wrap(plain_label(title), 30 + _LETTERS_A_COLUMN * columns))
        for number, title in enumerate(titles)
    ]


def _write_title(axis: Axes, title: str) -> None:
    """Write a title from the left edge of the figure, above that of the axes."""
    text = axis.annotate(
        title,
        (0.01, 1),
        xycoords=("figure fraction", "axes fraction"),
        xytext=(0, 17),
        textcoords="offset points",
        fontsize="small",
        fontweight="bold",
        annotation_clip=False,
    )
    text.set_in_layout(False)  # it may be wider than the axes below it


def _draw(axis: Axes, bars: Sequence[Bar], names: Sequence[str], panel: Panel) -> None:
    axis.axvline(0, color=COLOURS[7], linewidth=0.8)
    if panel.band is not None:
        axis.axvspan(-panel.band, panel.band, color=COLOURS[7], alpha=0.2, linewidth=0)
    for bar in bars:
        place = names.index(bar.label)
        axis.hlines(place, bar.low, bar.high, color=COLOURS[1], linewidth=1.6)
        face = COLOURS[1] if bar.filled else "white"
        axis.plot(bar.value, place, "o", color=COLOURS[1], markerfacecolor=face, markersize=5)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), [plain_label(name) for name in names], fontsize="small")
    axis.set_xlabel(panel.unit, fontsize="small", labelpad=1)
    axis.tick_params(axis="x", labelsize="small")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
