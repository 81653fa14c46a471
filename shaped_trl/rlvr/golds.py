"""The right answers of a sample of prompts: what they are as answers, and how often the most frequent one is right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_suite.errors import UserError
from eval_suite.grading import TAKE_ALIASES
from eval_suite.grading.reasoning_gym import task_dataset
from eval_suite.grading.text import gold_aliases
from shaped_trl.rlvr.blind_answers import write
from shaped_trl.rlvr.rewards import VerdictReward

MOST_FREQUENT = 5


@dataclass(frozen=True)
class Golds:
    """What is known of the golds of a sample.

    texts: the right answer to each prompt; None where golds are no answers, as the tests of a program are none.
    frequent: the most frequent ones, at most 5, the first of all first.
    values: how many different ones there are, as the grader tells them apart; 0 where golds are no answers.
    share: of the prompts to which the most frequent one is the answer.
    passed: how many pass when they are given as answers; None where the reward is no grader of the evaluation suite.
    """

    texts: tuple[str, ...] | None = None
    frequent: tuple[str, ...] = ()
    values: int = 0
    share: float = 0.0
    passed: int | None = None


def golds_of(reward: Any, golds: Sequence[str], others: Sequence[str], form: str) -> Golds:
    """Look at the golds of a sample.

    Args:
        reward: the accuracy reward. Where it is a `VerdictReward`, its grader says which golds are equal, else they
            are equal as texts.
        golds: of the sample.
        others: some of the whole data set, counted as values: few values in a sample may be many in all.
        form: in which the grader reads an answer, as in `blind_answers`.
    """
    grader = reward.grader if isinstance(reward, VerdictReward) else None
    if grader == "code":
        return Golds()
    if grader == "reasoning_gym":
        own, others = _task_answers(golds), []  # there a gold is an entry, and no two are equal
        if None in own:
            return Golds()
        texts = [str(text) for text in own]
    else:
        texts = [gold_aliases(gold)[0] if grader in TAKE_ALIASES else gold for gold in [*golds, *others]]
    values, passed = texts, None
    if isinstance(reward, VerdictReward):
        grades = reward.grade([write(form, text) for text in texts], [*golds, *others])
        values = [(grade.status == "pass" and grade.answer) or text for grade, text in zip(grades, texts, strict=True)]
        passed = sum(grade.status == "pass" for grade in grades[: len(golds)])
    counts = Counter(values[: len(golds)]).most_common(MOST_FREQUENT)
    first = [values.index(value) for value, _ in counts]
    writings = [texts[index] for index in first]
    if isinstance(reward, VerdictReward):  # the canonical writing where it is one: the letter of an option
        grades = reward.grade([write(form, value) for value, _ in counts], [golds[index] for index in first])
        writings = [
            value if grade.status == "pass" else text
            for (value, _), grade, text in zip(counts, grades, writings, strict=True)
        ]
    share = counts[0][1] / len(golds)
    return Golds(tuple(texts[: len(golds)]), tuple(writings), len(set(values)), share, passed)


def _task_answers(golds: Sequence[str]) -> list[str | None]:
    """The answers that tasks of reasoning-gym give to their own entries; None where they give none."""
    made: dict[str, Any] = {}
    answers = []
    for gold in golds:
        try:
            entry = json.loads(gold)
            where = json.dumps([entry["task"], entry["size"], entry["seed"], entry.get("config")])
            if where not in made:
                made[where] = task_dataset(*json.loads(where))
            answer = made[where][entry["index"]]["answer"]
        except (ValueError, KeyError, TypeError, IndexError, UserError):  # not made by `gold_of`: nothing can pass
            answer = None
        answers.append(answer if isinstance(answer, str) else None)
    return answers
