"""Numbers on reliability: all@k, G-Pass, cost, smaller token limits, calibration of the majority.

The numbers stand in results.json under ``reliability``, apart from the metrics, which appear in
every table and comparison. Notation: P problems, M = n samples per problem.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from shaped_eval.reporting.outcomes import Outcomes
from shaped_eval.statistics import (
    Interval,
    avg_at_m,
    problem_interval,
    sampling_se,
    table_se,
)
from shaped_eval.statistics.reliability import (
    all_table,
    g_pass_table,
    majority_calibration,
    passes_within,
    tokens_per_solved,
)
from shaped_eval.statistics.votes import Values

TAUS = (0.5, 0.75)
LIMITS = 5  # the token limit of the run, and how often it is halved, less one


def reliability_results(
    outcomes: Outcomes, greedy: bool, token_limit: int | None
) -> dict[str, Any]:
    """The object ``reliability`` of one benchmark in results.json.

    Its keys are ``all@k`` for powers of two from 2 to n, ``g-pass@k(τ)`` for the largest power of
    two up to n/3, ``tokens_per_solved``, ``within@t`` for the token limit and its halves, and
    ``overconfidence`` with ``majority``, a list of bins. Each has `value`, `low`, `high`; numbers
    that need several samples, tokens or votes are left out where there are none.

    Args:
        outcomes: of the benchmark.
        greedy: whether nothing is drawn, so that there is no sampling error.
        token_limit: of the run; None for answers from elsewhere.
    """
    greedy = greedy or not outcomes.drawn
    found: dict[str, Any] = {}
    for key, table in _tables(outcomes.n).items():
        error = None if greedy else table_se(outcomes.passes_P, outcomes.n, table)
        found[key] = asdict(problem_interval(table[outcomes.passes_P], error))
    if outcomes.tokens_PM is not None and outcomes.passed_PM is not None:
        cost = tokens_per_solved(outcomes.tokens_PM, outcomes.passed_PM)
        found["tokens_per_solved"] = None if cost is None else _finite(cost, greedy)
        for limit in _limits(token_limit):
            found[f"within@{limit}"] = _within(outcomes, limit, greedy)
    if outcomes.votes and outcomes.n > 1:
        calibration = majority_calibration(outcomes.ballots_P)
        found["overconfidence"] = asdict(calibration.overconfidence)
        found["majority"] = [asdict(each) for each in calibration.bins]
    return found


def _tables(n: int) -> dict[str, Values]:
    """Key → the metric's value at 0..n passes [n + 1]."""
    powers = [1 << power for power in range(1, n.bit_length()) if 1 << power <= n]
    tables = {f"all@{k}": all_table(n, k) for k in powers}
    several = [k for k in powers if 3 * k <= n]
    if several:
        k = several[-1]
        tables |= {f"g-pass@{k}({tau:g})": g_pass_table(n, k, tau) for tau in TAUS}
    return tables


def _limits(token_limit: int | None) -> list[int]:
    if token_limit is None:
        return []
    halves = [token_limit >> halvings for halvings in range(LIMITS)]
    return [limit for limit in halves if limit > 0]


def _within(outcomes: Outcomes, limit: int, greedy: bool) -> dict[str, Any]:
    assert outcomes.tokens_PM is not None
    assert outcomes.passed_PM is not None
    counts_P = passes_within(outcomes.tokens_PM, outcomes.passed_PM, limit)
    error = None if greedy else sampling_se(counts_P, outcomes.n)
    return asdict(problem_interval(avg_at_m(counts_P, outcomes.n), error))


def _finite(cost: Interval, greedy: bool) -> dict[str, Any]:
    """JSON has no infinity, which an end of the interval is where almost nothing passes."""
    ends = {key: end if math.isfinite(end) else None for key, end in asdict(cost).items() if end}
    return {**asdict(cost), **ends, **({"sampling_se": None} if greedy else {})}
