"""How reliable samples are: all right, most right, at what cost, and whether votes know it.

Notation: P problems, M = n samples per problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from shaped_eval.errors import UserError
from shaped_eval.statistics.means import (
    CONFIDENCE,
    Interval,
    PairedDifference,
    checked_counts,
    paired_difference,
    problem_interval,
)
from shaped_eval.statistics.votes import Ballot, Values, cons

SHARE_BINS = 5


def all_at_k(c: ArrayLike, n: int, k: int) -> Values:
    """Unbiased probability that all of k samples pass, for each problem [P]: C(c, k)/C(n, k).

    It is ``pass^k`` in τ-bench (arXiv 2406.12045). For k = 1 it equals pass@1.

    Args:
        c: passes per problem [P], whole numbers in [0, n].
        n: samples per problem.
        k: draws, 1 ≤ k ≤ n.

    Raises:
        UserError: k or a count is out of range.
    """
    return all_table(n, k)[checked_counts(c, n)]


def g_pass_at_k(c: ArrayLike, n: int, k: int, tau: float) -> Values:
    """G-Pass@k(τ) of each problem [P]: the probability that at least τ·k of k samples pass.

    Liu et al. 2024 (arXiv 2412.13147), equation 4: the sum over j from ⌈τk⌉ to c of
    C(c, j)·C(n − c, k − j)/C(n, k), a hypergeometric tail. For τ = 1 it is `all_at_k`, and for τ up
    to 1/k it is pass@k.

    Args:
        c: passes per problem [P], whole numbers in [0, n].
        n: samples per problem.
        k: draws, 1 ≤ k ≤ n.
        tau: share of the k samples that must pass, 0 < τ ≤ 1.

    Raises:
        UserError: k, τ or a count is out of range.
    """
    return g_pass_table(n, k, tau)[checked_counts(c, n)]


def all_table(n: int, k: int) -> Values:
    """all@k for c = 0..n passes [n + 1].

    Raises:
        UserError: k is out of range.
    """
    return g_pass_table(n, k, 1.0)


@lru_cache(maxsize=256)
def g_pass_table(n: int, k: int, tau: float) -> Values:
    """G-Pass@k(τ) for c = 0..n passes [n + 1].

    Raises:
        UserError: k or τ is out of range.
    """
    if not 1 <= k <= n:
        raise UserError(f"k={k} needs 1 <= k <= n={n} samples per problem: choose k from 1 to {n}")
    if not 0.0 < tau <= 1.0:
        raise UserError(f"tau={tau} is out of range: use more than 0, at most 1")
    needed = ceil(round(tau * k, 9))  # 0.7 · 10 is 7.000000000000001 in floating point
    table = stats.hypergeom.sf(needed - 1, n, np.arange(n + 1), k)
    table = np.clip(table, 0.0, 1.0)
    table.flags.writeable = False
    return table


def tokens_per_solved(tokens_PM: ArrayLike, passed_PM: ArrayLike) -> Interval | None:
    """Generated tokens for each sample that passes, with a 95% interval over problems.

    It is mean tokens ÷ mean share of passes: what one right answer costs if a problem is drawn and
    sampled until it is right. A model that answers half as often at half the length costs the same.
    The interval is Student's t for the logarithm of the ratio, whose standard error is that of the
    residuals tokens − ratio · passes (Cochran 1977, section 6.4). `sampling_se` is computed from
    the residuals within problems; it is None for one sample per problem.

    Args:
        tokens_PM: tokens of each sample [P, M].
        passed_PM: whether it passes [P, M].

    Returns:
        The ratio, which is not limited to 0–1; None if no sample passes, or with fewer than two
        problems, where there is no interval.

    Raises:
        UserError: the arrays do not have the same shape [P, M].
    """
    tokens, passed = _samples(tokens_PM, passed_PM)
    problems, n = tokens.shape
    share = passed.mean()
    if problems < 2 or share == 0.0:
        return None
    ratio = float(tokens.mean() / share)
    residuals = tokens - ratio * passed
    error = residuals.mean(axis=1).std(ddof=1) / np.sqrt(problems) / share
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, problems - 1) * error / ratio if ratio else 0.0
    within = None
    if n > 1:
        variance = (residuals.var(axis=1, ddof=1) / n).sum() / problems**2
        within = float(np.sqrt(variance) / share)
    return Interval(ratio, float(ratio * np.exp(-reach)), float(ratio * np.exp(reach)), within)


def passes_within(tokens_PM: ArrayLike, passed_PM: ArrayLike, limit: int) -> NDArray[np.int64]:
    """Passes of each problem [P] had the token limit been `limit`: longer samples do not pass.

    Whoever stops at `limit` has generated these same tokens, so nothing has to be sampled again. It
    says nothing about a model that knows of its limit.

    Args:
        tokens_PM: tokens of each sample [P, M].
        passed_PM: whether it passes [P, M].
        limit: in tokens, 1 or more.

    Raises:
        UserError: the arrays do not have the same shape [P, M], or the limit is below 1.
    """
    tokens, passed = _samples(tokens_PM, passed_PM)
    if limit < 1:
        raise UserError(f"limit={limit} tokens is out of range: use 1 or more")
    return (passed.astype(bool) & (tokens <= limit)).sum(axis=1)


@dataclass(frozen=True)
class ShareBin:
    """Problems whose majority has a similar share of the samples.

    Attributes:
        low, high: the bin holds shares in [low, high), and the last one its end too.
        problems: how many.
        share: mean share of the majority.
        right: mean value of the vote, with its interval over the problems of this bin.
    """

    low: float
    high: float
    problems: int
    share: float
    right: Interval


@dataclass(frozen=True)
class Calibration:
    """Whether the share of the majority says how often it is right.

    Attributes:
        overconfidence: mean share − mean value of the vote, paired over problems. Above 0 the
            majority is larger than it is right.
        bins: only those that hold problems.
    """

    overconfidence: PairedDifference
    bins: list[ShareBin]


def majority_calibration(ballots_P: Sequence[Ballot]) -> Calibration:
    """Compare the share of the n samples that the majority has with how often it is right.

    Samples without an answer count in n. Where answers tie, the vote's value is gold's share of the
    win. The signed difference is reported, not the expected calibration error: the latter is above
    0 by chance alone where problems are few.

    Args:
        ballots_P: the votes of each problem.

    Raises:
        UserError: there are no problems.
    """
    if not ballots_P:
        raise UserError("no problems: a calibration needs at least one ballot")
    share_P = np.array([_majority_share(ballot) for ballot in ballots_P])
    right_P = np.array([cons(ballot) for ballot in ballots_P])
    place_P = np.minimum((share_P * SHARE_BINS + 1e-9).astype(int), SHARE_BINS - 1)
    bins = []
    for index in range(SHARE_BINS):
        inside = place_P == index
        if inside.any():
            low, high = index / SHARE_BINS, (index + 1) / SHARE_BINS
            right = problem_interval(right_P[inside])
            bins.append(
                ShareBin(low, high, int(inside.sum()), float(share_P[inside].mean()), right)
            )
    return Calibration(paired_difference(right_P, share_P), bins)


def _majority_share(ballot: Ballot) -> float:
    return max(ballot.gold, *ballot.rivals, 0) / ballot.n


def _samples(tokens_PM: ArrayLike, passed_PM: ArrayLike) -> tuple[Values, Values]:
    tokens = np.asarray(tokens_PM, dtype=np.float64)
    passed = np.asarray(passed_PM, dtype=np.float64)
    if tokens.shape != passed.shape or tokens.ndim != 2 or tokens.size == 0:
        raise UserError(
            f"tokens of shape {tokens.shape} and passes of shape {passed.shape}: both need a row "
            "for each problem, and a value for each of its samples"
        )
    return tokens, passed
