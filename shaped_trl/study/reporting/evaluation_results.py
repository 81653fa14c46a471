"""Per-problem values of a study's evaluations, their summaries, and paired differences.

Notation: P problems, M samples per problem, S seeds. Everything is computed from problems, samples
and verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats
from shaped_eval.errors import UserError
from shaped_eval.report import default_pass_at
from shaped_eval.reporting.outcomes import Outcomes
from shaped_eval.statistics import (
    CONFIDENCE,
    Values,
    avg_at_m,
    paired_difference,
    pass_at_k,
    problem_interval,
    sampling_se,
)

REPORTED_K = (1, 8, 64, 128)


def values_of(outcomes: Outcomes, metric: str) -> Values:
    """Per-problem values [P] of ``avg@n``, ``cons@n`` or ``pass@k``, in 0–1."""
    name, k = metric.split("@")
    if name == "cons":
        return outcomes.votes_P
    if name == "avg":
        return avg_at_m(outcomes.passes_P, outcomes.n)
    return pass_at_k(outcomes.passes_P, outcomes.n, int(k))


def reported_k(n: int, pass_at: Sequence[int] | None) -> list[int]:
    """The k of tables: `pass_at`, or the usual ones up to n, and n itself."""
    return sorted(set(pass_at)) if pass_at else sorted({k for k in REPORTED_K if k <= n} | {n})


def metrics_of(outcomes: Outcomes, pass_at: Sequence[int] | None) -> list[str]:
    """The metrics of tables: avg@n (the same as pass@1), cons@n if there is a vote, and pass@k."""
    n = outcomes.n
    votes = [f"cons@{n}"] if outcomes.votes else []
    return [f"avg@{n}", *votes, *(f"pass@{k}" for k in reported_k(n, pass_at))]


def summarise(seeds_S: Sequence[Outcomes], pass_at: Sequence[int] | None) -> dict[str, Any]:
    """A benchmark's entry of results.json: values averaged over seeds, intervals over problems.

    With several seeds `over_seeds` has the means with their 95% t intervals, clipped to 0–1.
    """
    first = seeds_S[0]
    ks = sorted({*default_pass_at(first.n), *reported_k(first.n, pass_at)})
    metrics = {}
    for metric in metrics_of(first, ks):
        error = None
        if not metric.startswith("cons"):
            k = 1 if metric.startswith("avg") else int(metric.split("@")[1])
            errors_S = [sampling_se(each.passes_P, each.n, k) for each in seeds_S]
            error = float(np.sqrt(np.sum(np.square(errors_S)))) / len(seeds_S)
        metrics[metric] = asdict(problem_interval(_mean_values(seeds_S, metric), error))
    intervals = {
        metric: share_interval(np.array([values_of(each, metric).mean() for each in seeds_S]))
        for metric in (metrics if len(seeds_S) > 1 else ())
    }
    return {
        "problems": len(first.problem_ids),
        "n": first.n,
        "seeds": len(seeds_S),
        "truncated": float(np.mean([(each.truncated or 0) / each.num_samples for each in seeds_S])),
        "unparsed": float(
            np.mean([each.statuses["unparsed"] / each.num_samples for each in seeds_S])
        ),
        "metrics": metrics,
        **({"over_seeds": intervals} if intervals else {}),
    }


def difference(
    a: Mapping[int, Outcomes], b: Mapping[int, Outcomes], metric: str
) -> dict[str, Any] | None:
    """The difference b − a, paired over problems, and over seeds if several are in common.

    `over_seeds` is the mean of the seeds' differences with a t interval, which shows how far
    another training seed would move it. None without a common seed.

    Raises:
        UserError: the two were evaluated on different problems or with different n.
    """
    common = [seed for seed in a if seed in b]
    if not common:
        return None
    a_S, b_S = [a[seed] for seed in common], [b[seed] for seed in common]
    check_same_problems([*a_S, *b_S])
    for base, own in zip(a_S, b_S, strict=True):
        check_paired(own, base)
    paired = paired_difference(_mean_values(a_S, metric), _mean_values(b_S, metric))
    over_seeds = None
    if len(common) > 1:
        shifts_S = [
            float((values_of(own, metric) - values_of(base, metric)).mean())
            for base, own in zip(a_S, b_S, strict=True)
        ]
        over_seeds = t_interval(np.array(shifts_S))
    return asdict(paired) | {"over_seeds": over_seeds}


def _mean_values(seeds_S: Sequence[Outcomes], metric: str) -> Values:
    """The mean over seeds of each problem's value [P]."""
    check_same_problems(seeds_S)
    return np.mean([values_of(each, metric) for each in seeds_S], axis=0)


def check_same_problems(runs: Sequence[Outcomes]) -> None:
    """Check that evaluations of a benchmark have the same problems and n.

    Raises:
        UserError: they differ.
    """
    for run in runs[1:]:
        if (run.problem_ids, run.n) != (runs[0].problem_ids, runs[0].n):
            raise UserError(
                f"{run.benchmark}: evaluations that are compared differ in their problems or n: "
                "give the arms and seeds of a stage the same"
            )


def check_paired(own: Outcomes, base: Outcomes) -> None:
    """Check that two evaluations of a seed have the same problems, tasks and n.

    Problems that were generated are named by numbers. The hashes of their answers tell them apart;
    records of earlier versions have none.

    Raises:
        UserError: they differ.
    """
    check_same_problems([own, base])
    if own.tasks_P and base.tasks_P and own.tasks_P != base.tasks_P:
        raise UserError(
            f"{own.benchmark}: two arms of a seed were evaluated on different problems "
            "with the same names: give both the same data, and run the study again"
        )


def t_interval(shifts_S: Values) -> dict[str, float]:
    """The mean of the seeds' values [S], S > 1, with its 95% t interval."""
    value = float(shifts_S.mean())
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(shifts_S) - 1)
    half = float(quantile * shifts_S.std(ddof=1) / np.sqrt(len(shifts_S)))
    return {"value": value, "low": value - half, "high": value + half}


def share_interval(shares_S: Values) -> dict[str, float]:
    """`t_interval` of values in 0–1, clipped to 0–1."""
    return {name: min(1.0, max(0.0, value)) for name, value in t_interval(shares_S).items()}
