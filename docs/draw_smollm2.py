"""Draw what the shapes do to SmolLM2-135M from the committed results of `studies/smollm2`.

    python docs/draw_smollm2.py                  # writes smollm2.png beside the records
    python docs/draw_smollm2.py --out other.png

Every point is a difference from plain cross-entropy, paired over 3 seeds, with its 95% interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from make_picture import RESULTS, difference, results

STUDY = "smollm2"
ARMS = {
    "precision_exponent": "precision, exponent\nβ = −0.25",
    "precision_product": "precision, product\nβ = −0.25",
    "tail_penalty": "tail penalty\nλ̂ = −0.1",
}
# title of the panel, stage, quantity
PANELS = (
    ("Held-out NLL, %", "midtrain", "nll"),
    ("Entropy, %", "midtrain", "entropy"),
    ("Head mass, %", "midtrain", "head_mass"),
    ("Tail mass, %", "midtrain", "tail_mass"),
    ("Reward during RL, points", "rlvr", "reward"),
    ("Avg@16 before RL, points", "eval_midtrain", "avg@16"),
    ("Avg@16 after RL, points", "eval_rlvr", "avg@16"),
    ("Pass@16 after RL, points", "eval_rlvr", "pass@16"),
)


def draw(path: Path) -> None:
    """Write the picture, 1,320 pixels wide."""
    found = results(STUDY)
    (regime,) = found["regimes"]
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), sharey=True)
    for axis, (title, stage, quantity) in zip(axes.flat, PANELS, strict=True):
        for row, arm in enumerate(ARMS):
            point = difference(found, regime, arm, stage, quantity)
            if point is None:
                raise ValueError(f"the results have no difference of {arm} in {quantity}")
            axis.plot([point.low, point.high], [row, row], color="#0072b2", linewidth=2)
            axis.plot(point.value, row, "o", color="#0072b2", markersize=5)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0, labelsize=9)
    axes[0, 0].set_yticks(range(len(ARMS)), list(ARMS.values()))
    axes[0, 0].set_ylim(len(ARMS) - 0.5, -0.5)
    figure.supxlabel("difference from cross-entropy, 3 paired seeds, 95% interval", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / STUDY / "smollm2.png")
    draw(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
