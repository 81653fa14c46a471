"""Overconfidence of the majority, with its interval, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from shaped_eval.metrics import ANSWERS, samples_per_problem, votes
from shaped_eval.statistics.reliability import majority_calibration


class MajorityCalibration(evaluate.Metric):
    """``compute(predictions=[["4", "5", ""], ...], references=["4", ...])`` → overconfidence."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Overconfidence: the share of the samples that the majority has, minus "
            "how often it is right.",
            citation="",
            inputs_description=f"{ANSWERS} Returns: the difference from −1 to 1, its 95% interval "
            "over problems (_low, _high), and the p-value of a sign-flip test (_p_value).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("string")),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Sequence[str | None]], references: Sequence[str]
    ) -> dict[str, float]:
        samples_per_problem(predictions)
        found = majority_calibration(votes(predictions, references)).overconfidence
        return {
            "overconfidence": found.value,
            "overconfidence_low": found.low,
            "overconfidence_high": found.high,
            "overconfidence_p_value": found.p_value,
        }
