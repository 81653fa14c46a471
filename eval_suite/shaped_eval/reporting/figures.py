"""What all figures share: colours, line styles, a grid of axes, and plain labels."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The palette of Okabe and Ito, which also people with colour blindness can tell apart.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_STYLES = ("-", "--", ":", "-.")


def line_look(index: int) -> dict[str, Any]:
    """Colour and style of line number `index`, as keyword arguments of `Axes.plot`."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _STYLES[index % len(_STYLES)]}


def axes_grid(num_panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with axes for `num_panels` panels, two in a row, without global state."""
    columns = min(num_panels, 2)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[num_panels:]:
        unused.set_axis_off()
    return figure, axes[:num_panels]


def plain_label(text: str) -> str:
    """The text without mathematics: matplotlib would read what stands between two dollar signs."""
    return text.replace("$", r"\$")
