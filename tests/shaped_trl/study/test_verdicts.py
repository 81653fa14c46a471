"""Verdicts on families of contrasts, by hand and against SciPy's own tests; power by Monte Carlo."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from contrast_values import SMALL
from scipy import stats
from study_values import load, rich_values, study_values

from shaped_trl import cli
from shaped_trl.study.power import (
    MOST_SEEDS,
    difference_power,
    equivalence_power,
    planned_power,
    power_row,
    seeds_needed,
)
from shaped_trl.study.reporting.effects import paired_effect
from shaped_trl.study.reporting.verdicts import BETTER, EQUIVALENT, OPEN, WORSE, judge

MARGIN, DRAWS = 0.015, 200_000
# Mean 0 and standard deviation 1 with 8 seeds.
SHAPE_S = np.array([-1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5]) / np.std(
    [-1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5], ddof=1
)


def shifts(value: float, sd: float) -> np.ndarray:
    return value + sd * SHAPE_S


def test_each_verdict_and_its_numbers_are_those_of_scipy() -> None:
    family = [
        shifts(0.02, 0.01),  # t = 5.7
        shifts(-0.02, 0.01),
        shifts(0.002, 0.01),
        shifts(0.002, 0.04),
    ]
    found = [each for each in judge(family, MARGIN) if each is not None]
    assert [each.verdict for each in found] == [BETTER, WORSE, EQUIVALENT, OPEN]
    for values_S, each in zip(family, found, strict=True):
        test = stats.ttest_1samp(values_S, 0)
        assert each.effect.p_value == pytest.approx(test.pvalue)
        for level, ends in (
            (0.95, (each.effect.low, each.effect.high)),
            (0.9, (each.low90, each.high90)),
        ):
            interval = test.confidence_interval(level)
            assert ends == pytest.approx((interval.low, interval.high))
        # The larger p of the two one-sided tests.
        p_equivalence = max(
            stats.ttest_1samp(values_S, -MARGIN, alternative="greater").pvalue,
            stats.ttest_1samp(values_S, MARGIN, alternative="less").pvalue,
        )
        assert (p_equivalence < 0.05) == (each.verdict == EQUIVALENT)
    # SciPy has no Holm, so two of its steps are by hand.
    p_values = sorted(each.effect.p_value for each in found)
    assert found[0].p_holm == pytest.approx(4 * p_values[0])
    assert found[2].p_holm == pytest.approx(min(1, 2 * p_values[2]))


def test_the_correction_counts_what_is_not_measured_yet() -> None:
    t = 2.6  # p = 0.035 with 7 degrees of freedom
    own = shifts(t * 0.01 / math.sqrt(8), 0.01)
    (alone,) = judge([own], MARGIN)
    family = judge([own, [0.01], []], MARGIN)
    assert alone is not None
    assert alone.verdict == BETTER
    assert family[0] is not None
    assert family[0].p_holm == pytest.approx(3 * alone.p_holm)
    assert family[0].verdict != BETTER
    assert family[1:] == [None, None]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_not_judged(value: float) -> None:
    """A run that diverged is neither worse nor better, and the others are corrected as before."""
    other = shifts(0.02, 0.01)
    diverged = [value, *other[1:]]
    assert judge([diverged, other], MARGIN) == [None, judge([[], other], MARGIN)[1]]
    with pytest.raises(ValueError, match="not a finite number"):
        paired_effect(diverged, np.zeros(8))


def test_a_difference_within_the_margin_that_is_significant_is_not_equivalent() -> None:
    (found,) = judge([shifts(0.005, 0.002)], MARGIN)
    assert found is not None
    assert found.verdict == BETTER
    assert -MARGIN < found.low90 < found.high90 < MARGIN


def test_the_margin_itself_is_not_within_the_margin() -> None:
    half = stats.t.ppf(0.95, 7) * 0.005 / math.sqrt(8)
    inside, outside = (judge([shifts(0, 0.005)], half + step) for step in (1e-9, -1e-9))
    assert [each.verdict for each in (*inside, *outside) if each] == [EQUIVALENT, OPEN]


def test_equal_differences_need_enough_seeds() -> None:
    """Without variation an interval is a point; the signs of four seeds do not reject at 5%."""
    for seeds, expected in ((4, OPEN), (5, EQUIVALENT)):
        (found,) = judge([[0.001] * seeds], MARGIN)
        assert found is not None
        assert found.effect.p_value == 2 ** (1 - seeds)
        assert found.verdict == expected
    (zero,) = judge([[0.0] * 8], MARGIN)
    assert zero is not None
    assert zero.verdict == EQUIVALENT
    (large,) = judge([[0.5] * 8], MARGIN)
    assert large is not None
    assert large.verdict == BETTER


@pytest.mark.parametrize("seeds", [2, 3, 8, 16])
@pytest.mark.parametrize("sd", [0.006, 0.011, 0.03])
def test_power_is_what_simulated_differences_show(seeds: int, sd: float) -> None:
    rng = np.random.default_rng(seeds)
    mean = rng.normal(0, sd / math.sqrt(seeds), DRAWS)
    error = sd * np.sqrt(rng.chisquare(seeds - 1, DRAWS) / (seeds - 1) / seeds)
    for family in (1, 6):
        quantile = stats.t.ppf(1 - 0.025 / family, seeds - 1)
        share = np.mean((mean + MARGIN) / error > quantile)
        check_share(share, difference_power(MARGIN, sd, seeds, family))
    within = np.abs(mean) + stats.t.ppf(0.95, seeds - 1) * error < MARGIN
    check_share(np.mean(within), equivalence_power(MARGIN, sd, seeds))


def check_share(share: float, probability: float) -> None:
    """Within 4 standard errors of that many draws."""
    error = math.sqrt(max(probability * (1 - probability), 1 / DRAWS) / DRAWS)
    assert abs(share - probability) < 4 * error


def test_the_number_of_seeds_is_the_first_with_enough_power() -> None:
    row = power_row(MARGIN, 0.011, 8, 6)
    for key, power in (
        ("difference", lambda S: difference_power(MARGIN, 0.011, S, 6)),
        ("equivalence", lambda S: equivalence_power(MARGIN, 0.011, S)),
    ):
        least = row[f"seeds_for_{key}"]
        assert power(least - 1) < 0.8 <= power(least)
        assert row[key] == power(8)
    assert seeds_needed(lambda S: float(S == MOST_SEEDS + 1)) is None
    assert power_row(MARGIN, 1.0, 1, 6) == {
        "margin": MARGIN,
        "difference": None,
        "equivalence": None,
        "seeds_for_difference": None,
        "seeds_for_equivalence": None,
    }


def test_extreme_deviations_have_a_power() -> None:
    for sd, expected in ((1e-9, 1.0), (1e3, 0.0)):
        for seeds in (2, MOST_SEEDS):
            for power in (
                difference_power(MARGIN, sd, seeds, 6),
                equivalence_power(MARGIN, sd, seeds),
            ):
                assert power == pytest.approx(expected, abs=0.01)


def test_the_plan_counts_the_seeds_that_all_arms_of_a_contrast_have(tmp_path: Path) -> None:
    values = rich_values(tmp_path)  # two regimes; the arm cool has seed 1 alone
    pair = {"arm": "precision", "against": "cross_entropy"}
    compare = [pair, pair | {"arm": "cool"}, pair | {"arm": "matched"}]
    values["contrasts"] = SMALL | {
        "claims": {"all": {"text": "T", "compare": compare}},
        "sd": {"rare": 0.01},
    }
    one, two = planned_power(load(tmp_path, values))
    assert [row["seeds"] for row in (one, two)] == [1, 2]
    for row in (one, two):
        assert (row["regime"], row["contrasts"], row["sd"]) == ("rare", 3, 0.01)
    assert two["difference"] == difference_power(MARGIN, 0.01, 2, 3)


def test_a_dry_run_prints_the_power(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shaped_trl.study.runner.check_options", lambda runs: None)
    values = study_values(tmp_path)
    values["seeds"] = list(range(8))

    def lines(**changes: float) -> list[str]:
        values["contrasts"] = SMALL | changes
        study = load(tmp_path, values)
        assert cli.main(["study", str(tmp_path / "study.yaml"), "--dry_run"]) == 0
        assert not study.out.exists()
        return capsys.readouterr().out.splitlines()

    difference, equivalence = (
        difference_power(MARGIN, 0.011, 8, 1),
        equivalence_power(MARGIN, 0.011, 8),
    )
    assert lines(sd=0.011)[-1] == (
        f"# power, 8 seeds, 1 contrast, sd 0.011: {difference:.0%} to find a difference of 0.015, "
        f"{equivalence:.0%} to show equivalence within it; 80% needs 7 seeds for a "
        "difference and 7 for equivalence"
    )
    assert lines(sd=0.1)[-1].endswith(
        "80% needs more than 16 seeds for a difference and more than 16 for equivalence"
    )
    assert lines()[-1] == (
        "# power: not known, since contrasts gives no sd of paired differences from a pilot"
    )
    del values["contrasts"]
    assert "power" not in cli_output(tmp_path, values, capsys)


def cli_output(tmp_path: Path, values: dict, capsys: pytest.CaptureFixture[str]) -> str:
    load(tmp_path, values)
    assert cli.main(["study", str(tmp_path / "study.yaml"), "--dry_run"]) == 0
    return capsys.readouterr().out
