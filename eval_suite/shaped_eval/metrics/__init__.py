"""The statistics as modules of `evaluate`, for ``evaluate.load(path("pass_at_k"))``.

They need the extra ``evaluate``. Nothing is downloaded. The numbers are those of `statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shaped_eval.errors import UserError
from shaped_eval.records import Status
from shaped_eval.statistics import (
    Ballot,
    Interval,
    Values,
    ballots,
    problem_interval,
    table_se,
)

NAMES = (
    "pass_at_k",
    "all_at_k",
    "g_pass_at_k",
    "avg_at_m",
    "cons_at_m",
    "maj_at_k",
    "tokens_per_solved",
    "accuracy_within",
    "majority_calibration",
)
PASSES = "predictions: for each problem, a list of n truth values: whether each sample passes."
LENGTHS = (
    f"{PASSES} references: for each problem, a list of the n samples' numbers of generated tokens."
)
ANSWERS = (
    'predictions: for each problem, a list of n answers in canonical form, "" for a sample without '
    "an answer; references: for each problem, the right answer."
)
RETURNS = (
    "the mean over problems in 0–1, its 95% interval over problems (_low, _high), and the "
    "standard error from sampling alone (_sampling_se)."
)


def path(name: str) -> str:
    """The folder to pass to `evaluate.load`.

    Raises:
        UserError: there is no such metric.
    """
    if name not in NAMES:
        raise UserError(f"metric={name!r} does not exist: use one of {', '.join(NAMES)}")
    return str(Path(__file__).parent / name)


def samples_per_problem(predictions: Sequence[Sequence[object]]) -> int:
    """The number n of samples of every problem.

    Raises:
        UserError: there are no problems, or they have different numbers of samples.
    """
    if not predictions:
        raise UserError("predictions is empty: give a list of samples for each problem")
    n = len(predictions[0])
    for index, samples in enumerate(predictions):
        if len(samples) != n or n == 0:
            raise UserError(
                f"predictions[{index}] has {len(samples)} samples, but predictions[0] has {n}: "
                "give each problem the same number, 1 or more"
            )
    return n


def table_interval(predictions: Sequence[Sequence[bool]], table: Values) -> Interval:
    """The mean over problems of a function of the number of passes.

    Args:
        predictions: whether each sample passes [P][M].
        table: the function's value at 0..n passes [n + 1].
    """
    counts = [sum(row) for row in predictions]
    return problem_interval(table[counts], table_se(counts, len(table) - 1, table))


def votes(predictions: Sequence[Sequence[str | None]], references: Sequence[str]) -> list[Ballot]:
    """The ballot of each problem; an empty answer does not vote."""

    def status(answer: str | None, gold: str) -> Status:
        return "unparsed" if not answer else "pass" if answer == gold else "fail"

    statuses = [
        [status(answer, gold) for answer in row]
        for row, gold in zip(predictions, references, strict=True)
    ]
    return ballots(statuses, [[answer or None for answer in row] for row in predictions])


def flat(name: str, interval: Interval) -> dict[str, float | None]:
    """One metric's numbers as a flat dict, with the metric's name in each key."""
    return {
        name: interval.value,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_sampling_se": interval.sampling_se,
    }
