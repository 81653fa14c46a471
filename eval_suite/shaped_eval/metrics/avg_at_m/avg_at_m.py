"""Avg@m, the share of samples that pass, with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import PASSES, RETURNS, flat, samples_per_problem
from shaped_eval.statistics import avg_at_m, problem_interval, sampling_se


class AvgAtM(evaluate.Metric):
    """``compute(predictions=[[True, False, ...], ...])`` → avg@m, m being the number of samples."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Avg@m: the share of a problem's m samples that pass.",
            citation="",
            inputs_description=f"{PASSES} Returns: {RETURNS}",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))}),
        )

    def _compute(self, predictions: Sequence[Sequence[bool]]) -> dict[str, float | None]:
        m = samples_per_problem(predictions)
        counts = [sum(row) for row in predictions]
        return flat(f"avg@{m}", problem_interval(avg_at_m(counts, m), sampling_se(counts, m)))
