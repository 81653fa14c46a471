import asyncio
import math

import pytest
from trl.trainer.utils import is_async_callable

from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.guard import GuardedReward, guard
from shaped_trl.rlvr.ledger import Ledger, totals
from shaped_trl.rlvr.signals import SignalDetector


def batch(
    outcome: Outcome, groups: int = 4, size: int = 8, tokens: float = 100.0, **counts
) -> Ledger:
    """A generation batch whose groups all came to the same."""
    completions = groups * size
    ledger = Ledger(
        batches=1,
        rounds=1,
        completions=completions,
        rollout_tokens=int(tokens * completions),
        **counts,
    )
    if outcome is Outcome.ALL_RIGHT:
        ledger.completions_right = completions
    ledger.add_groups([outcome] * groups)
    return ledger


def heard(
    detector: SignalDetector, ledger: Ledger, entropy: float = 1.0, batches: int = 3, error=None
) -> str | None:
    for _ in range(batches):
        detector.batch(ledger, False, error)
        detector.step(entropy)
    return detector.verdict()


@pytest.mark.parametrize(
    ("ledger", "cause"),
    [
        (batch(Outcome.TRUNCATED, completions_truncated=30), "cut off at max_completion_length"),
        (
            batch(Outcome.UNPARSED, completions_unparsed=31, completions_truncated=1),
            "finds no answer",
        ),
        (batch(Outcome.ALL_RIGHT), "all answers are right"),
        (batch(Outcome.ALL_WRONG), "all answers are wrong"),
        (batch(Outcome.UNGRADED, completions_ungraded=32), "its grader failed"),
        (
            batch(Outcome.UNGRADED, completions_ungraded=32, rewards_raised=32),
            "the reward function raises",
        ),
    ],
)
def test_each_cause_is_named(ledger, cause):
    said = heard(
        SignalDetector("stop", 3),
        ledger,
        error="KeyError: 'gold'" if ledger.rewards_raised else None,
    )
    assert said is not None
    assert said.startswith("no learning signal: ")
    assert cause in said
    assert "the last 3 generation batches: 12 groups" in said
    assert "96 completions" in said
    if ledger.rewards_raised:
        assert "KeyError: 'gold'" in said


def test_right_and_wrong_prompts_are_another_cause():
    mixed = batch(Outcome.ALL_WRONG)
    mixed.add_groups([Outcome.ALL_RIGHT])
    assert "always right or never" in (heard(SignalDetector("stop", 3), mixed) or "")


def test_entropy_collapse_is_named_with_both_ends():
    detector = SignalDetector("stop", 3)
    for _ in range(10):
        detector.batch(batch(Outcome.INFORMATIVE, tokens=200.0), True)
        detector.step(0.8)
    assert detector.verdict() is None
    said = heard(detector, batch(Outcome.ALL_WRONG, tokens=20.0), entropy=0.05) or ""
    assert (
        "entropy collapse: entropy 0.05 nats and 20 tokens a response, against 0.8 and 200" in said
    )


def test_a_policy_of_one_answer_has_collapsed_from_the_first_step_on():
    assert "entropy collapse" in (
        heard(SignalDetector("stop", 3), batch(Outcome.ALL_WRONG), entropy=1e-6) or ""
    )


def test_a_collapse_is_warned_of_once_while_there_is_still_a_signal(caplog):
    detector = SignalDetector("stop", 3)
    for step in range(30):
        detector.batch(batch(Outcome.INFORMATIVE, tokens=200.0 if step < 10 else 20.0), True)
        detector.step(1.0 if step < 10 else 0.01)
    assert caplog.text.count("may be collapsing") == 1
    assert detector.verdict() is None


def test_one_informative_group_begins_the_count_anew():
    detector = SignalDetector("warn", 3)
    assert heard(detector, batch(Outcome.ALL_WRONG), batches=2) is None
    detector.batch(batch(Outcome.INFORMATIVE), True)
    assert heard(detector, batch(Outcome.ALL_WRONG), batches=2) is None
    assert heard(detector, batch(Outcome.ALL_WRONG), batches=1) is not None
    assert detector.verdict() is None  # said once, then counted again
    assert heard(SignalDetector("ignore", 1), batch(Outcome.ALL_WRONG)) is None


def test_detector_goes_on_from_its_state():
    one, again = SignalDetector("stop", 4), SignalDetector("stop", 4)
    heard(one, batch(Outcome.ALL_WRONG), batches=3)
    one.error = "KeyError: 'gold'"
    again.load_state_dict(one.state_dict())
    assert heard(again, batch(Outcome.ALL_WRONG), batches=1) == heard(
        one, batch(Outcome.ALL_WRONG), batches=1
    )
    assert again.error == one.error


def test_ledger_adds_up():
    one = batch(Outcome.ALL_RIGHT)
    one += batch(Outcome.INFORMATIVE, groups=2)
    assert (one.batches, one.groups_sampled, one.groups_all_right, one.groups_informative) == (
        2,
        6,
        4,
        2,
    )
    rows = [one.metrics(), {"step": 3}, one.metrics()]
    assert totals(rows)["groups_sampled"] == 12
    assert Ledger().metrics() == {}
    assert math.isnan(batch(Outcome.UNGRADED, completions_ungraded=32).metrics()["raw_reward"])


def length(prompts, completions, gold, log_extra, trainer_state=None):
    log_extra("seen", list(completions))
    if "bad" in completions:
        raise KeyError("bad")
    return [float(len(c) + g) for c, g in zip(completions, gold, strict=True)]


def test_a_reward_that_raises_costs_its_samples_only(caplog):
    reward, extras = GuardedReward(length), {}
    said = {"gold": [1, 2, 3], "log_extra": extras.__setitem__, "trainer_state": [1, 2]}
    assert reward(prompts=["p"] * 3, completions=["a", "bad", "ccc"], **said) == [2.0, None, 6.0]
    assert (reward.raised, reward.error) == ([1], "KeyError: 'bad'")
    assert extras == {"seen": ["a", None, "ccc"]}
    assert reward(prompts=["p"] * 3, completions=["a", "b", "ccc"], **said) == [2.0, 3.0, 6.0]
    assert (reward.raised, reward.error) == ([], None)
    # a column that was logged before is logged again, or the table would keep its values
    assert reward(prompts=["p"] * 3, completions=["bad"] * 3, **said) == [None] * 3
    assert extras == {"seen": [None] * 3}
    assert caplog.text.count("raised KeyError") == 1
    assert reward.__name__ == "length"


def _generator(completions, **kwargs):
    for completion in completions:
        if completion == "bad":
            raise KeyError(completion)
        yield 1.0


@pytest.mark.parametrize(
    ("function", "rewards"),
    [
        (lambda **kwargs: None, [None, None]),
        (lambda **kwargs: [1.0, 2.0, 3.0], [None, None]),
        (lambda completions, **kwargs: ["x"] * len(completions), [None, None]),
        (
            lambda completions, **kwargs: [None if c == "bad" else 1 for c in completions],
            [1.0, None],
        ),
        (_generator, [1.0, None]),
    ],
    ids=["none", "too many", "texts", "none for one", "generator"],
)
def test_what_is_no_reward_for_each_sample_raises(function, rewards):
    assert (
        GuardedReward(function)(prompts=["p", "p"], completions=["a", "bad"], log_extra=print)
        == rewards
    )


def test_asynchronous_rewards_are_guarded_as_well():
    async def coroutine(**columns):
        return length(**columns)

    (reward,), extras = guard(coroutine), {}
    said = {"gold": [1, 2], "log_extra": extras.__setitem__}
    assert asyncio.run(reward(prompts=["p"] * 2, completions=["bad", "b"], **said)) == [None, 3.0]
    assert is_async_callable(reward)
    assert reward.raised == [0]
    assert extras == {"seen": [None, "b"]}
