"""G-Pass@k(τ) (Liu et al. 2024) with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import PASSES, RETURNS, flat, samples_per_problem, table_interval
from shaped_eval.statistics.reliability import g_pass_table


class GPassAtK(evaluate.Metric):
    """``compute(predictions=[[True, ...], ...], k=[8], tau=[0.5])`` → g-pass@8(0.5); k ≤ n."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="G-Pass@k(τ): the probability that at least a share τ of k samples "
            "passes, estimated without bias from n samples per problem.",
            citation="arXiv 2412.13147",
            inputs_description=f"{PASSES} k: numbers of draws, each at most n. tau: shares, more "
            f"than 0 and at most 1. Returns: {RETURNS}",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[bool]], k: Sequence[int], tau: Sequence[float]
    ) -> dict[str, float | None]:
        n = samples_per_problem(predictions)
        found: dict[str, float | None] = {}
        for draws in k:
            for share in tau:
                interval = table_interval(predictions, g_pass_table(n, draws, share))
                found |= flat(f"g-pass@{draws}({share:g})", interval)
        return found
