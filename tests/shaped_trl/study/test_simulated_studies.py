"""Simulated studies: planted differences get their verdicts at the rates that theory states.

A study has 8 seeds, 60 problems and 64 samples of each. Its outcomes go through the same functions
as those of a real one. Rates are compared with integrals that share no code with the verdicts.

Notation: S seeds, R simulated studies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contrast_values import SMALL
from numpy.typing import NDArray
from scipy import stats
from shaped_eval.reporting.outcomes import Outcomes
from study_values import load, study_values

from shaped_trl.study.contrasts import Claim, Contrast
from shaped_trl.study.definition import Study
from shaped_trl.study.power import difference_power, equivalence_power
from shaped_trl.study.reporting.contrast_results import PRIMARY, contrast_rows
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.verdicts import BETTER, EQUIVALENT, OPEN, VERDICTS, WORSE, judge

SEEDS, PROBLEMS, SAMPLES = 8, 60, 64
SD, MARGIN = 0.011, 0.015  # of the paired differences, as a pilot might have measured
STUDIES = 400
BASE = "cross_entropy"
# regime → the true difference of its only contrast
ALONE = {"up": MARGIN, "down": -MARGIN, "same": 0.0, "between": 0.0075}
# regime → the true differences of a family whose contrasts share the baseline
FAMILIES = {"null": (0.0,) * 6, "one": (MARGIN, 0.0, 0.0, 0.0, 0.0, 0.0)}

# A judge of one simulated study: differences from the baseline of each regime, and of its arms
# [arms, S] → for each regime the rows {"verdict", "value", "low90", "high90", "p"} of its contrasts
Judge = Callable[[dict[str, NDArray[np.float64]]], dict[str, list[dict[str, Any]]]]


def drawn_values(rng: np.random.Generator, differences: Sequence[float]) -> NDArray[np.float64]:
    """Values of the baseline and of each arm [1 + arms, S]; a difference has deviation SD."""
    shared_S = rng.normal(0.5, 0.05, SEEDS)
    noise = rng.normal(0, SD / math.sqrt(2), (1 + len(differences), SEEDS))
    return shared_S + noise + np.array([0.0, *differences])[:, None]


def study_with(tmp_path: Path, regimes: Sequence[str], num_arms: int) -> Study:
    """A study with this many arms, each compared with the baseline."""
    values = study_values(tmp_path)
    arms = [f"arm{number}" for number in range(num_arms)]
    values["arms"] = {BASE: {}} | {arm: {"checkpoint_of": BASE, "temperature": 0.5} for arm in arms}
    values["seeds"] = list(range(SEEDS))
    values["regimes"] = {regime: {} for regime in regimes}
    compare = [{"arm": arm, "against": BASE} for arm in arms]
    values["contrasts"] = SMALL | {
        "primary": SMALL["primary"] | {"metric": f"avg@{SAMPLES}"},
        "margin": MARGIN,
        "claims": {"all": {"text": "The arms differ from the baseline", "compare": compare}},
    }
    return load(tmp_path, values)


def by_outcomes(study: Study) -> Judge:
    """Judge through evaluations, as the report does."""

    def judged(values: dict[str, NDArray[np.float64]]) -> dict[str, list[dict[str, Any]]]:
        regimes = []
        for view in study.each_regime():
            evaluations = {
                (arm, "eval"): {
                    seed: {"problems": outcomes(value)} for seed, value in enumerate(values_S)
                }
                for arm, values_S in zip(view.arms, values[view.regime], strict=True)
            }
            regimes.append(RegimeRuns(view, {}, evaluations, {}))
        rows = [row for row in contrast_rows(regimes) if row["kind"] == PRIMARY]
        return {
            regime: [row for row in rows if row["regime"] == regime] for regime in study.regimes
        }

    return judged


def outcomes(value: float) -> Outcomes:
    """Outcomes in which this share of all samples passes, as closely as can be."""
    total = round(value * PROBLEMS * SAMPLES)
    passes_P = np.full(PROBLEMS, total // PROBLEMS)
    passes_P[: total % PROBLEMS] += 1
    ids = [str(number) for number in range(PROBLEMS)]
    return Outcomes("problems", ids, SAMPLES, passes_P, [], Counter(), [], 0, 0)


def by_values(values: dict[str, NDArray[np.float64]]) -> dict[str, list[dict[str, Any]]]:
    """Judge the values of seeds themselves."""
    found = {}
    for regime, each in values.items():
        judged = [one for one in judge(list(each[1:] - each[0]), MARGIN) if one is not None]
        found[regime] = [vars(one) | {"p": one.effect.p_value} for one in judged]
    return found


def simulated(
    seed: int, planted: dict[str, Sequence[float]], judge_one: Judge
) -> dict[str, list[list[dict[str, Any]]]]:
    """Regime → study → the rows of its contrasts."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[dict[str, Any]]]] = {regime: [] for regime in planted}
    for _ in range(STUDIES):
        values = {regime: drawn_values(rng, each) for regime, each in planted.items()}
        for regime, rows in judge_one(values).items():
            found[regime].append(rows)
    return found


def test_choosing_the_best_arms_finds_nothing_where_nothing_differs(tmp_path: Path) -> None:
    """The best of three against the best of three, chosen on other problems of the same runs.

    An arm's deviation in a seed is that of its model, so the choice does profit from it, on both
    sides alike.
    """
    study = study_with(tmp_path, ["null"], 5)
    assert study.contrasts is not None
    names = list(study.arms)
    best = Contrast(tuple(names[:3]), tuple(names[3:]), PROBLEMS // 3)
    claims = {"best": Claim("The best arms differ", (best,))}
    (view,) = replace(study, contrasts=replace(study.contrasts, claims=claims)).each_regime()
    rng = np.random.default_rng(5)
    found: Counter[str] = Counter()
    for _ in range(STUDIES):
        values = drawn_values(rng, [0.0] * 5)
        evaluations = {
            (arm, "eval"): {
                seed: {"problems": drawn_outcomes(rng, value)}
                for seed, value in enumerate(values_S)
            }
            for arm, values_S in zip(names, values, strict=True)
        }
        (row,) = contrast_rows([RegimeRuns(view, {}, evaluations, {})])
        found[row["verdict"]] += 1
    assert (found[BETTER] + found[WORSE]) / STUDIES <= 0.072, found
    assert abs(found[BETTER] - found[WORSE]) <= 0.044 * STUDIES, found


def drawn_outcomes(rng: np.random.Generator, value: float) -> Outcomes:
    """Outcomes whose samples pass with this probability."""
    return replace(outcomes(value), passes_P=rng.binomial(SAMPLES, value, PROBLEMS))


def rates_of_one(difference: float) -> dict[str, float]:
    """The probability of each verdict on a family of one contrast.

    Given the estimate s of the standard error, the mean is normal. Each verdict is an interval of
    means. The probabilities are averaged over a grid of quantiles of s.
    """
    error = SD / math.sqrt(SEEDS)
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    s = error * np.sqrt(stats.chi2.ppf(quantiles, SEEDS - 1) / (SEEDS - 1))
    significant = stats.t.ppf(0.975, SEEDS - 1) * s
    within = np.clip(np.minimum(MARGIN - stats.t.ppf(0.95, SEEDS - 1) * s, significant), 0, None)

    def below(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return stats.norm.cdf((mean - difference) / error)

    rates = {
        BETTER: float(np.mean(1 - below(significant))),
        WORSE: float(np.mean(below(-significant))),
        EQUIVALENT: float(np.mean(below(within) - below(-within))),
    }
    return rates | {OPEN: 1 - sum(rates.values())}


def check_rate(what: str, count: int, probability: float) -> None:
    """Within 3 standard errors; one study may differ from a certain outcome."""
    rate = count / STUDIES
    error = math.sqrt(max(probability * (1 - probability), 1 / STUDIES) / STUDIES)
    print(f"{what}: {rate:.3f}, expected {probability:.3f} ± {error:.3f}")
    assert abs(rate - probability) <= 3 * error


def check_single_contrasts(judge_one: Judge) -> None:
    planted = {regime: (difference,) for regime, difference in ALONE.items()}
    found = simulated(1, planted, judge_one)
    for regime, difference in ALONE.items():
        counts = Counter(rows[0]["verdict"] for rows in found[regime])
        expected = rates_of_one(difference)
        for verdict in VERDICTS:
            check_rate(f"{difference:+}: {verdict}", counts[verdict], expected[verdict])
    up = sum(rows[0]["verdict"] == BETTER for rows in found["up"])
    check_rate("power of one contrast", up, difference_power(MARGIN, SD, SEEDS, 1))


def check_families(judge_one: Judge) -> None:
    family = len(FAMILIES["null"])
    found = simulated(2, dict(FAMILIES), judge_one)
    errors, uncorrected = (
        sum(any(is_error(row) for row in rows) for rows in found["null"]) / STUDIES
        for is_error in (
            lambda row: row["verdict"] in (BETTER, WORSE),
            lambda row: row["p"] < 0.05,
        )
    )
    print(f"family-wise error: {errors:.4f}; without a correction {uncorrected:.4f}")
    assert errors <= 0.072  # the level of 0.05, and two standard errors
    assert uncorrected > 0.1

    planted = [rows[0] for rows in found["one"]]
    first_step = sum(row["p"] < 0.05 / family for row in planted)
    check_rate("power in a family", first_step, difference_power(MARGIN, SD, SEEDS, family))
    better = sum(row["verdict"] == BETTER for row in planted)
    print(f"better in a family, of which that power is a lower bound: {better / STUDIES:.3f}")
    assert first_step <= better < STUDIES

    for number in range(family):
        rows = [study[number] for study in found["null"]]
        inside = sum(row["low90"] > -MARGIN and row["high90"] < MARGIN for row in rows)
        check_rate("power of equivalence", inside, equivalence_power(MARGIN, SD, SEEDS))


def test_the_integrals_add_up() -> None:
    for difference in ALONE.values():
        rates = rates_of_one(difference)
        assert all(0 <= rate <= 1 for rate in rates.values())
    assert rates_of_one(MARGIN)[BETTER] == pytest.approx(rates_of_one(-MARGIN)[WORSE])
    # the tests of equivalence have a size of 5% at the margin
    assert rates_of_one(MARGIN)[EQUIVALENT] <= 0.05


def test_values_of_seeds_get_the_stated_verdicts() -> None:
    check_single_contrasts(by_values)
    check_families(by_values)


@pytest.mark.slow
def test_evaluations_get_the_stated_verdicts(tmp_path: Path) -> None:
    check_single_contrasts(by_outcomes(study_with(tmp_path, list(ALONE), 1)))
    family = len(FAMILIES["null"])
    check_families(by_outcomes(study_with(tmp_path, list(FAMILIES), family)))


def test_both_ways_judge_alike(tmp_path: Path) -> None:
    """Values that outcomes can hold exactly get the same verdicts from both."""
    judge_outcomes = by_outcomes(study_with(tmp_path, list(FAMILIES), len(FAMILIES["null"])))
    rng = np.random.default_rng(3)
    for _ in range(3):
        values = {regime: drawn_values(rng, each) for regime, each in FAMILIES.items()}
        values = {regime: np.round(v * 3840) / 3840 for regime, v in values.items()}
        pairs = [judge_outcomes(values), by_values(values)]
        for regime in FAMILIES:
            for one, other in zip(*(found[regime] for found in pairs), strict=True):
                assert one["verdict"] == other["verdict"]
                assert (one["low90"], one["p_holm"]) == pytest.approx(
                    (other["low90"], other["p_holm"])
                )
