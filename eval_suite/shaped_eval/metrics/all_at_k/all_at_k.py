"""All@k, the probability that all of k samples pass, with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import PASSES, RETURNS, flat, samples_per_problem, table_interval
from shaped_eval.statistics.reliability import all_table


class AllAtK(evaluate.Metric):
    """``compute(predictions=[[True, False, ...], ...], k=[2, 8])`` → all@2, all@8; k ≤ n."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="All@k: the probability that all of k samples pass, estimated without "
            "bias from n samples per problem.",
            citation="arXiv 2406.12045",
            inputs_description=f"{PASSES} k: numbers of draws, each at most n. Returns: {RETURNS}",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[bool]], k: Sequence[int]
    ) -> dict[str, float | None]:
        n = samples_per_problem(predictions)
        found: dict[str, float | None] = {}
        for draws in k:
            found |= flat(f"all@{draws}", table_interval(predictions, all_table(n, draws)))
        return found
