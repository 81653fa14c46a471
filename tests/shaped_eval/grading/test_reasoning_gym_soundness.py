"""Answers that reasoning-gym's own scorers reward though they solve nothing are wrong here."""

from __future__ import annotations

import pytest
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.formulas import NoFormula

pytest.importorskip("reasoning_gym", reason="the extra `tasks` is not installed")

from shaped_eval.grading.gym import grader as reasoning_gym
from shaped_eval.grading.gym import scorer as gym_scorer
from shaped_eval.grading.gym.comparisons import COMPARISONS, STRICTER

ENTRIES = 12


def entries(task: str, seed: int = 1):
    return reasoning_gym.task_dataset(task, ENTRIES, seed)


def passes(task: str, answer: str, made, entry) -> bool:
    """Whether an answer passes, without a process for it."""
    if task in COMPARISONS:
        return COMPARISONS[task](answer, entry["answer"])
    try:
        return gym_scorer.score(task, answer, made, entry) >= gym_scorer.RIGHT
    except NoFormula:
        return False


def as_many(text: str):
    """A list in which each number of the entry is replaced by this text."""
    return lambda entry: f"[{', '.join([text] * len(entry['metadata']['original_numbers']))}]"


UNEARNED = {
    "number_sorting": [as_many(one) for one in ("NaN", '"nan"', '"\\u006ean"', '" NAN "', '"n"')],
    "complex_arithmetic": ["nan", "NaN", "n a n", "nan+nani", "nani", "(nan)", "nan + 0i"],
    "puzzle24": ["6*4*1*1", "4*6+1-1", "(1+2+3)*4", "24"],
    "coin_flip": [
        "0",
        "0.",
        "nan",
        "inf",
        "1/3",
        "1e-9",
        "-1",
        "sNaN",
        "1e99999999999",
        "1/0",
        "/",
    ],
    "game_of_life_halting": ["x", "0", "yes", "True or False"],
}


@pytest.mark.parametrize("task", UNEARNED)
def test_what_is_not_solved_is_not_rewarded(task):
    made = entries(task)
    for answer in UNEARNED[task]:
        texts = [answer if isinstance(answer, str) else answer(one) for one in made]
        passed = [passes(task, text, made, one) for text, one in zip(texts, made, strict=True)]
        assert not any(passed), (task, texts)
    assert all(passes(task, one["answer"], made, one) for one in made)


@pytest.mark.parametrize("task", ["number_sorting", "complex_arithmetic", *STRICTER])
def test_the_own_scorers_do_reward_it(task):
    """If a later version does not, the rule for that task can go."""
    made = entries(task)
    answer = UNEARNED[task][0]
    texts = [answer if isinstance(answer, str) else answer(one) for one in made]
    points = [made.score_answer(text, one) for text, one in zip(texts, made, strict=True)]
    assert sum(one >= gym_scorer.RIGHT for one in points) > ENTRIES / 2


def test_whether_a_game_halts_has_two_answers_in_any_case():
    made = entries("game_of_life_halting")
    for one in made:
        other = {"True": "False", "False": "True"}[one["answer"]]
        assert passes("game_of_life_halting", one["answer"].lower(), made, one)
        assert not passes("game_of_life_halting", other, made, one)


def test_a_probability_may_be_rounded_or_a_fraction():
    made = reasoning_gym.task_dataset("coin_flip", 60, 2)
    for one in made:
        exact, right = one["metadata"]["rational"], one["answer"]
        fraction = f"{exact['numerator']}/{exact['denominator']}"
        for answer in (fraction, f"{float(right):.4g}", f"{float(right):.4e}", f" {right} "):
            assert passes("coin_flip", answer, made, one), (answer, right)
        for factor in (0.98, 1.02, 0.5, 2, -1):
            assert not passes("coin_flip", str(float(right) * factor), made, one)


def test_a_puzzle_is_solved_with_its_own_numbers_and_exactly():
    made = entries("puzzle24")
    entry = dict(made[0], metadata={**made[0]["metadata"], "numbers": [8, 3, 2, 2]})
    for answer, right in {
        "8*3*2/2": True,
        "(2*8-2*2)*3": False,  # a number more
        "8*3": False,
        "3*8": False,
        "8*3+2-2": True,
        " 8 * 3 + (2 - 2). ": True,
        "8*3/2*1": False,
        "8*3*22/22": False,
        "2*3*2+8": False,
        "(8*3)/(2/2)": True,
        "8*3/(2-2)": False,
    }.items():
        assert passes("puzzle24", answer, made, entry) == right, answer
    # the own scorer drops what is behind the point
    entry["metadata"]["numbers"] = [7, 7, 2, 1]
    assert made.score_answer("7*7/2*1", entry) == 1
    assert not passes("puzzle24", "7*7/2*1", made, entry)


def test_nan_is_right_only_where_the_tasks_own_answer_has_it():
    made = entries("needle_haystack")
    entry = {**made[0], "answer": "Nan"}
    assert passes("needle_haystack", "Nan", made, entry)
    entry["answer"] = "Hernandez"
    for answer in ("nan", "-inf", "[1, Infinity]", "x=NAN", "3 + nanj"):
        with pytest.raises(NoFormula, match="are not numbers"):
            gym_scorer.score("needle_haystack", answer, made, entry)
    for answer in ("Hernandez", "infinite", "Nancy", "finance"):
        gym_scorer.score("needle_haystack", answer, made, entry)


def test_these_are_never_scored_by_the_package(monkeypatch):
    """In no version: another one's scorer may be as lenient."""
    monkeypatch.setattr(reasoning_gym, "version", lambda: "0.2.0")
    for task in STRICTER:
        made = entries(task)
        gold = reasoning_gym.gold_of(made[0]["question"], task=task, size=ENTRIES, seed=1, index=0)
        assert reasoning_gym._compared(gold)
        with pytest.raises(AssertionError):
            gym_scorer.score(task, "0", made, made[0])


@pytest.mark.parametrize("task", reasoning_gym.ANSWERED_BY_ITS_QUESTION)
def test_a_task_that_its_question_answers_is_refused(task):
    with pytest.raises(UserError, match=f"reasoning_gym/{task}' is answered by a part of its"):
        reasoning_gym.task_dataset(task, 1, 1)
    from reasoning_gym import create_dataset

    made = create_dataset(task, size=60, seed=1)
    points = [
        max(made.score_answer(premise, one) for premise in one["metadata"]["premises"])
        for one in made
    ]
    assert sum(one == 1 for one in points) > 30
