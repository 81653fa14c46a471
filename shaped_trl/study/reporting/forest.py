"""The figure of a study's contrasts: a forest plot.

It has a row for each contrast and a column for each regime. A point is a difference with its 95%
interval, the band is the margin of equivalence, and a marker and a word say the verdict. Intervals
of exploratory contrasts have dashes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from shaped_eval.reporting.figures import COLOURS, plain_label

from shaped_trl.study.reporting.contrast_results import PRIMARY
from shaped_trl.study.reporting.verdicts import BETTER, EQUIVALENT, OPEN, WORSE
from shaped_trl.study.reporting.wording import csv_text

NAME = "contrasts"  # of the picture and of its numbers
NOT_JUDGED = "not judged"
CSV_COLUMNS = (
    *("claim", "arm", "against", "regime", "exploratory", "stage", "benchmark", "metric"),
    *("seeds", "value", "low", "high", "low90", "high90", "margin", "p", "p_holm", "verdict"),
)
_MARKERS = {BETTER: "^", WORSE: "v", EQUIVALENT: "s", OPEN: "o", NOT_JUDGED: "."}
_COLOURS = {BETTER: COLOURS[1], WORSE: COLOURS[2], EQUIVALENT: COLOURS[3], OPEN: COLOURS[0]}
_GREY = "#666666"
_LABEL_CHARACTERS = 40


def forest_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the figure shows, from the content of results.json.

    There is a row for each contrast and regime, with the names of `CSV_COLUMNS` and the unit.
    Numbers are in the unit of the metric, and None if a contrast has fewer than two seeds.
    """
    names = (*CSV_COLUMNS, "unit")
    return [
        {name: row[name] for name in names}
        for row in results["contrasts"]
        if row["kind"] == PRIMARY
    ]


def forest_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of the figure, one row for each contrast and regime."""
    return csv_text(CSV_COLUMNS, ([row[name] for name in CSV_COLUMNS] for row in rows))


def plot_forest(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the rows of `forest_rows`, of which there is at least one."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    contrasts = list(dict.fromkeys(_contrast(row) for row in rows))
    labels = [_label(*contrast[1:]) for contrast in contrasts]
    lines = max(label.count("\n") + 1 for label in labels)
    size = (2.6 + 3.0 * len(regimes), 1.2 + (0.2 + 0.18 * lines) * len(contrasts))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(regimes), squeeze=False, sharex=True, sharey=True)[0]
    for axis, regime in zip(axes, regimes, strict=True):
        here = {_contrast(row): row for row in rows if row["regime"] == regime}
        for place, contrast in enumerate(contrasts):
            _draw(axis, place, here[contrast])
        _style(axis, list(here.values()), contrasts)
    axes[0].set_yticks(range(len(contrasts)), labels, fontsize="small")
    axes[0].set_ylim(len(contrasts) - 0.5, -0.5)
    first = rows[0]
    margin = f"{scale(first) * first['margin']:g}"
    text = f"difference in {first['metric']}, {unit(first)}; the band is ± {margin}"
    if any(row["exploratory"] for row in rows):
        text += "; dashes: exploratory"
    figure.supxlabel(plain_label(text), fontsize="small")
    return figure


def scale(row: Mapping[str, Any]) -> float:
    """The factor from a row's unit to that of the figure; shares are shown in points."""
    return 100 if row["unit"] == "share" else 1


def unit(row: Mapping[str, Any]) -> str:
    return "points" if row["unit"] == "share" else row["unit"]


def _contrast(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["claim"], row["arm"], row["against"]


def _label(arm: str, against: str) -> str:
    parts = [textwrap.fill(each, _LABEL_CHARACTERS) for each in (arm, f"− {against}")]
    short = len(arm) + len(against) + 3 <= _LABEL_CHARACTERS
    return plain_label((" " if short else "\n").join(parts))


def _draw(axis: Axes, place: int, row: Mapping[str, Any]) -> None:
    """Draw a difference with its interval, and its verdict beside the axes."""
    verdict = row["verdict"] or NOT_JUDGED
    colour = _COLOURS.get(verdict, _GREY)
    if row["value"] is not None:
        value, low, high = (scale(row) * row[name] for name in ("value", "low", "high"))
        style = "--" if row["exploratory"] else "-"
        axis.plot([low, high], [place, place], color=colour, linestyle=style, linewidth=1.4)
        inside = "white" if verdict == OPEN else colour
        axis.plot(
            [value],
            [place],
            marker=_MARKERS[verdict],
            color=colour,
            markerfacecolor=inside,
            markersize=6,
            linestyle="",
        )
    axis.text(
        1.02,
        place,
        verdict,
        transform=axis.get_yaxis_transform(),
        va="center",
        fontsize="small",
        color=colour,
    )


def _style(
    axis: Axes, rows: Sequence[Mapping[str, Any]], contrasts: Sequence[tuple[str, str, str]]
) -> None:
    first = rows[0]
    margin = scale(first) * first["margin"]
    axis.axvspan(-margin, margin, color=COLOURS[7], alpha=0.25, linewidth=0, zorder=0)
    axis.axvline(0, color=_GREY, linewidth=1, zorder=1)
    for place in range(1, len(contrasts)):
        if contrasts[place][0] != contrasts[place - 1][0]:
            axis.axhline(place - 0.5, color=COLOURS[7], linewidth=0.6)
    exploratory = all(row["exploratory"] for row in rows)
    title = f"{first['regime']}{' (exploratory)' if exploratory else ''}".strip()
    axis.set_title(plain_label(title), fontsize="medium")
    axis.grid(axis="x", alpha=0.3)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize="small")
    axis.spines[["top", "right", "left"]].set_visible(False)
