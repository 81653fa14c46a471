"""Plot rows of results.csv: time and extra memory as bars, two panels per size.

    python kernels/benchmarks/plot.py results.csv results-cuda.png H200

This draws the last run on a device whose name contains the last argument.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

COLORS = {"ours": "tab:blue", "floor:": "tab:gray"}


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw bars of the median time with p20 to p80, and of the extra memory.

    Without matplotlib, a line says that there is no plot.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed; plot.py can draw the rows later")
        return
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    most = max(sum(row["size"] == size for row in rows) for size in sizes)
    figure = Figure(figsize=(11, len(sizes) * (0.8 + 0.2 * most)), layout="constrained")
    panels = figure.subplots(len(sizes), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), size in zip(panels, sizes, strict=True):
        drawn = [row for row in rows if row["size"] == size]
        _bars(left, drawn, "median_ms", "p80_ms")
        for place, row in enumerate(drawn):
            left.plot(
                [_number(row["p20_ms"]), _number(row["p80_ms"])],
                [place, place],
                color="black",
                linewidth=1,
            )
            if row["variant"] == row["floor"]:
                left.axvline(
                    _number(row["median_ms"]), color="tab:gray", linestyle=":", linewidth=1
                )
        left.set_title(
            f"{size} {drawn[0]['dtype']}: forward and backward, ms (p20–p80; dotted: floor)",
            fontsize=8,
        )
        _bars(right, drawn, "peak_mb", "peak_mb")
        right.set_yticklabels([])
        right.set_title("extra memory, MiB", fontsize=8)
    origin = (rows[0][key] for key in ("torch", "date", "commit"))
    figure.suptitle(f"{rows[0]['device']}, torch {', '.join(origin)}", fontsize=8)
    figure.savefig(path, dpi=100)


def _bars(panel, rows: list[dict[str, str]], key: str, end: str) -> None:
    """Draw a bar of `key` for each row, with its number behind `end`."""
    panel.barh(
        [f"{row['variant']} ({row['sums']})" for row in rows],
        [_number(row[key]) for row in rows],
        color=[COLORS.get(row["variant"].split()[0], "tab:orange") for row in rows],
    )
    ends = [max(_number(row[key]), _number(row[end])) for row in rows]
    for place, row in enumerate(rows):
        panel.text(ends[place], place, f" {row[key] or '-'}", va="center", fontsize=7)
    panel.set_xlim(0, 1.2 * max(*ends, 1))
    panel.invert_yaxis()
    panel.tick_params(labelsize=7)


def _number(text: str) -> float:
    """The number, or 0 if it was not measured."""
    return float(text) if text.replace(".", "").isdigit() else 0.0


def last_run(path: Path, device: str) -> list[dict[str, str]]:
    """The rows of the last run in a csv on a device whose name contains `device`."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if device in row["device"]]
    keys = ("date", "commit", "device", "command")
    return [row for row in rows if all(row[key] == rows[-1][key] for key in keys)]


if __name__ == "__main__":
    draw(last_run(Path(sys.argv[1]), sys.argv[3]), Path(sys.argv[2]))
