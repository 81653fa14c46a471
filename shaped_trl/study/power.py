"""The power of a study's contrasts, from the standard deviation of paired differences.

Notation: S seeds, with S − 1 degrees of freedom; m contrasts in the family of a regime. The mean of
S normal differences with deviation sd has the standard error sd/√S.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

from shaped_trl.study.definition import Study

LEVEL = 0.05  # of a family, and of each one-sided test of equivalence
POWER = 0.8
MOST_SEEDS = 16
NODES = 100


def difference_power(margin: float, sd: float, seeds: int, family: int) -> float:
    """The probability of finding a true difference of `margin`, with its sign.

    P(T > t_{1 − 0.05/2m, S−1}) with T from the noncentral t distribution with noncentrality
    margin·√S/sd. This is the first step of Holm's correction, in which a p-value is multiplied by
    m. It is a lower bound, since later steps multiply by less.

    Args:
        margin: the true difference, above 0.
        sd: standard deviation of the paired differences, above 0.
        seeds: S, at least 2.
        family: m.
    """
    quantile = stats.t.isf(LEVEL / (2 * family), seeds - 1)
    shift = min(margin * math.sqrt(seeds) / sd, 1e6)  # beyond which SciPy gives NaN
    return float(stats.nct.sf(quantile, seeds - 1, shift))


def equivalence_power(margin: float, sd: float, seeds: int) -> float:
    """The probability that two one-sided tests show equivalence if the true difference is 0.

    They do if the 90% t interval lies within ± margin (Schuirmann 1987). Given the estimate s of
    sd, this has the probability 2Φ((margin·√S − t_{.95, S−1}·s)/sd) − 1 if that is positive. It is
    integrated over s·√(S − 1)/sd, which has a chi distribution with S − 1 degrees of freedom.

    Args:
        margin: above 0.
        sd: standard deviation of the paired differences, above 0.
        seeds: S, at least 2.
    """
    degrees = seeds - 1
    reach = margin * math.sqrt(seeds) / sd
    slope = stats.t.ppf(1 - LEVEL, degrees) / math.sqrt(degrees)

    def density(u: NDArray[np.float64]) -> NDArray[np.float64]:
        within = 2 * stats.norm.cdf(reach - slope * u) - 1
        return within * stats.chi.pdf(u, degrees)

    # Beyond this quantile there is less than 1e-12 of the distribution. The integrand is smooth,
    # so that Gauss–Legendre nodes give twelve digits and more.
    end = min(reach / slope, stats.chi.isf(1e-12, degrees))
    return float(integrate.fixed_quad(density, 0, end, n=NODES)[0])


def seeds_needed(power_with: Callable[[int], float]) -> int | None:
    """The smallest number of seeds with a power of 80%; None if 16 are not enough.

    Where the power is near 80%, it grows with the number of seeds.
    """
    numbers = range(2, MOST_SEEDS + 1)
    place = bisect_left(numbers, True, key=lambda seeds: power_with(seeds) >= POWER)
    return numbers[place] if place < len(numbers) else None


def seeds_text(seeds: int | None) -> str:
    """The result of `seeds_needed` in words."""
    return f"more than {MOST_SEEDS}" if seeds is None else str(seeds)


def planned_power(study: Study) -> list[dict[str, Any]]:
    """The power of a study's contrasts with its seeds, for each regime whose sd is known.

    There is a row for each regime and number of seeds: {"regime", "seeds", "contrasts", "sd",
    "margin", "difference", "equivalence", "seeds_for_difference", "seeds_for_equivalence"}. The
    last two are `seeds_needed`, and the two before are None with fewer than two seeds.
    """
    contrasts, rows = study.contrasts, []
    for view in study.each_regime() if contrasts else ():
        assert contrasts is not None
        sd = contrasts.sd.get(view.regime)
        pairs = [contrast for _, contrast in contrasts.each()]
        numbers = {
            len(set.intersection(*(set(view.seeds_of(arm)) for arm in (*c.arms, *c.against))))
            for c in pairs
        }
        for seeds in sorted(numbers) if sd is not None else ():
            labels = {"regime": view.regime, "seeds": seeds, "contrasts": len(pairs), "sd": sd}
            rows.append(labels | power_row(contrasts.margin, float(sd or 0), seeds, len(pairs)))
    return rows


def power_row(margin: float, sd: float, seeds: int, family: int) -> dict[str, Any]:
    """The powers with this many seeds, and the numbers of seeds that give 80%."""
    judged = seeds > 1
    return {
        "margin": margin,
        "difference": difference_power(margin, sd, seeds, family) if judged else None,
        "equivalence": equivalence_power(margin, sd, seeds) if judged else None,
        "seeds_for_difference": seeds_needed(lambda S: difference_power(margin, sd, S, family)),
        "seeds_for_equivalence": seeds_needed(lambda S: equivalence_power(margin, sd, S)),
    }
