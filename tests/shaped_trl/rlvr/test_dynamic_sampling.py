import math
import random
from collections import Counter

import pytest
import torch

from shaped_trl.rlvr.dynamic_sampling import Completion, DynamicSampler, Group, refill_size
from shaped_trl.rlvr.groups import Outcome, balance, informative_groups, outcomes
from shaped_trl.rlvr.ledger import Ledger
from shaped_trl.rlvr.prompt_stream import PromptStream

NAN = math.nan
RIGHT, WRONG, MIXED = Outcome.ALL_RIGHT, Outcome.ALL_WRONG, Outcome.INFORMATIVE


def test_informative_groups_by_spread():
    accuracy = torch.tensor(
        [
            [1.0, 1, 1],
            [0, 0, 0],
            [0, 1, 0],
            [NAN, 1, 1],
            [NAN, 0, 1],
            [NAN, NAN, NAN],
            [0.1, 0.1, 0.1],
        ]
    )
    assert informative_groups(accuracy).tolist() == [False, False, True, False, True, False, False]


def test_outcomes_name_what_kept_a_group_from_teaching():
    accuracy = torch.tensor(
        [[1.0, 1, 1], [0, 0, 0], [0, 1, 0], [NAN, NAN, NAN], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    )
    truncated = torch.zeros(7, 3, dtype=torch.bool)
    unparsed = torch.zeros(7, 3, dtype=torch.bool)
    truncated[4, :2] = True  # two of three cut off
    unparsed[4] = True
    truncated[5, 0] = True  # one cut off, both others without an answer
    unparsed[5] = True
    unparsed[6, 0] = True  # one of three without an answer
    truncated[2] = unparsed[2] = True  # and yet informative
    found = outcomes(accuracy, truncated, unparsed)
    assert [outcome.value for outcome in found] == [
        *("all_right", "all_wrong", "informative", "ungraded", "truncated", "unparsed", "all_wrong")
    ]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_balance_gives_equal_shares_and_moves_as_few_as_possible(num_processes):
    rng = random.Random(0)
    for _ in range(200):
        each = rng.randint(1, 5)
        owners = [rng.randrange(num_processes) for _ in range(each * num_processes)]
        assigned = balance(owners, num_processes)
        assert Counter(assigned) == dict.fromkeys(range(num_processes), each)
        moved = sum(a != b for a, b in zip(owners, assigned, strict=True))
        assert moved == sum(max(0, owners.count(rank) - each) for rank in range(num_processes))


def test_stream_tries_every_prompt_before_one_comes_again():
    stream = PromptStream(5, seed=3)
    first, second = stream.draw(5), stream.draw(5)
    assert sorted(first) == sorted(second) == list(range(5))
    assert PromptStream(1000, seed=3).draw(1000) != PromptStream(1000, seed=4).draw(1000)
    assert PromptStream(4, seed=3, shuffle=False).draw(6) == [0, 1, 2, 3, 0, 1]


def test_stream_goes_on_from_its_state():
    stream = PromptStream(7, seed=1, retire_all_wrong=2, revisit_retired_after=1)
    for row in stream.draw(12):
        stream.report(row, WRONG if row % 2 else MIXED)
    again = PromptStream(7, seed=1, retire_all_wrong=2, revisit_retired_after=1)
    again.load_state_dict(stream.state_dict())
    assert again.draw(30) == stream.draw(30)
    assert again.state_dict() == stream.state_dict()
    with pytest.raises(ValueError, match="8"):
        PromptStream(8, seed=1).load_state_dict(stream.state_dict())


def test_prompts_are_retired_after_so_many_in_a_row_and_come_back():
    stream = PromptStream(3, seed=0, shuffle=False, retire_all_right=2, revisit_retired_after=2)
    drawn = []
    for _ in range(14):
        (row,) = stream.draw(1)
        drawn.append(row)
        # 0 is always right; 1 right and mixed in turns, never twice in a row right; 2 wrong, which
        # retires nothing
        stream.report(row, {0: RIGHT, 1: RIGHT if drawn.count(1) % 2 else MIXED, 2: WRONG}[row])
    # 0 goes in epoch 1, is away in 2, back in 3 for two more tries, and goes again in 4
    assert drawn == [0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0, 1, 2]
    assert stream.retired == {0: 4}


@pytest.mark.parametrize("outcome", [WRONG, Outcome.TRUNCATED, Outcome.UNPARSED])
def test_all_causes_of_no_right_answer_count_together(outcome):
    stream = PromptStream(2, seed=0, retire_all_wrong=2)
    stream.report(0, WRONG)
    stream.report(0, outcome)
    assert set(stream.draw(4)) == {1}


def test_all_prompts_come_back_when_all_are_retired(caplog):
    stream = PromptStream(2, seed=0, retire_all_right=1)
    for row in stream.draw(2):
        stream.report(row, RIGHT)
    assert "all 2 prompts are retired" in caplog.text
    assert sorted(stream.draw(2)) == [0, 1]


def test_refill_size_follows_the_informative_share():
    assert refill_size(2, Ledger(groups_sampled=8, groups_informative=4), 8, 1) == 4
    assert refill_size(2, Ledger(groups_sampled=8, groups_informative=0), 8, 1) == 8
    assert refill_size(1, Ledger(groups_sampled=8, groups_informative=8), 8, 1) == 1
    assert refill_size(1, Ledger(groups_sampled=8, groups_informative=8), 8, 4) == 4


def outcome_of(row: int) -> Outcome:
    return [MIXED, RIGHT, WRONG][row % 3]


def sampler(outcome=outcome_of, rows=30, **options) -> DynamicSampler:
    """One process whose completions of a prompt come to `outcome(row)`; a group has 2 of 5
    tokens."""

    def roll_out(indices):
        ledger = Ledger(rounds=1, completions=2 * len(indices), rollout_tokens=10 * len(indices))
        groups = []
        for index in indices:
            found = outcome(index)
            first, second = {MIXED: (1.0, 0.0), RIGHT: (1.0, 1.0)}.get(found, (0.0, 0.0))
            completions = [Completion([index], [index] * 5, f"{index}", None) for _ in range(2)]
            groups.append(Group(index, 0, found, torch.tensor([[first], [second]]), completions))
        ledger.add_groups([group.outcome for group in groups])
        return groups, ledger

    options = {"max_rounds": 10} | options
    score = lambda items: [[-1.0] * len(item.ids) for item in items]  # noqa: E731
    return DynamicSampler(PromptStream(rows, seed=5), roll_out, score, **options)


def test_batches_are_those_of_a_plain_simulation():
    """The first informative prompts of the stream, in its order; every other one is counted by its
    outcome."""
    one, stream = sampler(), PromptStream(30, seed=5)
    for _ in range(6):
        groups, ledger, filled, has_leftovers = one.batch(4)
        tried: list[int] = []
        while sum(outcome_of(row) is MIXED for row in tried) < 4:
            missing = 4 - sum(outcome_of(row) is MIXED for row in tried)
            share = sum(outcome_of(row) is MIXED for row in tried) / max(len(tried), 1)
            tried += stream.draw(
                4 if not tried or share == 0 else min(4, math.ceil(missing / max(share, 1 / 4)))
            )
        counts = Counter(map(outcome_of, tried))
        assert [group.row for group in groups] == [
            row for row in tried if outcome_of(row) is MIXED
        ][:4]
        assert ledger.groups_sampled == len(tried)
        assert (ledger.groups_informative, ledger.groups_all_right) == (
            counts[MIXED],
            counts[RIGHT],
        )
        assert (ledger.groups_all_wrong, ledger.groups_surplus) == (
            counts[WRONG],
            counts[MIXED] - 4,
        )
        assert not filled
        assert not has_leftovers


def test_rounds_are_bounded_and_the_rest_is_filled():
    groups, ledger, filled, _ = sampler(
        lambda row: WRONG if row % 10 else MIXED, max_rounds=3
    ).batch(4)
    assert ledger.rounds == 3
    assert filled
    assert len(groups) == 4
    assert ledger.groups_filled == sum(group.filled for group in groups) > 0
    assert all(group.filled == (group.outcome is not MIXED) for group in groups)


def test_tokens_are_bounded():
    """Rounds of 4 groups cost 40 tokens; with 100 there is one more of 4, and one of 2."""
    one = sampler(lambda row: WRONG, max_rounds=100, max_tokens=100)
    ledger = one.batch(4).ledger
    assert (ledger.rounds, ledger.rollout_tokens) == (3, 100)


def test_leftovers_are_dropped_or_come_first_with_their_log_probabilities():
    dropping, keeping = (
        sampler(lambda row: MIXED if row % 2 else WRONG),
        sampler(lambda row: MIXED if row % 2 else WRONG, keep_leftovers=True),
    )
    for _ in range(20):
        before = [group.row for group in keeping.leftovers]
        drawn = keeping.stream.drawn
        groups, ledger, _, has_leftovers = keeping.batch(4)
        assert [group.row for group in groups[: len(before)]] == before
        assert has_leftovers == bool(before)
        # the last one is of this policy
        assert [item.old_logps for item in groups[-1].completions] == [None, None]
        for group in keeping.leftovers:
            assert [item.old_logps for item in group.completions] == [[-1.0] * 5] * 2
        assert ledger.groups_surplus == 0
        assert ledger.groups_sampled == keeping.stream.drawn - drawn
        assert ledger.groups_informative + len(before) == 4 + len(keeping.leftovers)
        dropping.batch(4)
        assert not dropping.leftovers
    assert keeping.stream.drawn < dropping.stream.drawn


def test_leftovers_survive_a_checkpoint():
    one, again = (
        sampler(lambda row: MIXED if row % 2 else WRONG, keep_leftovers=True) for _ in range(2)
    )
    while not one.leftovers:
        one.batch(4)
    again.load_state_dict(one.gather_state())
    for _ in range(5):
        ours, theirs = one.batch(4).groups, again.batch(4).groups
        assert [group.row for group in ours] == [group.row for group in theirs]
        assert [group.completions for group in ours] == [group.completions for group in theirs]
        assert all(
            torch.equal(a.rewards_GF, b.rewards_GF) for a, b in zip(ours, theirs, strict=True)
        )
