"""The golds of a sample of prompts, as answers, and the share of the most frequent one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading import TAKE_ALIASES
from shaped_eval.grading.gym.grader import task_dataset
from shaped_eval.grading.text.aliases import gold_aliases

from shaped_trl.rlvr.auditing.blind_answers import write
from shaped_trl.rlvr.rewards import VerdictReward

MOST_FREQUENT = 5


@dataclass(frozen=True)
class Golds:
    """The golds of a sample.

    texts: the right answer to each prompt; None where golds are not answers, such as the tests of a
        program.
    frequent: at most 5 answers, the most frequent first.
    values: number of different answers, as the grader tells them apart; 0 where golds are not
        answers.
    share: share of the prompts to which the most frequent gold is the answer.
    passed: number of golds that pass when they are given as answers; None where the reward is not a
        `VerdictReward`.
    """

    texts: tuple[str, ...] | None = None
    frequent: tuple[str, ...] = ()
    values: int = 0
    share: float = 0.0
    passed: int | None = None


def golds_of(
    reward: Any, golds: Sequence[str], others: Sequence[str], forms: Sequence[str]
) -> Golds:
    """Count the golds of a sample.

    Args:
        reward: the accuracy reward. If it is a `VerdictReward`, its grader decides which golds are
            equal; otherwise equal texts are.
        golds: the golds of the sample.
        others: some golds of the whole data set, counted in `values`: a sample may show few of
            many.
        forms: forms in which the grader may read an answer, as in `blind_answers`.
    """
    grader = reward.grader if isinstance(reward, VerdictReward) else None
    if grader == "code":
        return Golds()
    if grader == "reasoning_gym":
        own, others = _task_answers(golds), []  # here a gold is an entry, and no two are equal
        if None in own:
            return Golds()
        texts = [str(text) for text in own]
    else:
        texts = [
            gold_aliases(gold)[0] if grader in TAKE_ALIASES else gold for gold in [*golds, *others]
        ]
    answers = _canonical(reward, texts, [*golds, *others], forms)
    values = [answer or text for answer, text in zip(answers, texts, strict=True)]
    counts = Counter(values[: len(golds)]).most_common(MOST_FREQUENT)
    frequent, first = [value for value, _ in counts], [values.index(value) for value, _ in counts]
    # the canonical writing, if the grader reads that: the letter of an option
    readable = _canonical(reward, frequent, [golds[index] for index in first], forms)
    writings = [
        value if answer else texts[index]
        for value, answer, index in zip(frequent, readable, first, strict=True)
    ]
    passed = sum(answer is not None for answer in answers[: len(golds)])
    return Golds(
        tuple(texts[: len(golds)]),
        tuple(writings),
        len(set(values)),
        counts[0][1] / len(golds),
        passed if isinstance(reward, VerdictReward) else None,
    )


def _canonical(
    reward: Any, texts: Sequence[str], golds: Sequence[str], forms: Sequence[str]
) -> Sequence[str | None]:
    """The grader's canonical writing of each text that is right in one of the forms, and None for
    the others. Without a grader: None for all."""
    found: list[str | None] = [None] * len(texts)
    if not isinstance(reward, VerdictReward):
        return found
    for form in forms:
        missing = [index for index, answer in enumerate(found) if answer is None]
        grades = reward.grade(
            [write(form, texts[index]) for index in missing], [golds[index] for index in missing]
        )
        for index, grade in zip(missing, grades, strict=True):
            if grade.status == "pass":
                found[index] = grade.answer
    return found


def _task_answers(golds: Sequence[str]) -> list[str | None]:
    """The answers that tasks of reasoning-gym give to their own entries; None where they give no
    text."""
    made: dict[str, Any] = {}
    answers = []
    for gold in golds:
        try:
            entry = json.loads(gold)
            where = json.dumps([entry["task"], entry["size"], entry["seed"], entry.get("config")])
            if where not in made:
                made[where] = task_dataset(*json.loads(where))
            answer = made[where][entry["index"]]["answer"]
        # the gold was not made by `gold_of`, so that no answer can pass
        except (ValueError, KeyError, TypeError, IndexError, UserError):
            answer = None
        answers.append(answer if isinstance(answer, str) else None)
    return answers
