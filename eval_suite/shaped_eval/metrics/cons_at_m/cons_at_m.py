"""Cons@m, the majority vote of all samples, with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import ANSWERS, RETURNS, flat, samples_per_problem, votes
from shaped_eval.statistics import cons, problem_interval, vote_sampling_se


class ConsAtM(evaluate.Metric):
    """``compute(predictions=[["4", "5", ""], ...], references=["4", ...])`` → cons@m."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Cons@m: whether the right answer is the most frequent of m; 1/r in a "
            "tie of r.",
            citation="",
            inputs_description=f"{ANSWERS} Returns: {RETURNS}",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("string")),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Sequence[str | None]], references: Sequence[str]
    ) -> dict[str, float | None]:
        m = samples_per_problem(predictions)
        ballots_P = votes(predictions, references)
        values_P = [cons(ballot) for ballot in ballots_P]
        return flat(f"cons@{m}", problem_interval(values_P, vote_sampling_se(ballots_P, m)))
