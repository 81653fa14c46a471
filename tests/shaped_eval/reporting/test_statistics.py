"""The statistics against enumeration, simulation and published values."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from scipy import stats
from shaped_eval import statistics
from shaped_eval.errors import UserError
from shaped_eval.statistics import (
    avg_at_m,
    cons_at_m,
    means,
    near_edge,
    paired_difference,
    pass_at_k,
    problem_interval,
    sampling_se,
)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 128])
def test_pass_at_k_is_exact(n):
    for k in [k for k in (1, 2, n // 2, n - 1, n) if 1 <= k <= n]:
        exact = [float(1 - Fraction(comb(n - c, k), comb(n, k))) for c in range(n + 1)]
        np.testing.assert_allclose(pass_at_k(np.arange(n + 1), n, k), exact, rtol=0, atol=1e-14)


def test_pass_at_k_is_the_share_of_draws_with_a_pass():
    n, c, k = 7, 2, 3
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k([c], n, k)[0] == pytest.approx(
        np.mean([any(draw) for draw in draws]), abs=1e-15
    )


def test_the_plug_in_that_pass_at_k_avoids_is_off_as_published():
    c = np.arange(129)
    plug_in_gap = np.abs(1 - (1 - c / 128) ** 64 - pass_at_k(c, 128, 64)).max()
    assert plug_in_gap == pytest.approx(0.12, abs=0.01)


@pytest.mark.parametrize(
    ("c", "n", "k", "message"),
    [
        ([1], 8, 9, "k=9 needs 1 <= k <= n=8"),
        ([0], 1, 64, "k=64 needs"),
        ([1], 8, 0, "k=0"),
        ([9], 8, 1, "from 9 to 9 must lie in 0..n=8"),
        ([-1], 8, 1, "from -1"),
        ([0.5], 8, 1, "whole numbers"),
        ([[1]], 8, 1, "one for each problem"),
        ([1], 0, 1, "n=0"),
    ],
)
def test_counts_out_of_range_are_refused(c, n, k, message):
    with pytest.raises(UserError, match=message):
        pass_at_k(c, n, k)


def test_avg_at_m_is_pass_at_1():
    c = np.arange(9)
    np.testing.assert_allclose(avg_at_m(c, 8), pass_at_k(c, 8, 1), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("statuses", "answers", "expected"),
    [
        ("ppf", ["1", "1", "2"], 1.0),
        ("pff", ["1", "2", "2"], 0.0),
        ("ppff", ["1", "1", "2", "2"], 1 / 2),
        ("pff", ["1", "2", "3"], 1 / 3),
        ("ppff", ["1/2", "0.5", "2", "2"], 1 / 2),  # all passes vote for gold, however written
        ("pff", ["1", "1", "2"], 1 / 3),  # and a fail never does
        ("puuu", ["1", None, None, None], 1.0),
        ("pteff", ["1", None, None, "2", "2"], 0.0),
        ("uuu", [None] * 3, 0.0),
        ("fff", ["1", "2", "3"], 0.0),
        ("", [], 0.0),
    ],
)
def test_cons_at_m(statuses, answers, expected):
    names = {"p": "pass", "f": "fail", "u": "unparsed", "t": "timeout", "e": "error"}
    assert cons_at_m([[names[letter] for letter in statuses]], [answers]).tolist() == [expected]


def test_t_interval_below_100_problems():
    values = np.random.default_rng(0).uniform(0, 1, 60)
    interval = problem_interval(values, sampling_se=0.01)
    expected = stats.t.interval(0.95, 59, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose((interval.low, interval.high), expected, rtol=1e-12)
    assert (interval.value, interval.sampling_se) == (values.mean(), 0.01)


@pytest.mark.parametrize("levels", [17, 3])  # problems are drawn one by one, and as counts
def test_bootstrap_from_100_problems_is_the_bootstrap_of_scipy(levels):
    values = np.random.default_rng(0).integers(0, levels, 300) / (levels - 1)
    interval = problem_interval(values)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = other.high - other.low
    assert abs(interval.low - other.low) < 0.03 * width
    assert abs(interval.high - other.high) < 0.03 * width
    assert problem_interval(values) == interval


@pytest.mark.parametrize("hits", [0, 1, 29, 30])
def test_near_an_end_the_interval_of_passes_is_clopper_pearson(hits):
    interval = problem_interval([1.0] * hits + [0.0] * (30 - hits))
    exact = stats.binomtest(hits, 30).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(
        (interval.low, interval.high), (exact.low, exact.high), rtol=1e-9, atol=1e-12
    )
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    assert interval.low < interval.high


def test_near_an_end_narrow_values_have_a_narrower_interval_than_passes():
    rng = np.random.default_rng(0)
    narrow = problem_interval(rng.uniform(0.94, 1.0, 200))
    # Clopper-Pearson at 196 of 200 is 0.950-0.995
    assert narrow.high - narrow.low < 0.6 * (0.999 - 0.944)
    assert narrow.low < 0.97 < narrow.high


def test_equal_values_and_one_problem_have_no_zero_width():
    for values, least in (([0.5] * 40, 0.05), ([1.0], 0.9), ([0.0], 0.9), ([0.3], 0.5)):
        interval = problem_interval(values)
        assert interval.high - interval.low > least


@pytest.mark.parametrize("values", [[], [[0.5]], [1.5], [-0.1], [float("nan")]])
def test_values_that_are_none_or_out_of_range_are_refused(values):
    with pytest.raises(UserError):
        problem_interval(values)


def problem_values(kind: str, mean: float, problems: int, rng: np.random.Generator):
    """A draw of per-problem values and their true mean.

    The chance of a pass varies over problems as a beta variable.
    """
    if kind == "avg":
        table, a, b = np.arange(17) / 16, 2 * mean, 2 * (1 - mean)
    elif kind == "pass":
        table, a, b = pass_at_k(np.arange(17), 16, 8), 0.4 * mean, 0.4 * (1 - mean)
    else:  # the vote of 8 between gold and one rival
        table, a, b = np.array([0, 0, 0, 0, 0.5, 1, 1, 1, 1]), mean, 1 - mean
    n = len(table) - 1
    truth = float(table @ stats.betabinom(n, a, b).pmf(np.arange(n + 1)))
    return (lambda: table[rng.binomial(n, rng.beta(a, b, problems))]), truth


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["avg", "pass", "cons"])
def test_coverage_of_the_interval_over_problems(kind, monkeypatch):
    """95% intervals cover the truth in 0.92-0.98 of draws, and in more if they are the exact ones.

    The report warns in the latter case. Measured with 800 draws, 30 to 500 problems and means from
    0.02 to 0.98: 0.927-0.979, and 0.961-0.999 near the ends.
    """
    monkeypatch.setattr(means, "RESAMPLES", 1000)
    rng, repeats = np.random.default_rng(0), 700
    chance = 3 * np.sqrt(0.95 * 0.05 / repeats)
    for problems in (30, 100, 272):
        for mean in (0.03, 0.5, 0.9, 0.995):
            draw, truth = problem_values(kind, mean, problems, rng)
            intervals = [problem_interval(draw()) for _ in range(repeats)]
            covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
            warned = np.mean([near_edge(interval.value, problems) for interval in intervals])
            assert covered > 0.92 - chance / 2, (problems, mean, covered)
            assert covered < 0.98 + chance / 2 or warned > 0.5, (problems, mean, covered, warned)


def test_sampling_se_against_simulation_and_in_closed_form():
    rng = np.random.default_rng(0)
    c, n, k = np.array([0, 3, 3, 8, 15, 16]), 16, 4
    draws = rng.binomial(n, (c + 0.5) / (n + 1), size=(40_000, len(c)))
    simulated = np.array([pass_at_k(row, n, k).mean() for row in draws]).std()
    assert sampling_se(c, n, k) == pytest.approx(simulated, rel=0.02)
    p = (c + 0.5) / (n + 1)
    assert sampling_se(c, n) == pytest.approx(np.sqrt((p * (1 - p) / n).sum()) / len(c), rel=1e-12)


def test_sampling_se_refuses_what_it_cannot_know():
    with pytest.raises(UserError, match="no problems"):
        sampling_se([], 8, 1)
    with pytest.raises(UserError, match="k=9"):
        sampling_se([1], 8, 9)


def test_sign_flip_p_value_is_exact_for_few_problems():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 10) / 8, rng.integers(0, 9, 10) / 8
    sums = [abs(np.dot(signs, b - a)) for signs in product((1, -1), repeat=10)]
    expected = np.mean(np.array(sums) >= abs((b - a).sum()) - 1e-12)
    assert paired_difference(a, b).p_value == pytest.approx(expected, abs=1e-15)
    assert paired_difference(np.zeros(5), np.ones(5)).p_value == 2 / 2**5
    assert paired_difference(a, a) == statistics.PairedDifference(0.0, 0.0, 0.0, 1.0)


def test_p_value_of_many_problems_is_that_of_scipy_and_never_0():
    rng = np.random.default_rng(0)
    a = rng.binomial(16, rng.beta(1, 1, 200)) / 16
    b = np.clip(a + rng.normal(0.015, 0.1, 200), 0, 1)
    ours = paired_difference(a, b)
    other = stats.permutation_test(
        (b - a,),
        np.mean,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    )
    assert 0.005 < other.pvalue < 0.5
    assert ours.p_value == pytest.approx(other.pvalue, abs=4 * np.sqrt(other.pvalue / 10_000))
    assert ours == paired_difference(a, b)
    assert paired_difference(np.zeros(200), np.ones(200)).p_value == 1 / 10_001


def test_paired_interval_is_narrower_than_the_unpaired_ones_and_signed():
    rng = np.random.default_rng(0)
    difficulty = rng.beta(0.5, 0.5, 300)
    a, b = (
        rng.binomial(32, difficulty) / 32,
        rng.binomial(32, np.clip(difficulty + 0.03, 0, 1)) / 32,
    )
    paired = paired_difference(a, b)
    assert paired.value == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert 0 < paired.low < paired.value < paired.high
    unpaired = problem_interval(a)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    back = paired_difference(b, a)
    assert back.p_value == paired.p_value
    assert (back.low, back.high) == pytest.approx((-paired.high, -paired.low), abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("problems", [12, 30, 120])
def test_the_paired_interval_covers_and_the_p_value_is_uniform_without_a_difference(
    problems, monkeypatch
):
    """The p-value is uniform for continuous values.

    Counts often tie with the observed sum, which makes p larger.
    """
    monkeypatch.setattr(means, "RESAMPLES", 1000)
    rng, draws = np.random.default_rng(0), 600
    levels = np.array([0.05, 0.1, 0.25, 0.5, 0.75])
    chance = 3 * np.sqrt(levels * (1 - levels) / draws)
    for continuous in (True, False):
        p_values, covered = [], []
        for draw in range(draws):
            # otherwise all p-values would depend on the same set of flips
            monkeypatch.setattr(means, "SEED", draw)
            difficulty = rng.beta(0.5, 0.5, problems)
            if continuous:
                a, b = (difficulty + rng.uniform(-0.1, 0.1, problems) for _ in range(2))
            else:
                a, b = (rng.binomial(8, difficulty) / 8 for _ in range(2))
            difference = paired_difference(a, b)
            covered.append(difference.low <= 0 <= difference.high)
            p_values.append(difference.p_value)
        rejected = (np.array(p_values)[:, None] <= levels).mean(axis=0)
        assert (rejected < levels + chance).all(), rejected
        assert not continuous or (rejected > levels - chance).all(), rejected
        # as documented
        assert (0.88 if problems < 30 else 0.92) <= np.mean(covered) <= 0.98, np.mean(covered)


@pytest.mark.slow
def test_the_paired_interval_covers_a_true_difference(monkeypatch):
    monkeypatch.setattr(means, "RESAMPLES", 1000)
    rng, covered = np.random.default_rng(0), []
    for _ in range(800):
        difficulty = rng.beta(1, 1, 60)
        better = np.sqrt(difficulty)  # mean 2/3 in place of 1/2
        difference = paired_difference(rng.binomial(8, difficulty) / 8, rng.binomial(8, better) / 8)
        covered.append(difference.low <= 2 / 3 - 1 / 2 <= difference.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_differences_need_the_same_problems():
    with pytest.raises(UserError, match="same problems"):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(UserError, match="same problems"):
        paired_difference([], [])
