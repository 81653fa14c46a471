"""How much of precision's gain in reward a temperature of the same entropy explains.

    python docs/temperature_share.py

The share is the gain of cross-entropy at the matched temperature, divided by that of precision,
over the paired seeds of a committed study. The rewards are the means over RL of the curves in
`report/reward.csv`. Two 95% intervals are printed: the percentiles of a bootstrap over seeds, and
Fieller's (1954), which is exact for normal differences. With 8 seeds a bootstrap is too narrow.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESULTS = Path(__file__).parents[1] / "recipes" / "studies" / "results"
STUDIES = (("cpu-midtrain", "P"), ("arithmetic", ""))  # and the regime
RESAMPLES = 100_000

Values = NDArray[np.float64]  # [S], one for each seed


class Share(NamedTuple):
    """A ratio of two means over seeds, with two 95% intervals."""

    value: float
    bootstrap: tuple[float, float]
    fieller: tuple[float, float]


def rewards(study: str, regime: str) -> dict[str, Values]:
    """Arm → its mean reward over RL for each seed [S]."""
    curves: dict[str, dict[int, list[float]]] = {}
    with (RESULTS / study / "report" / "reward.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["regime"] == regime and row["seed"] != "mean":
                by_seed = curves.setdefault(row["arm"], {})
                by_seed.setdefault(int(row["seed"]), []).append(float(row["y"]))
    return {
        arm: np.array([np.mean(by_seed[seed]) for seed in sorted(by_seed)])
        for arm, by_seed in curves.items()
    }


def share(part_S: Values, whole_S: Values) -> Share:
    """The ratio of the means of `part_S` and `whole_S`, which are paired by seed.

    Raises:
        ValueError: the mean of `whole_S` does not differ from 0 at 5%, so that Fieller's interval
            has no bounds.
    """
    seeds = len(part_S)
    p, w = part_S.mean(), whole_S.mean()
    # The ratios r with |mean(part − r·whole)| at most t standard errors: a quadratic in r.
    (vp, c), (_, vw) = np.cov(part_S, whole_S) / seeds * stats.t.ppf(0.975, seeds - 1) ** 2
    if w**2 <= vw:
        raise ValueError(f"the mean {w:.3g} does not differ from 0: its ratio has no bounds")
    half = np.sqrt((p * w - c) ** 2 - (w**2 - vw) * (p**2 - vp)) / (w**2 - vw)
    middle = (p * w - c) / (w**2 - vw)
    drawn = np.random.default_rng(0).integers(0, seeds, (RESAMPLES, seeds))
    low, high = np.percentile(part_S[drawn].mean(1) / whole_S[drawn].mean(1), [2.5, 97.5])
    return Share(float(p / w), (float(low), float(high)), (middle - half, middle + half))


def main() -> None:
    for study, regime in STUDIES:
        found = rewards(study, regime)
        base = found["cross_entropy"]
        result = share(found["matched_temperature"] - base, found["precision_product"] - base)
        intervals = ", ".join(
            f"{name} [{low:.0%}, {high:.0%}]"
            for name, (low, high) in (("bootstrap", result.bootstrap), ("Fieller", result.fieller))
        )
        print(f"{study} {regime}: {result.value:.1%}, {intervals}, {len(base)} seeds")


if __name__ == "__main__":
    main()
