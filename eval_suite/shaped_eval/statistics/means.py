"""Pass@k, Avg@m, intervals and paired differences, as pure functions on numpy arrays.

Votes are in `votes`. Notation: P problems, M samples per problem, B bootstrap resamples, U distinct
values. All values are in 0–1.

Two kinds of uncertainty are kept apart. An interval over problems says how much another draw of
problems would change the value. The sampling error says how much another n samples on these
problems would. A difference of two models on the same problems is paired over problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from shaped_eval.errors import UserError
from shaped_eval.statistics.votes import SEED, Values

CONFIDENCE = 0.95
BOOTSTRAP_FROM_PROBLEMS = 100
EDGE_PROBLEMS = 10  # with fewer problems' worth of value at one end, the interval is exact
RESAMPLES = 10_000
EXACT_SIGN_FLIPS = 16
_CHUNK_DRAWS = 5_000_000
_CHUNK_INDICES = 200_000  # these fit in a processor's cache


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its 95% interval over problems, and its sampling error.

    sampling_se: the standard error from sampling alone.
    """

    value: float
    low: float
    high: float
    sampling_se: float | None = None


@dataclass(frozen=True)
class PairedDifference:
    """Mean of b − a over problems, its 95% paired-bootstrap interval, and a sign-flip p-value.

    The p-value is two-sided.
    """

    value: float
    low: float
    high: float
    p_value: float


def pass_at_k(c: ArrayLike, n: int, k: int) -> Values:
    """Unbiased pass@k of each problem: 1 − C(n−c, k)/C(n, k), as 1 − ∏_{i=n−c+1}^{n} (1 − k/i).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. It is exact to 1e-15, where the plug-in
    estimate 1 − (1 − c/n)^k is off by up to 0.37.

    Args:
        c: passes per problem [P], whole numbers in [0, n].
        n: samples per problem.
        k: draws, 1 ≤ k ≤ n.

    Raises:
        UserError: k or a count is out of range.
    """
    c_P = checked_counts(c, n)
    if not 1 <= k <= n:
        raise UserError(
            f"pass@k with k={k} needs 1 <= k <= n={n} samples per problem: choose k in 1..{n}"
        )
    return _pass_table(n, k)[c_P]


@lru_cache(maxsize=256)
def _pass_table(n: int, k: int) -> Values:
    """pass@k for c = 0..n [n + 1]."""
    factors = 1.0 - k / np.arange(n, 0, -1, dtype=np.float64)  # i = n, n−1, …, 1
    factors[n - k :] = 0.0  # i ≤ k: every draw contains a pass
    table = 1.0 - np.concatenate([[1.0], np.cumprod(factors)])
    table.flags.writeable = False
    return table


def avg_at_m(c: ArrayLike, n: int) -> Values:
    """Share of each problem's n samples that pass [P], which equals pass@1.

    Raises:
        UserError: a count is out of range.
    """
    return checked_counts(c, n) / n


def problem_interval(values_P: ArrayLike, sampling_se: float | None = None) -> Interval:
    """Mean of per-problem values in 0–1 with a 95% interval over problems, clipped to [0, 1].

    The interval is Student's t for fewer than 100 problems, and the percentile bootstrap (10,000
    resamples, seeded) from 100. Both are too short if fewer than 10 problems' worth of value lies
    at one end (P·min(mean, 1 − mean) < 10), or if all values are equal. There the interval is
    Clopper-Pearson's at the effective sample size mean(1 − mean)/SE², at least P, whose variance
    includes one more problem at each end, because a variance of 0 may be luck. That interval is
    conservative, and the report says so. Coverage in simulations is 0.93-0.98, and 0.96-1.00 for
    the exact interval (tests/shaped_eval/reporting/test_statistics.py).

    Args:
        values_P: a value for each problem [P].
        sampling_se: standard error from sampling alone, which is passed on to the result.

    Raises:
        UserError: there are no values, or one is outside 0–1.
    """
    values = np.asarray(values_P, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(
            f"values of shape {values.shape}: an interval needs one value for each of at least "
            "one problem"
        )
    if not (values.min() >= 0.0 and values.max() <= 1.0):
        raise UserError(
            f"values from {values.min()} to {values.max()}: an interval over problems needs them "
            "in 0-1"
        )
    problems = len(values)
    mean = float(values.mean())
    if near_edge(mean, problems) or np.ptp(values) == 0.0:
        low, high = _exact_interval(values)
    elif problems < BOOTSTRAP_FROM_PROBLEMS:
        half = (
            stats.t.ppf(0.5 + CONFIDENCE / 2, problems - 1) * values.std(ddof=1) / np.sqrt(problems)
        )
        low = mean - half
        high = mean + half
    else:
        low, high = _bootstrap(values)
    return Interval(mean, max(0.0, float(low)), min(1.0, float(high)), sampling_se)


def near_edge(mean: float, problems: int) -> bool:
    """Whether the interval of this mean is the exact one, which covers more than 95%."""
    return problems * min(mean, 1.0 - mean) < EDGE_PROBLEMS


def _exact_interval(values: Values) -> tuple[float, float]:
    """Clopper-Pearson interval with an effective sample size.

    Korn and Graubard 1998, Survey Methodology 24.
    """
    problems = len(values)
    mean = values.mean()
    guarded = np.concatenate([values, [0.0, 1.0]])
    center = guarded.mean()
    effective = max(float(problems), problems * center * (1.0 - center) / guarded.var())
    hits = effective * mean
    misses = effective * (1.0 - mean)
    tail = (1.0 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, hits, misses + 1.0) if hits > 0.0 else 0.0
    high = stats.beta.ppf(1.0 - tail, hits + 1.0, misses) if misses > 0.0 else 1.0
    return low, high


def _bootstrap(values: Values) -> tuple[float, float]:
    """Percentile interval of the mean of P values that are drawn with replacement.

    The mean depends on the draw only through how often each of the U distinct values is drawn, so
    that multinomial counts can replace the P indices. A count takes the time of some 20 indices.
    Below 100 problems counts are always drawn, so that earlier reports keep their numbers.
    """
    levels_U, counts_U = np.unique(values, return_counts=True)
    problems = len(values)
    rng = np.random.default_rng(SEED)
    counted = problems < BOOTSTRAP_FROM_PROBLEMS or 20 * len(levels_U) < problems
    draws = _CHUNK_DRAWS // len(levels_U) if counted else _CHUNK_INDICES // problems
    chunk = max(1, draws)
    means = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        if counted:
            drawn = rng.multinomial(problems, counts_U / problems, size=size)
            means.append(drawn @ levels_U / problems)
        else:
            means.append(values[rng.integers(problems, size=(size, problems))].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return low, high


def sampling_se(c: ArrayLike, n: int, k: int = 1) -> float:
    """Standard error of the mean pass@k from sampling alone, with the problems fixed.

    This is a plug-in estimate: the next count c' of a problem is Binomial(n, (c + ½)/(n + 1)), and
    the variance of pass@k over it is summed exactly. It is conservative at c = 0 and c = n.

    Raises:
        UserError: there are no problems, or k or a count is out of range.
    """
    pass_at_k(c, n, k)  # for its range check
    return table_se(c, n, _pass_table(n, k))


def table_se(c: ArrayLike, n: int, table: Values) -> float:
    """As `sampling_se`, of the mean of another function of the number of passes.

    Args:
        c: passes per problem [P], whole numbers in [0, n].
        n: samples per problem.
        table: the function's value at 0..n passes [n + 1].

    Raises:
        UserError: there are no problems, or a count is out of range.
    """
    counts_U, problems_U = np.unique(checked_counts(c, n), return_counts=True)
    if len(counts_U) == 0:
        raise UserError("no problems: a sampling error needs at least one count")
    probability_U = (counts_U + 0.5) / (n + 1)
    weights = stats.binom.pmf(np.arange(n + 1)[None, :], n, probability_U[:, None])  # [U, n + 1]
    mean_U = weights @ table
    variance_U = (weights * (table[None, :] - mean_U[:, None]) ** 2).sum(axis=1)
    return float(np.sqrt((problems_U * variance_U).sum()) / problems_U.sum())


def paired_difference(a_P: ArrayLike, b_P: ArrayLike) -> PairedDifference:
    """How much better b is than a on the same problems.

    The interval is the percentile bootstrap of the differences over problems (10,000 resamples,
    seeded). With few problems or equal differences it is too short, and the p-value is safer. The
    p-value is that of the two-sided sign-flip permutation test: exact for up to 16 problems that
    differ, else from 10,000 seeded flips with one added to both counts, so that it is never 0.

    Raises:
        UserError: there are no problems, or not the same number.
    """
    a = np.asarray(a_P, dtype=np.float64)
    b = np.asarray(b_P, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise UserError(
            f"values of shapes {a.shape} and {b.shape}: a paired difference needs the same problems"
        )
    differences = np.round(
        b - a, 12
    )  # so that equal differences stay equal in spite of rounding errors
    low, high = _bootstrap(differences)
    return PairedDifference(
        float(differences.mean()), float(low), float(high), _sign_flip_p(differences)
    )


def _sign_flip_p(differences: Values) -> float:
    sizes = np.abs(differences[differences != 0.0])
    if len(sizes) == 0:
        return 1.0
    threshold = abs(differences.sum()) - 1e-9
    if len(sizes) <= EXACT_SIGN_FLIPS:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
        return float(np.mean(np.abs(sums) >= threshold))
    levels_U, counts_U = np.unique(sizes, return_counts=True)
    rng = np.random.default_rng(SEED)
    extreme = 0
    chunk = max(1, _CHUNK_DRAWS // len(levels_U))
    for start in range(0, RESAMPLES, chunk):
        positive = rng.binomial(counts_U, 0.5, size=(min(chunk, RESAMPLES - start), len(levels_U)))
        extreme += int((np.abs((2 * positive - counts_U) @ levels_U) >= threshold).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def checked_counts(c: ArrayLike, n: int) -> NDArray[np.int64]:
    """The passes per problem as whole numbers [P].

    Raises:
        UserError: one is not a whole number in [0, n], or n is below 1.
    """
    c_P = np.asarray(c)
    if n < 1:
        raise UserError(f"n={n} samples per problem: at least 1 is needed")
    if c_P.ndim != 1 or (len(c_P) > 0 and not np.array_equal(c_P, np.round(c_P))):
        raise UserError("passes per problem must be whole numbers, one for each problem")
    if len(c_P) > 0 and not 0 <= c_P.min() <= c_P.max() <= n:
        raise UserError(f"passes per problem from {c_P.min()} to {c_P.max()} must lie in 0..n={n}")
    return c_P.astype(np.int64)
