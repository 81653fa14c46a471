"""Dynamic sampling without waiting, against a scripted server on a virtual clock."""

import asyncio
import heapq
import itertools
import json

import pytest
from like_tokenizers import BODY, PROMPT, like_llama_2
from rlvr_tiny import KINDS, G
from scripted_rollouts import SLOTS, Run, seconds
from shaped_eval.errors import UserError

from shaped_trl.rlvr.asynchronous.loop import Clock, RolloutLoop, check_reply
from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.prompt_stream import PromptStream

OUTCOME = {
    "mixed": Outcome.INFORMATIVE,
    "right": Outcome.ALL_RIGHT,
    "wrong": Outcome.ALL_WRONG,
}


def simulated(until: float, size: int) -> list[tuple[float, int, int]]:
    """When each group is complete, its number and its row: slots that are refilled at once."""
    stream = PromptStream(size, seed=3)
    waiting = ((group, k) for group in itertools.count() for k in range(G))
    rows, missing, found = {}, {}, []
    events = [(0.0, -1)] * SLOTS  # the end of a completion, and its group
    while events[0][0] <= until:
        now, group = heapq.heappop(events)
        if group >= 0:
            missing[group] -= 1
            if not missing[group]:
                found.append((now, group, rows[group]))
        group, k = next(waiting)
        if k == 0:
            (rows[group],), missing[group] = stream.draw(1), G
        heapq.heappush(events, (now + seconds(group, k), group))
    return found


def test_groups_are_those_of_a_plain_simulation():
    run = Run().until(12)
    end = run.reports[-1][0]
    expected = [each for each in simulated(end, len(run.dataset)) if each[0] <= end - 0.5]
    got = [(at, report.group_id, report.row) for at, report in run.reports]
    assert len(expected) > 25
    for (when, *group), (at, *found) in zip(expected, got, strict=False):
        assert group == found
        assert when <= at <= when + 0.5 + run.train_s  # read when the trainer reads
    kinds = run.dataset["kind"]
    for _, report in run.reports:
        assert report.outcome is OUTCOME[kinds[report.row]]
        assert report.kept == (kinds[report.row] == "mixed")
        assert report.ledger.groups_sampled == 1
        assert report.ledger.completions == G


def test_what_trains_is_informative_whole_and_once():
    run = Run().until(12)
    rows = {report.group_id: report.row for _, report in run.reports}
    assert len(run.trained) == 12 * 2 * G
    assert {run.dataset["kind"][rows[s.group_id]] for _, s in run.trained} == {"mixed"}
    counts = {}
    for _, sample in run.trained:
        counts.setdefault(sample.group_id, []).append(sample.advantage)
    kept = [report.group_id for _, report in run.reports if report.kept]
    assert list(counts) == kept[: len(counts)]  # in the order in which they were graded
    for advantages in counts.values():
        assert sorted(round(a, 5) for a in advantages) == [-1, -1, 1, 1]


@pytest.mark.parametrize("max_staleness", [1, 2, 4])
@pytest.mark.parametrize("train_s", [0.05, 1.5, 6.0])
def test_staleness_is_never_above_its_bound(max_staleness, train_s):
    run = Run(train_s=train_s, max_staleness=max_staleness, kinds=("mixed",) * 40).until(15)
    ages = [version - sample.model_version for version, sample in run.trained]
    assert max(ages) <= max_staleness
    assert len(run.trained) == 15 * 2 * G
    if train_s == 6.0:  # the queue grows while the trainer trains
        assert run.stale > 0
        assert max(ages) == max_staleness


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_a_body_keeps_its_indentation(chat):
    """Rewards see what evaluation sees: the completion as it stands after its prompt."""
    loop = Run().loop
    loop._loop.close()
    loop._tool_pool.shutdown()
    loop.tokenizer = like_llama_2()
    loop.tokenizer.chat_template = "{% for one in messages %}{{ one.content }}{% endfor %}"
    loop.group_id, loop.versions = 0, {0: 0}
    loop.vocabulary = len(loop.tokenizer)
    before, both = (loop.tokenizer(text)["input_ids"] for text in (PROMPT, PROMPT + BODY))

    async def turn(prompt_ids):
        ids = both[len(before) :]
        return ids, [-1.0] * len(ids)

    loop.limit = lambda group_id: len(both)
    loop._generate_one_turn = turn
    prompt = [{"role": "user", "content": PROMPT}] if chat else PROMPT
    completion, *_ = asyncio.run(RolloutLoop._generate_one(loop, prompt, {}, []))
    assert (completion[0]["content"] if chat else completion) == BODY


def test_a_slow_grader_delays_no_generation():
    begun = [Run(grading_s=grading_s, train_s=0.1).until(1).loop.begun for grading_s in (0.0, 2.0)]
    fast, slow = begun
    assert len(fast) > 3 * SLOTS
    assert len(slow) > len(fast)  # the trainer waited longer for its steps
    for (at, group), (when, same) in zip(slow, fast, strict=False):
        assert (at, group) == (pytest.approx(when), same)


def test_the_limit_of_a_group_is_that_of_the_step_at_which_it_began():
    run = Run(train_s=2.0).until(8)
    lengths = {sample.group_id: len(sample.input_ids) for _, sample in run.trained}
    began = {sample.group_id: sample.model_version for _, sample in run.trained}
    assert {4 if began[group] - 1 < 3 else 6 for group in lengths} == {4, 6}
    for group, length in lengths.items():
        assert length == 2 + (4 if began[group] - 1 < 3 else 6)


@pytest.mark.parametrize("options", [{}, {"retire_all_right": 1, "retire_all_wrong": 1}])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_no_prompt_is_lost_or_used_twice_over_a_kill(options, steps):
    kinds = KINDS * 18
    first = Run(kinds=kinds, train_s=0.7, options=options).until(steps)
    state = json.loads(json.dumps(first.deliveries.prompts()))
    # what was reported is done with, but for kept groups of which nothing was trained on
    done = [report.row for _, report in first.reports]
    for row in first.deliveries.rows.values():
        done.remove(row)
    second = Run(kinds=kinds, train_s=0.7, options=options, state=state).until(6)
    used = done + [report.row for _, report in second.reports]
    assert len(used) > 40
    assert len(set(used)) == len(used)
    stream = second.deliveries.stream
    assert stream.epoch == 0
    ahead = set(stream._order[stream.position :])
    assert set(used) | ahead | set(stream.unfinished()) == set(range(len(kinds)))
    assert not set(used) & (ahead | set(stream.unfinished()))


def test_the_step_behind_a_version():
    # sent at steps 0, 3, 6, …; continued at 7 with version 4
    clock = Clock(step=7, version=4, sync_steps=3)
    assert [clock(version) for version in (3, 4, 5, 6)] == [7, 7, 9, 12]
    assert [Clock()(version) for version in (1, 2, 5)] == [0, 1, 4]


@pytest.mark.parametrize(
    ("ids", "logps", "words"),
    [
        ([], [], "1 to 4 tokens"),
        ([1] * 5, [-1.0] * 5, "1 to 4 tokens"),
        ("abc", [-1.0] * 3, "1 to 4 tokens"),
        ([1, 2], [-1.0], "2 tokens with 1 log-probabilities"),
        ([1, 63], [-1.0] * 2, "outside the vocabulary of 63"),
        ([1, True], [-1.0] * 2, "outside the vocabulary"),
        ([1, 2], [-1.0, None], "not finite"),
        ([1, 2], [-1.0, float("nan")], "not finite"),
        ([1, 2], [-1.0, 0.5], "above 0"),
    ],
)
def test_a_reply_that_no_model_wrote_is_refused(ids, logps, words):
    check_reply([1, 2, 3, 4], [-1.0, 0.0, -3, -50.0], 63, 4)
    with pytest.raises(UserError, match=words):
        check_reply(ids, logps, 63, 4)
