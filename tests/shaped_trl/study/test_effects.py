"""The statistics over seeds, by hand on small numbers, and error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from shaped_trl.study.reporting.effects import holm, paired_effect

SEEDS = 8
SIMULATIONS = 200
SD = 0.02  # sd of the paired difference, as measured for the area under the reward curve


def binomial_interval(share: float) -> tuple[float, float]:
    """The limits of the share of successes in 99.9% of simulations."""
    low, high = stats.binom.interval(0.999, SIMULATIONS, share)
    return low / SIMULATIONS, high / SIMULATIONS


def draw(rng: np.random.Generator, difference: float) -> tuple[np.ndarray, np.ndarray]:
    """Two arms' values [SEEDS] with a common part per seed, and differences with deviation SD."""
    shared = rng.normal(0.5, 0.1, SEEDS)
    base = shared + rng.normal(0, SD / math.sqrt(2), SEEDS)
    return shared + difference + rng.normal(0, SD / math.sqrt(2), SEEDS), base


def test_a_pair_by_hand() -> None:
    own, base = [0.5, 0.7, 0.9], [0.4, 0.5, 0.6]  # differences 0.1, 0.2, 0.3: sd 0.1, error 0.1/√3
    found = paired_effect(own, base)
    assert (found.seeds, found.value, found.sd) == (3, pytest.approx(0.2), pytest.approx(0.1))
    # Student's t with 2 degrees of freedom in closed form: cdf(t) = 1/2 + t / (2·√(2 + t²))
    t = 0.2 / (0.1 / math.sqrt(3))
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    quantiles = [math.sqrt(2) * x / math.sqrt(1 - x * x) for x in (2 * 0.975 - 1, 2 * 0.8 - 1)]
    half = quantiles[0] * 0.1 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert found.minimum_effect == pytest.approx(sum(quantiles) * 0.1 / math.sqrt(3))
    turned = paired_effect(base, own)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    assert turned.p_value == found.p_value


def test_equal_differences_are_no_certainty() -> None:
    found = paired_effect([0.1 + 0.2, 0.5, 0.7, 0.9], [0.2, 0.4, 0.6, 0.8])
    assert (found.sd, found.low, found.high) == (0.0, pytest.approx(0.1), pytest.approx(0.1))
    assert found.p_value == 2 / 2**4  # two sign flips are equally extreme
    assert paired_effect([0.5, 0.5], [0.5, 0.5]).p_value == 1.0
    for own, base in (([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])):
        with pytest.raises(ValueError, match="2 or more seeds"):
            paired_effect(own, base)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    # the sorted .01, .02, .03, .04 are multiplied by 4, 3, 2, 1: .04, .06, .06, .04; the last one
    # is at least as large as those before it
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.5, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


def test_a_planted_difference_is_found_as_often_as_the_design_says() -> None:
    rng = np.random.default_rng(0)
    quantiles = stats.t.ppf([0.975, 0.8], SEEDS - 1)
    planted = float(quantiles.sum()) * SD / math.sqrt(SEEDS)
    found = [paired_effect(*draw(rng, planted)) for _ in range(SIMULATIONS)]
    power = np.mean([each.p_value < 0.05 and each.value > 0 for each in found])
    low, high = binomial_interval(0.8)
    assert low <= power <= high
    coverage = np.mean([each.low <= planted <= each.high for each in found])
    low, high = binomial_interval(0.95)
    assert low <= coverage <= high
    # each study's minimum effect scatters like its sd around that of the design
    assert np.median([each.minimum_effect for each in found]) == pytest.approx(planted, rel=0.1)


def test_nothing_planted_is_found_in_a_twentieth() -> None:
    rng = np.random.default_rng(1)
    share = np.mean([paired_effect(*draw(rng, 0.0)).p_value < 0.05 for _ in range(SIMULATIONS)])
    low, high = binomial_interval(0.05)
    assert low <= share <= high


def test_over_four_arms_the_correction_keeps_errors_rare() -> None:
    """Four arms without a difference share a baseline; an error is any p-value below 5%."""
    rng = np.random.default_rng(2)
    plain, corrected = [], []
    for _ in range(SIMULATIONS):
        base = rng.normal(0.5, SD / math.sqrt(2), SEEDS)
        arms = rng.normal(0.5, SD / math.sqrt(2), (4, SEEDS))
        p_values = [paired_effect(own, base).p_value for own in arms]
        plain.append(min(p_values) < 0.05)
        corrected.append(min(holm(p_values)) < 0.05)
    assert np.mean(corrected) <= binomial_interval(0.05)[1]
    assert np.mean(plain) > binomial_interval(0.05)[1]  # errors without a correction


def test_a_verdict_takes_twice_the_minimum_effect() -> None:
    """Two measures, each corrected over four arms and another pair, as the report warns."""
    rng = np.random.default_rng(3)
    minimum = float(stats.t.ppf([0.975, 0.8], SEEDS - 1).sum()) * SD / math.sqrt(SEEDS)

    def found(shift: float) -> bool:
        arms = rng.normal(0, SD / math.sqrt(2), (5, SEEDS))
        arms[1] += shift
        pairs = [paired_effect(own, arms[0]) for own in arms[1:]] + [
            paired_effect(arms[1], arms[4])
        ]
        return holm([pair.p_value for pair in pairs])[0] < 0.05 and pairs[0].value > 0

    once, twice = (
        np.mean([found(shift) and found(shift) for _ in range(SIMULATIONS)])
        for shift in (minimum, 2 * minimum)
    )
    assert once < 0.5
    assert twice > 0.9
