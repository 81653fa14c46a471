"""Majority votes against enumeration of all subsets and against simulation."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shaped_eval.errors import UserError
from shaped_eval.statistics import avg_at_m, pass_at_k
from shaped_eval.statistics.votes import (
    Ballot,
    ballots,
    cons,
    cons_at_m,
    maj_at_k,
    vote_sampling_se,
)
from waiting import processor_limit

DEFAULT = settings(deadline=None, derandomize=True, database=None)
STATUSES = ["pass", "fail", "unparsed", "timeout", "error"]
SAMPLES = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from(["7", "7.0"])),
        st.tuples(st.just("fail"), st.sampled_from("ABCD")),
        st.tuples(st.sampled_from(["unparsed", "timeout", "error"]), st.none()),
    ),
    min_size=1,
    max_size=9,
)


def vote_by_hand(samples) -> float:
    """Gold's share of the win, from the verdicts themselves."""
    votes = Counter(
        "gold" if status == "pass" else answer for status, answer in samples if answer is not None
    )
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return 1 / len(winners) if "gold" in winners else 0.0


@given(samples=SAMPLES, data=st.data())
@settings(DEFAULT, max_examples=150)
def test_maj_at_k_is_the_mean_vote_of_all_subsets(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    statuses, answers = zip(*samples, strict=True)
    subsets = [vote_by_hand(subset) for subset in combinations(samples, k)]
    assert maj_at_k(ballots([statuses], [answers]), k)[0] == pytest.approx(
        np.mean(subsets), abs=1e-12
    )


@given(samples=SAMPLES)
@settings(DEFAULT)
def test_cons_is_the_vote_of_all_and_maj_at_n(samples):
    statuses, answers = zip(*samples, strict=True)
    assert cons_at_m([statuses], [answers])[0] == vote_by_hand(samples)
    assert maj_at_k(ballots([statuses], [answers]), len(samples))[0] == pytest.approx(
        vote_by_hand(samples), abs=1e-12
    )


@given(passes=st.lists(st.booleans(), min_size=1, max_size=11), data=st.data())
@settings(DEFAULT)
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(passes, data):
    k = data.draw(st.integers(1, len(passes)))
    subsets = [any(subset) for subset in combinations(passes, k)]
    assert pass_at_k([sum(passes)], len(passes), k)[0] == pytest.approx(np.mean(subsets), abs=1e-14)


def test_maj_at_1_is_the_share_of_passes_and_silent_samples_win_nothing():
    problems = [
        Ballot.of(3, [2, 1], 8),
        Ballot.of(0, [8], 8),
        Ballot.of(8, [], 8),
        Ballot.of(0, [], 8),
    ]
    np.testing.assert_allclose(maj_at_k(problems, 1), avg_at_m([3, 0, 8, 0], 8), rtol=1e-12)
    # gold is drawn, or nobody votes
    assert maj_at_k([Ballot.of(1, [], 128)], 64)[0] == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("n", [64, 159, 160, 161, 400, 3000])
def test_two_answers_have_a_closed_form_at_any_n(n):
    gold, k = n // 3, min(63, n)
    wins = sum(comb(gold, x) * comb(n - gold, k - x) for x in range(k // 2 + 1, k + 1))
    assert maj_at_k([Ballot.of(gold, [n - gold], n)], k)[0] == pytest.approx(
        wins / comb(n, k), rel=1e-10
    )


def test_one_sample_left_out_at_a_time_averages_to_the_whole():
    """As any mean over subsets, maj@k of n is the mean of maj@k of the n − 1 that remain."""
    whole = Ballot.of(20, [18, 9, 9, 3, 1, 1, 1], 70)
    left = [
        (Ballot.of(19, [18, 9, 9, 3, 1, 1, 1], 69), 20),
        (Ballot.of(20, [18, 9, 9, 3, 1, 1, 1], 69), 8),
    ]
    for rivals, samples in (
        ([17, 9, 9, 3, 1, 1, 1], 18),
        ([18, 9, 8, 3, 1, 1, 1], 18),
        ([18, 9, 9, 2, 1, 1, 1], 3),
        ([18, 9, 9, 3, 1, 1], 3),
    ):
        left.append((Ballot.of(20, rivals, 69), samples))
    assert sum(samples for _, samples in left) == 70
    for k in (2, 5, 16, 64):
        mean = sum(maj_at_k([ballot], k)[0] * samples for ballot, samples in left) / 70
        assert maj_at_k([whole], k)[0] == pytest.approx(mean, rel=1e-12)


def test_the_128_samples_of_a_problem_are_not_enumerated():
    many = [
        Ballot.of(30, [25, 16, 10, 8, 6, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1], 128),
        Ballot.of(40, [3] * 10 + [1] * 50, 128),
    ]
    with processor_limit(20):  # measured: 50 ms; enumerating the subsets would never end
        for k in (2, 4, 8, 16, 32, 64):
            maj_at_k(many, k)


@pytest.mark.parametrize("k", [0, 9, -1])
def test_k_out_of_range_is_refused(k):
    for refused in (
        lambda: maj_at_k([Ballot.of(1, [2], 8)], k),
        lambda: vote_sampling_se([Ballot.of(1, [2], 8)], k),
    ):
        with pytest.raises(UserError, match=rf"k={k} needs 1 <= k <= n=8"):
            refused()


@pytest.mark.parametrize(
    "chances", [(0.5, 0.3, 0.1, 0.1), (0.3, 0.4, 0.2, 0.1), (0.9, 0.05, 0.05), (0.1, 0.6, 0.3)]
)
def test_sampling_se_against_fresh_samples(chances):
    """The chances of gold, the rivals and no vote are known.

    With many equal problems, so is the error of their mean.
    """
    rng, n = np.random.default_rng(0), 16
    draws = rng.multinomial(n, chances, size=600)
    problems = [Ballot.of(int(row[0]), [int(votes) for votes in row[1:-1]], n) for row in draws]
    for k in (2, 4, 8, 16):
        true_se = maj_at_k(problems, k).std() / np.sqrt(len(problems))
        estimate = vote_sampling_se(problems, k)
        assert 0.8 * true_se < estimate, (k, estimate / true_se)
        assert estimate < max(1.45 * true_se, 0.2 / np.sqrt(len(problems))), (k, estimate / true_se)


def test_sampling_se_of_votes_that_all_agree_is_not_zero():
    for ballot in (Ballot.of(16, [], 16), Ballot.of(0, [16], 16), Ballot.of(0, [], 16)):
        assert vote_sampling_se([ballot], 2) > 0.01
        assert vote_sampling_se([ballot] * 4, 2) == pytest.approx(vote_sampling_se([ballot], 2) / 2)
    with pytest.raises(UserError, match="no problems"):
        vote_sampling_se([], 2)


def test_ballots_gather_passes_and_leave_out_who_does_not_vote():
    names = {letter[0]: letter for letter in STATUSES}
    letters, answers = "ppffute", ["1/2", "0.5", "2", "2", None, None, None]
    (ballot,) = ballots([[names[letter] for letter in letters]], [answers])
    assert ballot == Ballot(2, (2,), 3)
    assert (ballot.n, cons(ballot)) == (7, 0.5)
