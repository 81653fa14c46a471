"""Maj@k, the mean majority vote of k samples over all subsets, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import ANSWERS, RETURNS, flat, samples_per_problem, votes
from shaped_eval.statistics import maj_at_k, problem_interval, vote_sampling_se


class MajAtK(evaluate.Metric):
    """``compute(predictions=[["4", "5"], ...], references=["4", ...], k=[2])`` → maj@2; k ≤ n."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Maj@k: whether the right answer is the most frequent of k; the mean "
            "over all subsets of k of n samples.",
            citation="",
            inputs_description=f"{ANSWERS} k: numbers of votes, each at most n. Returns: {RETURNS}",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("string")),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str | None]],
        references: Sequence[str],
        k: Sequence[int],
    ) -> dict[str, float | None]:
        samples_per_problem(predictions)
        ballots_P = votes(predictions, references)
        found: dict[str, float | None] = {}
        for voters in k:
            interval = problem_interval(
                maj_at_k(ballots_P, voters), vote_sampling_se(ballots_P, voters)
            )
            found |= flat(f"maj@{voters}", interval)
        return found
