"""How many problems and samples would show a difference of two models on the same problems.

Notation: P problems, n samples of each by each model. The difference of two shares of passes has
the variance (between + within/n)/P: `between` is how much the true difference varies among
problems, and only more problems reduce its part; `within` is the chance of drawing samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from shaped_eval.errors import UserError
from shaped_eval.statistics.means import CONFIDENCE, checked_counts

POWER = 0.8
_STEEPEST = 50.0  # a larger shift of a log-odds does not change a share of passes in float64


@dataclass(frozen=True)
class Spread:
    """The two parts of the variance of a problem's difference.

    Args:
        between: variance over problems of the true difference.
        within: mean over problems of the variance that one sample of each model adds.
    """

    between: float
    within: float

    def variance(self, n: int) -> float:
        """Variance of one problem's difference with n samples of each model."""
        return self.between + self.within / n


def spread_of_two(
    passes_a: ArrayLike,
    n_a: int,
    passes_b: ArrayLike,
    n_b: int,
    drawn: tuple[bool, bool] = (True, True),
) -> Spread:
    """The spread of two runs on the same problems, without bias but for a floor of 0.

    Args:
        passes_a, passes_b: passes per problem [P], in the same order.
        n_a, n_b: samples per problem; 2 or more where they are drawn.
        drawn: whether the samples of a and of b are drawn. Greedy ones add no variance.

    Raises:
        UserError: the runs do not have the same 2 or more problems, or one that is drawn has one
            sample of each.
    """
    if any(n < 2 for n, is_drawn in zip((n_a, n_b), drawn, strict=True) if is_drawn):
        raise UserError(
            "n=1 sample per problem does not say how much samples differ: plan from runs with n=2 "
            "or more"
        )
    a_P, b_P = checked_counts(passes_a, n_a) / n_a, checked_counts(passes_b, n_b) / n_b
    if a_P.shape != b_P.shape or len(a_P) < 2:
        raise UserError(
            f"{len(a_P)} and {len(b_P)} problems: a plan needs the same 2 or more problems"
        )
    within_a = _within(a_P, n_a) if drawn[0] else 0.0
    within_b = _within(b_P, n_b) if drawn[1] else 0.0
    observed = float((b_P - a_P).var(ddof=1))
    between = max(0.0, observed - within_a / n_a - within_b / n_b)
    return Spread(between, within_a + within_b)


def _within(shares_P: NDArray[np.float64], n: int) -> float:
    # a share times its complement is too small by a factor of (n − 1)/n on average
    return float((shares_P * (1.0 - shares_P)).mean()) * n / (n - 1)


def spread_of_shift(passes: ArrayLike, n: int, difference: float) -> Spread:
    """The spread between a run and a model that is better by `difference` on average.

    The log-odds of each problem are moved by the same amount. Real models also gain here and lose
    there, so this `between` is a lower bound.

    Args:
        passes: passes per problem [P].
        n: samples per problem; a problem's chance is taken as (passes + ½)/(n + 1).
        difference: of the mean shares of passes; more than 0.

    Raises:
        UserError: there are no problems, or the better model would pass (almost) everything.
    """
    before_P = (checked_counts(passes, n) + 0.5) / (n + 1)
    if len(before_P) == 0:
        raise UserError("no problems: a plan needs at least one count")
    odds_P = special.logit(before_P)

    def gain(shift: float) -> float:
        return float((special.expit(odds_P + shift) - before_P).mean())

    if gain(_STEEPEST) <= difference:
        raise UserError(
            f"a difference of {100 * difference:g} points is more than the run can gain: it passes "
            f"{100 * before_P.mean():.1f}% already"
        )
    shift = optimize.brentq(lambda shift: gain(shift) - difference, 0.0, _STEEPEST)
    after_P = special.expit(odds_P + shift)
    within = (before_P * (1.0 - before_P) + after_P * (1.0 - after_P)).mean()
    return Spread(float((after_P - before_P).var()), float(within))


def power(spread: Spread, difference: float, problems: int, n: int) -> float:
    """The probability that a two-sided paired t-test of `problems` shows `difference` at 5%.

    The sign-flip test of a comparison has about the same.
    """
    error = np.sqrt(spread.variance(n) / problems)
    if error == 0.0:
        return 1.0
    critical = stats.t.ppf(0.5 + CONFIDENCE / 2, problems - 1)
    # the square of a noncentral t is a noncentral F, which scipy has for large differences too
    return float(stats.ncf.sf(critical**2, 1, problems - 1, (difference / error) ** 2))


def problems_needed(spread: Spread, difference: float, n: int) -> int:
    """The smallest number of problems, at least 2, with which `power` is 80%.

    Raises:
        UserError: the difference is 0.
    """
    if difference == 0.0:
        raise UserError("difference=0: no number of problems shows that models are the same")
    reach = stats.norm.ppf(0.5 + CONFIDENCE / 2) + stats.norm.ppf(POWER)
    # the normal approximation is too small by a few problems
    problems = max(2, ceil(reach**2 * spread.variance(n) / difference**2))
    while power(spread, difference, problems, n) < POWER:
        problems += 1
    return problems


def smallest_difference(spread: Spread, problems: int, n: int) -> float:
    """The difference that so many problems, 2 or more, show with a probability of about 80%."""
    reach = stats.t.ppf([0.5 + CONFIDENCE / 2, POWER], problems - 1).sum()
    return float(reach * np.sqrt(spread.variance(n) / problems))
