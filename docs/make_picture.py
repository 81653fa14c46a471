"""Draw the README's picture from the committed results of two studies.

    python docs/make_picture.py                  # writes docs/shaping.png
    python docs/make_picture.py --out other.png

Every point is a difference from plain cross-entropy, paired over 8 seeds, with its 95% interval.
The numbers are read from `results.json` of `cpu-midtrain` (β in the product form) and of
`cpu-midtrain-exponent` (β in the exponent form). Nothing is computed here but percent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "recipes" / "studies" / "results"
BASELINE = "cross_entropy"
REGIMES = {
    "P": ("noisy reasoning in all texts", "#0072b2", "o", -0.14),
    "D": ("correct reasoning in one text of five", "#d55e00", "s", 0.14),
}
# label of the row, study, arm; from top to bottom
ROWS = (
    ("precision, exponent\nβ = −0.25", "cpu-midtrain-exponent", "precision_exponent"),
    ("diversity, exponent\nβ = 0.5", "cpu-midtrain-exponent", "diversity_exponent"),
    ("precision, product\nβ = −0.25", "cpu-midtrain", "precision_product"),
    ("diversity, product\nβ = 0.5", "cpu-midtrain", "diversity_product"),
    ("tail penalty\nλ̂ = −0.1", "cpu-midtrain", "tail_penalty"),
    ("cross-entropy, T ≈ 0.9", "cpu-midtrain", "matched_temperature"),
)
# title of the panel, stage, quantity
PANELS = (
    ("Entropy before RL, %", "midtrain", "entropy"),
    ("Reward during RL, points", "rlvr", "reward"),
    ("Avg@64 after RL, points", "eval_rlvr", "avg@64"),
)


class Difference(NamedTuple):
    """An arm minus cross-entropy, in percent or percentage points, with its 95% interval."""

    value: float
    low: float
    high: float


def results(study: str) -> dict:
    """The committed `results.json` of a study."""
    return json.loads((RESULTS / study / "results.json").read_text(encoding="utf-8"))


def difference(found: dict, regime: str, arm: str, stage: str, quantity: str) -> Difference | None:
    """One difference of a study's results.

    Returns:
        None where the arm has none: an arm that differs in its temperature alone was not trained,
        so that its entropy before RL is that of cross-entropy's model.

    Raises:
        ValueError: the results hold it more than once.
    """
    key, rows = "metric", found["effects"]
    if stage == "midtrain":  # in percent of cross-entropy's; the effects have it in nats
        key, rows = "quantity", found["regimes"][regime]["training_differences"]
    asked = {"arm": arm, "against": BASELINE, "stage": stage, key: quantity}
    matching = [
        row for row in rows if row.get("regime", regime) == regime and asked.items() <= row.items()
    ]
    if len(matching) > 1:
        raise ValueError(f"{len(matching)} rows of {regime}, {asked}; there must be one at most")
    return (
        Difference(*(100 * matching[0][name] for name in Difference._fields)) if matching else None
    )


def draw(path: Path) -> None:
    """Write the picture, 1,500 pixels wide."""
    found = {study: results(study) for _, study, _ in ROWS}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), sharey=True)
    for axis, (title, stage, quantity) in zip(axes, PANELS, strict=True):
        for row, (_, study, arm) in enumerate(ROWS):
            for regime, (_, colour, marker, shift) in REGIMES.items():
                point = difference(found[study], regime, arm, stage, quantity)
                if point is None:
                    continue
                axis.plot([point.low, point.high], [row + shift] * 2, color=colour, linewidth=2)
                axis.plot(point.value, row + shift, marker, color=colour, markersize=5)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axhline(1.5, color="0.8", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].text(2, len(ROWS) - 1, "the same model", va="center", fontsize=8, color="0.4")
    axes[0].set_yticks(range(len(ROWS)), [label for label, _, _ in ROWS], fontsize=9)
    axes[0].invert_yaxis()
    for regime, (what, colour, marker, _) in REGIMES.items():
        axes[1].plot([], [], marker, color=colour, label=f"{regime}: {what}")
    figure.supxlabel("difference from cross-entropy, 8 paired seeds, 95% interval", fontsize=9)
    figure.legend(loc="upper center", ncols=2, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, -0.03, 1, 0.94))
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("shaping.png"))
    draw(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
