"""Several runs side by side, and their differences paired over problems.

A difference of two models on the same problems is far better known than either value: what makes a problem
hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from numpy.typing import NDArray

from eval_suite.document import Block, Table, Text
from eval_suite.errors import UserError
from eval_suite.outcomes import Outcomes
from eval_suite.statistics import paired_difference, pass_at_k, problem_interval

Runs = Mapping[str, Mapping[str, Outcomes]]

READING = (
    "Percentages with 95% intervals over problems. Differences are in percentage points, each run minus the "
    "first, paired over problems: bootstrap interval and two-sided sign-flip p-value, not corrected for the "
    "number of rows. They say how far other problems could move a difference, not other training seeds."
)


def comparison_blocks(runs: Runs, pass_at: Sequence[int] | None = None) -> list[Block]:
    """Tables of values and of paired differences to the first run, for the benchmarks that two runs share.

    Args:
        runs: label → benchmark → outcomes.
        pass_at: k of pass@k; default: 1 and the powers of two that every run can estimate.

    Raises:
        UserError: runs with other problems in a benchmark that they share.
    """
    first, *others = runs
    values, differences = [], []
    for benchmark in dict.fromkeys(name for outcomes in runs.values() for name in outcomes):
        present = {label: outcomes[benchmark] for label, outcomes in runs.items() if benchmark in outcomes}
        _check_same_problems(benchmark, present)
        for metric, by_run in _metrics(present, pass_at):
            cells = [_cell(by_run[label]) if label in by_run else "–" for label in runs]
            values.append([benchmark, metric, *cells])
            for label in others:
                if first in by_run and label in by_run:
                    difference = _difference(by_run[first], by_run[label])
                    differences.append([benchmark, metric, label, *difference])
    settings = [f"{label}: {_sampling(outcomes)}" for label, outcomes in runs.items()]
    return [
        Text(READING),
        Text("; ".join(settings)),
        Table("Values, %", ["benchmark", "metric", *runs], values),
        Table(
            f"Differences to {first}, percentage points",
            ["benchmark", "metric", "run", "difference", "low", "high", "p"],
            differences,
        ),
    ]


def _metrics(
    present: Mapping[str, Outcomes], pass_at: Sequence[int] | None
) -> Iterator[tuple[str, dict[str, NDArray]]]:
    """(metric, label → value of each problem [P]); problems in the first run's order."""
    order = next(iter(present.values())).problem_ids
    least = min(outcomes.n for outcomes in present.values())
    ks = pass_at if pass_at is not None else [1 << power for power in range(least.bit_length())]
    ranks = {}
    for label, outcomes in present.items():
        position = {problem_id: index for index, problem_id in enumerate(outcomes.problem_ids)}
        ranks[label] = [position[problem_id] for problem_id in order]
    for k in ks:
        yield (
            f"pass@{k}",
            {label: pass_at_k(one.passes_P, one.n, k)[ranks[label]] for label, one in present.items()},
        )
    if len({outcomes.n for outcomes in present.values()}) == 1:
        yield f"cons@{least}", {label: one.votes_P[ranks[label]] for label, one in present.items()}


def _check_same_problems(benchmark: str, present: Mapping[str, Outcomes]) -> None:
    (first, reference), *others = present.items()
    for label, outcomes in others:
        only_one = set(reference.problem_ids) ^ set(outcomes.problem_ids)
        if only_one:
            raise UserError(
                f"{first!r} and {label!r} differ in {len(only_one)} problems of {benchmark}, such as "
                f"{min(only_one)}: paired differences need the same problems; sample both with one --limit"
            )


def _cell(values_P: NDArray) -> str:
    interval = problem_interval(values_P)
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _difference(a_P: NDArray, b_P: NDArray) -> list[str]:
    difference = paired_difference(a_P, b_P)
    points = [f"{100 * value:+.1f}" for value in (difference.value, difference.low, difference.high)]
    return [
        *points,
        f"{difference.p_value:.3f}" if difference.p_value >= 0.001 else f"{difference.p_value:.1e}",
    ]


def _sampling(outcomes: Mapping[str, Outcomes]) -> str:
    parts = [
        f"{name} n = {one.n}, {100 * one.truncated / one.num_samples:.1f}% truncated" for name, one in outcomes.items()
    ]
    return ", ".join(parts)
