"""Verdicts on a family of contrasts: better, worse, equivalent or open.

Notation: S seeds, C contrasts in the family. A contrast has one difference for each seed. It is
better or worse if the two-sided paired t test has p < 0.05 after Holm's correction within the
family. Otherwise it is equivalent if two one-sided t tests at 5% put the true difference within
± margin (Schuirmann 1987), and open if they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from shaped_trl.study.power import LEVEL
from shaped_trl.study.reporting.effects import PairedEffect, holm, paired_effect

BETTER, WORSE, EQUIVALENT, OPEN = "better", "worse", "equivalent", "open"
VERDICTS = (BETTER, WORSE, EQUIVALENT, OPEN)


@dataclass(frozen=True)
class Judgement:
    """A contrast's mean difference with its 95% interval and p, and the verdict.

    low90 and high90 are its 90% t interval, which lies within ± margin if it is equivalent. p_holm
    is p corrected within the family.
    """

    effect: PairedEffect
    low90: float
    high90: float
    p_holm: float
    verdict: str


def judge(differences_C: Sequence[ArrayLike], margin: float) -> list[Judgement | None]:
    """Judge a family of contrasts.

    Args:
        differences_C: for each contrast its differences own − against [S], with its own S. One with
            fewer than two is not judged, nor one with a value that is not finite, as after a run
            that diverged. It still counts in the correction, with p = 1, so that corrected p-values
            of the others do not rise when it is measured later.
        margin: the margin of equivalence, above 0, in the unit of the differences.

    Returns:
        The judgement of each contrast, in the given order; None where it is not judged.
    """
    found = [
        paired_effect(shifts_S, np.zeros(np.shape(shifts_S)))
        if np.size(shifts_S) > 1 and np.isfinite(shifts_S).all()
        else None
        for shifts_S in differences_C
    ]
    corrected = holm([effect.p_value if effect else 1.0 for effect in found])
    return [
        _judged(effect, p_holm, margin) if effect else None
        for effect, p_holm in zip(found, corrected, strict=True)
    ]


def _judged(effect: PairedEffect, p_holm: float, margin: float) -> Judgement:
    half = float(stats.t.ppf(1 - LEVEL, effect.seeds - 1) * effect.sd / np.sqrt(effect.seeds))
    low90, high90 = effect.value - half, effect.value + half
    if p_holm < LEVEL:
        verdict = BETTER if effect.value > 0 else WORSE
    elif -margin < low90 and high90 < margin and _varies_or_suffices(effect):
        verdict = EQUIVALENT
    else:
        verdict = OPEN
    return Judgement(effect, low90, high90, p_holm, verdict)


def _varies_or_suffices(effect: PairedEffect) -> bool:
    """Whether the differences vary or, if all are equal, are enough for a sign test at 5%.

    Without variation the t interval is a point, whatever the number of seeds. As in
    `paired_effect`, signs take its place: if the true difference were at the margin, S differences
    on its inner side would have a probability of 2^−S.
    """
    return effect.sd > 0 or 2.0**-effect.seeds < LEVEL
