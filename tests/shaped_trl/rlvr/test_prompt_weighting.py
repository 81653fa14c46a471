"""Prompts by difficulty: the share of draws is what the stated weights give, and it resumes."""

import json
from collections import Counter

import pytest
from rlvr_tiny import rlvr_arguments

from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.prompt_stream import UNIFORM_SHARE, PromptStream

MIXED = Outcome.INFORMATIVE


def expectation(right: float, wrong: float) -> float:
    """Mean of p(1-p) under Beta(right + 1, wrong + 1), by a sum over a fine grid."""
    grid = [(i + 0.5) / 20_000 for i in range(20_000)]
    weights = [p**right * (1 - p) ** wrong for p in grid]
    return sum(w * p * (1 - p) for w, p in zip(weights, grid, strict=True)) / sum(weights)


@pytest.mark.parametrize("counts", [(0, 0), (8, 0), (0, 8), (4, 4), (11, 5)])
def test_the_weight_is_the_mean_of_its_distribution(counts):
    stream = PromptStream(2, seed=0, weighting="difficulty")
    if sum(counts):
        stream.report(1, MIXED, *counts)
    assert stream.weight(1) == pytest.approx(expectation(*counts), rel=1e-4)


def test_older_answers_count_half():
    stream = PromptStream(1, seed=0, weighting="difficulty")
    for counts in ((8, 0), (4, 4), (0, 8)):
        stream.report(0, MIXED, *counts)
    assert stream.answers[0] == (8 / 4 + 4 / 2, 4 / 2 + 8)


def test_the_share_of_draws_is_the_stated_one():
    seen = [(8, 0), (0, 8), (4, 4), (6, 2)]
    stream = PromptStream(len(seen), seed=5, weighting="difficulty")
    for row, counts in enumerate(seen):
        stream.report(row, MIXED, *counts)
    drawn = Counter()
    for _ in range(20_000):
        (row,) = stream.draw(1)
        drawn[row] += 1
        stream.open.clear()
    weights = [expectation(*counts) for counts in seen]
    for row, weight in enumerate(weights):
        share = UNIFORM_SHARE / len(seen) + (1 - UNIFORM_SHARE) * weight / sum(weights)
        error = (share * (1 - share) / 20_000) ** 0.5
        assert abs(drawn[row] / 20_000 - share) < 5 * error


def test_a_prompt_under_way_is_not_drawn_and_a_stream_continues():
    stream = PromptStream(6, seed=1, weighting="difficulty", retire_all_right=1)
    assert sorted(stream.draw(6)) == list(range(6))
    for row in range(6):
        stream.report(row, Outcome.ALL_RIGHT if row == 2 else MIXED, row, 6 - row)
    assert 2 not in stream.draw(5)
    for row in (0, 1, 3):
        stream.report(row, MIXED, 3, 3)
    again = PromptStream(6, seed=1, weighting="difficulty", retire_all_right=1)
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert again.answers == stream.answers
    assert sorted(again.draw(2)) == [4, 5]  # under way before
    assert again.draw(3) == stream.draw(3)
    assert again.epoch == stream.epoch == 2


def test_uniform_draws_are_unchanged_and_rows_under_way_come_first():
    stream, other = PromptStream(7, seed=3), PromptStream(7, seed=3)
    rows = stream.draw(5)
    stream.report(rows[1], MIXED, 2, 2)
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert stream.answers == {}
    assert other.draw(4) == [rows[0], *rows[2:]]
    assert other.draw(2) == stream.draw(2)


def test_a_checkpoint_of_an_earlier_version_is_read():
    stream = PromptStream(7, seed=3)
    stream.draw(3)
    state = {name: stream.state_dict()[name] for name in stream.state_dict()}
    del state["answers"], state["open"]
    other = PromptStream(7, seed=3)
    other.load_state_dict(state)
    assert other.draw(4) == stream.draw(4)


def test_unknown_weightings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="prompt_weighting='hard': choose from uniform, diff"):
        rlvr_arguments(tmp_path, prompt_weighting="hard")
    with pytest.raises(ValueError, match="prompt_weighting='difficulty' needs dynamic_sampling"):
        rlvr_arguments(tmp_path, prompt_weighting="difficulty", dynamic_sampling=False)
    assert rlvr_arguments(tmp_path, prompt_weighting="difficulty").prompt_weighting == "difficulty"
