"""Accuracy under smaller token limits, with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import LENGTHS, RETURNS, flat, samples_per_problem
from shaped_eval.statistics import avg_at_m, problem_interval, sampling_se
from shaped_eval.statistics.reliability import passes_within


class AccuracyWithin(evaluate.Metric):
    """``compute(predictions=[[True], ...], references=[[310], ...], limits=[256, 512])``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy had the token limit been t: longer samples count as wrong.",
            citation="",
            inputs_description=f"{LENGTHS} limits: token limits. Returns: {RETURNS}",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("bool")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[bool]],
        references: Sequence[Sequence[int]],
        limits: Sequence[int],
    ) -> dict[str, float | None]:
        n = samples_per_problem(predictions)
        samples_per_problem(references)
        found: dict[str, float | None] = {}
        for limit in limits:
            counts = passes_within(references, predictions, limit)
            interval = problem_interval(avg_at_m(counts, n), sampling_se(counts, n))
            found |= flat(f"within@{limit}", interval)
        return found
