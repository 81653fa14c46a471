"""Majority votes of all n samples (Cons@n), and of k of them on average (Maj@k).

Notation: P problems, M = n samples per problem. A ballot holds everything that a vote depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from shaped_eval.errors import UserError
from shaped_eval.records import Status

Values = NDArray[np.float64]

SEED = 20251222
RESAMPLES = 1_000
CURVE_SAMPLES = 160  # up to this n, maj@k for every k costs little more than for the largest


class Ballot(NamedTuple):
    """The votes of one problem's n samples.

    Attributes:
        gold: the number of passes.
        rivals: the votes for each other answer, in descending order.
        silent: the number of samples that do not vote.
    """

    gold: int
    rivals: tuple[int, ...]
    silent: int

    @classmethod
    def of(cls, gold: int, rivals: Iterable[int], n: int) -> Ballot:
        """The ballot with `rivals` in any order; the rest of the n samples are silent."""
        ordered = tuple(sorted((votes for votes in rivals if votes), reverse=True))
        return cls(gold, ordered, n - gold - sum(ordered))

    @property
    def n(self) -> int:
        return self.gold + sum(self.rivals) + self.silent


def ballots(
    statuses: Sequence[Sequence[Status]], answers: Sequence[Sequence[str | None]]
) -> list[Ballot]:
    """The ballot of each problem [P].

    All passes vote for gold, whatever their form. Fails vote for their canonical answer. Samples
    that are unparsed, timed out or failed with an error have no known answer and do not vote.

    Args:
        statuses, answers: `[P][M]`, as in the verdicts.
    """
    found = []
    for statuses_M, answers_M in zip(statuses, answers, strict=True):
        pairs = zip(statuses_M, answers_M, strict=True)
        rivals = Counter(
            answer for status, answer in pairs if status != "pass" and answer is not None
        )
        found.append(
            Ballot.of(
                sum(status == "pass" for status in statuses_M), rivals.values(), len(statuses_M)
            )
        )
    return found


def cons_at_m(
    statuses: Sequence[Sequence[Status]], answers: Sequence[Sequence[str | None]]
) -> Values:
    """Majority vote of each problem [P]: 1/r if gold is among the r most voted answers, else 0.

    It is 0 if nobody votes. See `ballots` for who votes for what.

    Args:
        statuses, answers: `[P][M]`, as in the verdicts.
    """
    return np.array([cons(ballot) for ballot in ballots(statuses, answers)], dtype=np.float64)


def cons(ballot: Ballot) -> float:
    """Gold's share of the win in one ballot.

    It is 1/r in a tie of r answers, and 0 if gold loses or nobody votes.
    """
    most = max(ballot.rivals, default=0)
    if ballot.gold == 0 or ballot.gold < most:
        return 0.0
    return 1.0 / (1 + ballot.rivals.count(ballot.gold))


def maj_at_k(ballots_P: Sequence[Ballot], k: int) -> Values:
    """Mean of Cons@k over all subsets of k of each problem's n samples [P], computed exactly.

    Nothing is sampled. The subsets are summed by their votes for gold, and the rivals' votes by a
    convolution: a multivariate hypergeometric distribution, written as independent binomials given
    their sum. All terms are positive, so the relative error is about 1e-13. Tied answers share the
    win. Samples that do not vote can be drawn. For k = n this is Cons@n.

    Args:
        ballots_P: the votes of each problem.
        k: samples in a vote, 1 ≤ k ≤ the n of each problem.

    Raises:
        UserError: k is out of range.
    """
    for ballot in ballots_P:
        _check_k(k, ballot.n)
    return np.array([_maj(ballot, k) for ballot in ballots_P], dtype=np.float64)


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise UserError(
            f"maj@k with k={k} needs 1 <= k <= n={n} samples per problem: choose k in 1..{n}"
        )


def _maj(ballot: Ballot, k: int) -> float:
    n = ballot.n
    if n <= CURVE_SAMPLES:
        return _maj_curve(ballot, n, 0.5)[k]
    return _maj_curve(ballot, k, k / n)[k]


@lru_cache(maxsize=65_536)
def _maj_curve(ballot: Ballot, most: int, share: float) -> tuple[float, ...]:
    """maj@k for k = 0..most.

    The result does not depend on `share` in (0, 1); a share near k/n avoids underflow.
    """
    total = np.zeros(most + 1)
    gold_pmf = _binomial(ballot.gold, share)
    for votes in range(1, min(ballot.gold, most) + 1):
        total[votes:] += gold_pmf[votes] * _rivals_below(ballot, votes, most - votes, share)
    if share == 1.0:  # every sample is drawn
        return tuple(total)
    return tuple(np.minimum(total / _binomial(ballot.n, share)[: most + 1], 1.0))


def _rivals_below(ballot: Ballot, votes: int, most: int, share: float) -> Values:
    """For `votes` of gold: P(s others are drawn) · E(gold's share of the win), for s = 0..most.

    A rival with as many votes as gold contributes a factor w, one with fewer votes 1. Since ∫₀¹
    w^ties dw = 1/(1 + ties), Gauss-Legendre nodes integrate this polynomial exactly. Rivals that
    cannot reach gold's votes are treated as silent.
    """
    strong = [count for count in ballot.rivals if count >= votes]
    weak = ballot.silent + sum(ballot.rivals) - sum(strong)
    ties = min(len(strong), most // votes)
    nodes, weights = _unit_nodes(ties // 2 + 1)
    state = np.zeros((len(nodes), most + 1))  # [Q, drawn so far]
    pmf = _binomial(weak, share)[: most + 1]
    state[:, : len(pmf)] = pmf
    for count in strong:
        pmf = _binomial(count, share)
        tied = np.zeros_like(state)
        if votes <= most:
            tied[:, votes:] = nodes[:, None] * pmf[votes] * state[:, : most + 1 - votes]
        state = (
            signal.lfilter(pmf[:votes], [1.0], state, axis=1) + tied
            if votes > 1
            else pmf[0] * state + tied
        )
    return weights @ state


@lru_cache(maxsize=4096)
def _binomial(n: int, share: float) -> Values:
    """P(x of n) for x = 0..n [n + 1]."""
    return stats.binom.pmf(np.arange(n + 1), n, share)


@lru_cache(maxsize=256)
def _unit_nodes(number: int) -> tuple[Values, Values]:
    """Gauss-Legendre nodes and weights on [0, 1]: exact for polynomials of degree 2·number − 1."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return (nodes + 1.0) / 2.0, weights / 2.0


def vote_sampling_se(ballots_P: Sequence[Ballot], k: int) -> float:
    """Standard error of the mean maj@k (k = n: cons@n) from sampling alone, with problems fixed.

    For k < n it is the jackknife over a problem's samples, whose expectation is not too small
    (Efron and Stein 1981), limited to k/n · maj (1 − maj) (Hoeffding 1948). For k = n, where no
    jackknife exists, it is the plug-in estimate from 1,000 seeded multinomial draws of n samples
    per problem; it is a fifth too small where two answers are equally likely. Where all samples
    pass or none does, it is computed as in `statistics.sampling_se`, with a chance of (passes +
    ½)/(n + 1) for gold against one rival.

    Raises:
        UserError: there are no problems, or k is out of range.
    """
    if not ballots_P:
        raise UserError("no problems: a sampling error needs at least one ballot")
    for ballot in ballots_P:
        _check_k(k, ballot.n)
    return float(np.sqrt(sum(_vote_variance(ballot, k) for ballot in ballots_P)) / len(ballots_P))


@lru_cache(maxsize=65_536)
def _vote_variance(ballot: Ballot, k: int) -> float:
    n = ballot.n
    if ballot.gold in (0, n):
        return _two_answer_variance(n, ballot.gold, k)
    if k == n:
        return _plug_in_variance(ballot)
    value = _maj(ballot, k)
    squares = sum(
        number * (_maj(smaller, k) - value) ** 2 for smaller, number in _one_left_out(ballot)
    )
    return min((n - 1) / n * squares, k / n * value * (1.0 - value))


def _one_left_out(ballot: Ballot) -> list[tuple[Ballot, int]]:
    """The distinct ballots with one sample left out, each with the number of samples that give it.

    Gold must have votes.
    """
    gold, rivals, silent = ballot
    left = [(Ballot(gold - 1, rivals, silent), gold)]
    if silent:
        left.append((Ballot(gold, rivals, silent - 1), silent))
    for votes, number in Counter(rivals).items():
        fewer = list(rivals)
        fewer[fewer.index(votes)] -= 1
        left.append((Ballot.of(gold, fewer, ballot.n - 1), votes * number))
    return left


def _two_answer_variance(n: int, gold: int, k: int) -> float:
    """Variance of maj@k for two answers, where gold has Binomial(n, (gold + ½)/(n + 1)) votes."""
    weights = stats.binom.pmf(np.arange(n + 1), n, (gold + 0.5) / (n + 1))
    table = _two_answer_table(n, k)
    return float(weights @ (table - weights @ table) ** 2)


@lru_cache(maxsize=256)
def _two_answer_table(n: int, k: int) -> Values:
    """maj@k for 0..n votes of gold against one rival [n + 1]."""
    return np.array([_maj(Ballot.of(gold, [n - gold], n), k) for gold in range(n + 1)])


def _plug_in_variance(ballot: Ballot) -> float:
    """Variance of cons@n over multinomial draws of n samples.

    The chance of gold is as in `_two_answer_variance`.
    """
    n = ballot.n
    others = [*ballot.rivals, ballot.silent]
    chance = (ballot.gold + 0.5) / (n + 1)
    chances = [chance, *((1.0 - chance) * votes / (n - ballot.gold) for votes in others)]
    draws = np.random.default_rng(SEED).multinomial(n, chances, size=RESAMPLES)
    gold = draws[:, :1]
    rivals = draws[:, 1:-1]
    wins = (gold > 0) & (gold >= rivals).all(axis=1, keepdims=True)
    shares = wins[:, 0] / (1 + (rivals == gold).sum(axis=1))
    return float(shares.var())
