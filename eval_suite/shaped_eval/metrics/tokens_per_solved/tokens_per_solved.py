"""Tokens per solved problem, with intervals, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import LENGTHS, flat, samples_per_problem
from shaped_eval.statistics.reliability import tokens_per_solved


class TokensPerSolved(evaluate.Metric):
    """``compute(predictions=[[True, False], ...], references=[[310, 1024], ...])``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Tokens per solved problem: the mean length of a sample divided by the "
            "share of samples that pass.",
            citation="",
            inputs_description=f"{LENGTHS} Returns: the ratio, its 95% interval over problems "
            "(_low, _high), and the standard error from sampling alone (_sampling_se); nothing if "
            "no sample passes or there are fewer than two problems.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("bool")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Sequence[bool]], references: Sequence[Sequence[int]]
    ) -> dict[str, float | None]:
        samples_per_problem(predictions)
        samples_per_problem(references)
        interval = tokens_per_solved(references, predictions)
        return {} if interval is None else flat("tokens_per_solved", interval)
