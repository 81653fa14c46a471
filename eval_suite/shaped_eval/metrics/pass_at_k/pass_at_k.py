"""Unbiased pass@k (Chen et al. 2021) with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import PASSES, RETURNS, flat, samples_per_problem
from shaped_eval.statistics import pass_at_k, problem_interval, sampling_se


class PassAtK(evaluate.Metric):
    """``compute(predictions=[[True, False, ...], ...], k=[1, 8])`` → pass@1, pass@8, …; k ≤ n."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Pass@k: the probability that at least one of k samples passes, "
            "estimated without bias from n samples per problem.",
            citation="arXiv 2107.03374",
            inputs_description=f"{PASSES} k: numbers of draws, each at most n. Returns: {RETURNS}",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[bool]], k: Sequence[int] = (1,)
    ) -> dict[str, float | None]:
        n = samples_per_problem(predictions)
        counts = [sum(row) for row in predictions]
        found: dict[str, float | None] = {}
        for draws in k:
            interval = problem_interval(pass_at_k(counts, n, draws), sampling_se(counts, n, draws))
            found |= flat(f"pass@{draws}", interval)
        return found
