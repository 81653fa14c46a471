"""Reliability: all@k, G-Pass, cost, token limits and calibration, against enumeration."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.report import report_run
from shaped_eval.statistics import (
    Ballot,
    all_at_k,
    avg_at_m,
    g_pass_at_k,
    paired_difference,
    pass_at_k,
    problem_interval,
    sampling_se,
)
from shaped_eval.statistics.reliability import (
    all_table,
    majority_calibration,
    passes_within,
    tokens_per_solved,
)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 128])
def test_all_at_k_is_exact(n):
    for k in {k for k in (1, 2, n // 2, n - 1, n) if 1 <= k <= n}:
        exact = [float(Fraction(comb(c, k), comb(n, k))) for c in range(n + 1)]
        np.testing.assert_allclose(all_at_k(np.arange(n + 1), n, k), exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("k", "tau"), [(4, 0.25), (4, 0.5), (4, 0.51), (5, 0.6), (7, 1.0)])
def test_g_pass_is_the_share_of_draws_with_enough_passes(k, tau):
    n = 7
    for c in range(n + 1):
        draws = list(combinations([1] * c + [0] * (n - c), k))
        enough = Fraction(sum(Fraction(sum(draw), k) >= Fraction(str(tau)) for draw in draws))
        assert g_pass_at_k([c], n, k, tau)[0] == pytest.approx(
            float(enough / len(draws)), abs=1e-12
        )


def test_g_pass_lies_between_all_and_pass_and_rounding_does_not_ask_for_one_more():
    c = np.arange(31)
    values = [g_pass_at_k(c, 30, 10, tau) for tau in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    np.testing.assert_allclose(values[0], pass_at_k(c, 30, 10), atol=1e-12)
    np.testing.assert_array_equal(values[-1], all_at_k(c, 30, 10))
    assert (np.diff(values, axis=0) <= 1e-15).all()
    np.testing.assert_array_equal(g_pass_at_k(c, 30, 10, 0.7), g_pass_at_k(c, 30, 10, 0.65))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: all_at_k([1], 8, 9), "k=9 needs 1 <= k <= n=8"),
        (lambda: all_at_k([9], 8, 2), "from 9 to 9 must lie in 0..n=8"),
        (lambda: g_pass_at_k([1], 8, 2, 0.0), "tau=0.0 is out of range"),
        (lambda: g_pass_at_k([1], 8, 2, 1.1), "tau=1.1 is out of range"),
        (lambda: passes_within([[1]], [[True]], 0), "limit=0 tokens is out of range"),
        (lambda: passes_within([[1, 2]], [[True]], 1), r"shape \(1, 2\) and passes"),
        (lambda: tokens_per_solved([], []), r"shape \(0,\)"),
        (lambda: majority_calibration([]), "no problems"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_all_at_k_has_its_sampling_error_from_all_outcomes():
    """Simulated: 3 problems with chances as the plug-in has them, 5 samples each."""
    from shaped_eval.statistics import table_se

    c, n, k = [1, 4, 5], 5, 2
    rng = np.random.default_rng(0)
    chances = (np.array(c) + 0.5) / (n + 1)
    again = rng.binomial(n, chances, size=(200_000, 3))
    simulated = np.array([all_table(n, k)[again[:, i]] for i in range(3)]).mean(axis=0).std()
    assert table_se(c, n, all_table(n, k)) == pytest.approx(simulated, rel=0.01)


def test_tokens_per_solved_is_the_cost_of_sampling_until_it_is_right():
    tokens = [[10, 30], [100, 60], [40, 20]]
    passed = [[True, False], [False, True], [True, True]]
    found = tokens_per_solved(tokens, passed)
    assert found.value == pytest.approx(260 / 4)
    assert found.low < found.value < found.high
    rng = np.random.default_rng(0)
    flat = [(t, p) for row in zip(tokens, passed, strict=True) for t, p in zip(*row, strict=True)]
    spent = []
    for _ in range(20_000):
        cost = 0
        while True:
            t, p = flat[rng.integers(len(flat))]
            cost += t
            if p:
                break
        spent.append(cost)
    assert np.mean(spent) == pytest.approx(found.value, rel=0.03)
    assert tokens_per_solved([[1], [2]], [[False], [False]]) is None
    assert tokens_per_solved([[1]], [[True]]) is None
    assert tokens_per_solved([[1], [2]], [[True], [True]]).sampling_se is None


def test_tokens_per_solved_covers_the_true_ratio_and_its_sampling_error_is_right():
    """40 problems of random difficulty, where hard ones are answered at greater length."""
    rng = np.random.default_rng(0)
    chances = rng.beta(1, 1, 200_000)
    truth = (300 - 200 * chances).mean() / chances.mean()
    covered = 0
    for _ in range(1000):
        p = rng.beta(1, 1, 40)
        passed = rng.random((40, 8)) < p[:, None]
        tokens = rng.poisson((300 - 200 * p)[:, None], (40, 8))
        found = tokens_per_solved(tokens, passed)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 1000 <= 0.98
    again = []
    for _ in range(4000):  # the same problems
        passed = rng.random((40, 8)) < p[:, None]
        again.append(rng.poisson((300 - 200 * p)[:, None], (40, 8)).mean() / passed.mean())
    assert found.sampling_se == pytest.approx(np.std(again), rel=0.25)


def test_passes_within_counts_longer_samples_as_wrong():
    tokens, passed = [[5, 9, 3], [7, 7, 8]], [[True, True, False], [True, False, True]]
    for limit in range(1, 11):
        by_hand = [
            sum(p and t <= limit for t, p in zip(ts, ps, strict=True))
            for ts, ps in zip(tokens, passed, strict=True)
        ]
        assert passes_within(tokens, passed, limit).tolist() == by_hand
    assert passes_within(tokens, passed, 10).tolist() == [2, 2]


def test_calibration_is_the_majoritys_share_against_its_value():
    ballots = [
        Ballot(8, (2,), 0),  # has 80%, right
        Ballot(2, (6,), 2),  # 60%, wrong
        Ballot(4, (4, 2), 0),  # 40%, half
        Ballot(0, (), 10),  # nobody votes
        Ballot(10, (), 0),  # 100%, right
    ]
    found = majority_calibration(ballots)
    share, right = [0.8, 0.6, 0.4, 0.0, 1.0], [1.0, 0.0, 0.5, 0.0, 1.0]
    assert found.overconfidence == paired_difference(right, share)
    assert found.overconfidence.value == pytest.approx((-0.2 + 0.6 - 0.1 + 0 + 0) / 5)
    assert [(each.low, each.problems, each.share) for each in found.bins] == [
        (0.0, 1, 0.0),
        (0.4, 1, 0.4),
        (0.6, 1, 0.6),
        (0.8, 2, 0.9),
    ]
    assert [each.right.value for each in found.bins] == [0.0, 0.5, 0.0, 1.0]


def test_a_voter_whose_share_is_its_chance_is_not_overconfident():
    """With one answer to choose or another, the share of the majority of few samples is too high
    on average by what is computed here: the expectation over binomial votes."""
    rng = np.random.default_rng(0)
    ballots = [Ballot(int(g), (9 - int(g),), 0) for g in rng.binomial(9, 0.5, 4000)]
    found = majority_calibration(ballots).overconfidence
    expected = sum(comb(9, g) / 2**9 * (max(g, 9 - g) / 9 - (g > 4)) for g in range(10))
    assert found.low < expected < found.high


def test_results_json_and_the_report_have_the_numbers(tmp_path, capsys):
    letters = ["ppppaaaaaaaa", "pppppppppppp", "uuuuuuuuuuuu", "pppaaaaaabbb"]
    run = write_run(tmp_path / "run", {"math": letters}, n=12, max_new_tokens=16)
    found = report_run(run)["math"]["reliability"]
    keys = ["all@2", "all@4", "all@8", "g-pass@4(0.5)", "g-pass@4(0.75)", "tokens_per_solved"]
    keys += ["within@16", "within@8", "within@4", "within@2", "within@1"]
    assert list(found) == [*keys, "overconfidence", "majority"]
    c = [4, 12, 0, 3]
    assert found["all@2"]["value"] == pytest.approx(np.mean(all_at_k(c, 12, 2)))
    assert found["tokens_per_solved"]["value"] == pytest.approx(10 * 48 / sum(c))
    assert found["within@16"]["value"] == pytest.approx(sum(c) / 48)
    assert found["within@8"]["value"] == 0.0  # each sample has 10 tokens
    interval = problem_interval(avg_at_m(c, 12), sampling_se(c, 12))
    assert found["within@16"]["low"] == interval.low
    json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)
    page = (run / "report.html").read_text()
    assert "Reliability of math" in page
    assert "within 16 tokens" in page
    assert "G-Pass@4(0.75)" in page
    assert "within 16 tokens" in (run / "report.md").read_text()


def test_greedy_runs_and_foreign_numbers_have_what_they_can(tmp_path):
    greedy = write_run(tmp_path / "greedy", {"math": ["p", "a"]}, n=1, temperature=0)
    found = report_run(greedy)["math"]["reliability"]
    assert list(found) == ["tokens_per_solved"]
    assert found["tokens_per_solved"]["sampling_se"] is None
    given = write_run(tmp_path / "given", {"math": ["pp", "aa"]}, n=2, answers="a.jsonl")
    assert list(report_run(given)["math"]["reliability"]) == ["all@2", "overconfidence", "majority"]


def test_the_modules_of_evaluate_compute_what_the_statistics_do(load):
    passes = [[True, True, False], [False, True, False]]
    lengths = [[5, 9, 3], [7, 8, 9]]
    found = load("all_at_k").compute(predictions=passes, k=[2])
    assert found["all@2"] == pytest.approx((1 / 3 + 0) / 2)
    found = load("g_pass_at_k").compute(predictions=passes, k=[2], tau=[0.5])
    assert found["g-pass@2(0.5)"] == pytest.approx((1 + 2 / 3) / 2)
    found = load("tokens_per_solved").compute(predictions=passes, references=lengths)
    assert found["tokens_per_solved"] == pytest.approx(41 / 3)
    found = load("accuracy_within").compute(predictions=passes, references=lengths, limits=[5, 8])
    assert (found["within@5"], found["within@8"]) == (1 / 6, 2 / 6)
    found = load("majority_calibration").compute(
        predictions=[["1", "1", "2"], ["3", "3", ""]], references=["1", "4"]
    )
    assert found["overconfidence"] == pytest.approx((2 / 3 - 1 + 2 / 3 - 0) / 2)
