"""Chains of additions and subtractions: the task chain_sum of reasoning-gym (extra `tasks`).

An example is ``State the final answer to the following arithmetic problem: 7 + 5 - 3 =``. Its gold
is 9, and the score of the task itself grades the answers (`shaped_eval.grading.gym.grader`). Terms
have one digit. As in `running_sums`, a hash of the text holds out one question in eight, which is
never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.running_sums import is_held_out
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.grader import MARK, gold_of, task_dataset
from shaped_eval.records import Problem

NAME = "chain_sum"
MIN_TERMS, MAX_TERMS = 3, 8
PARTS = 8  # parts of the data for each seed
STRIDE = 10_000_000  # entries of each part
SIZE = 10_000 * PARTS * STRIDE  # of the task's data set, which makes an entry when it is read
COUNT = 48  # problems of the benchmark


def questions(
    seed: int, part: int, *, held_out: bool, max_terms: int = MAX_TERMS
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """An endless stream of (question, gold, metadata of the task) from one part of the data.

    The task draws entry i of its own seed s from s + i alone, so that another seed would give the
    same entries, shifted. Therefore all entries come from seed 0, and each seed and part of ours
    begins at an index of its own.

    Args:
        seed: of the data, from 0.
        part: of the seed's data, from 0 to `PARTS` − 1.
        held_out: yield the questions for evaluation, or those to train on.
        max_terms: the numbers of terms from `MIN_TERMS` to this one are equally frequent.
    """
    config = {"min_terms": MIN_TERMS, "max_terms": max_terms, "min_digits": 1, "max_digits": 1}
    entries = task_dataset(NAME, SIZE, 0, config)
    for index in count((seed * PARTS + part) * STRIDE):
        entry = entries[index]
        if is_held_out(entry["question"]) == held_out:
            gold = gold_of(
                entry["question"], task=NAME, size=SIZE, seed=0, config=config, index=index
            )
            yield entry["question"], gold, entry["metadata"]


def totals(expression: str) -> list[int]:
    """The total after each term but the first: 12 and 9 for ``7 + 5 - 3``."""
    first, *rest = expression.split()
    signed = (
        int(term) * (1 if sign == "+" else -1)
        for sign, term in zip(rest[::2], rest[1::2], strict=True)
    )
    return list(accumulate(signed, initial=int(first)))[1:]


def problems(
    name: str = NAME,
    *,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
    chat: bool = False,
    shots: int | None = None,
) -> list[Problem]:
    """48 different held-out questions, with every number of terms equally often.

    A chat model is told how to mark its answer. A base model has learnt it in training.

    Args:
        name: of the benchmark.
        hub_mirror: not used; the problems are generated.
        limit: keep so many of the first ones; None for all.
        chat: ask chat models.
        shots: number of worked examples, of which there are none.

    Raises:
        UserError: `shots` is not 0.
    """
    if shots:
        raise UserError(f"shots={shots}, but {name} has no worked examples: leave it out")
    found = held_out_questions(0, COUNT)
    tail = f"\nEnd with a line that starts with {MARK}" if chat else ""
    rows = [
        Problem(
            f"{name}/{index}",
            name,
            question + tail,
            gold,
            "reasoning_gym",
            {"terms": terms},
        )
        for index, (question, gold, terms) in enumerate(found)
    ]
    return rows[:limit]


def held_out_questions(seed: int, count: int) -> list[tuple[str, str, int]]:
    """Different held-out questions of a seed: (question, gold, number of terms).

    Every number of terms is equally frequent.

    Args:
        seed: of the data, from 0.
        count: number of questions, a multiple of the 6 numbers of terms.

    Raises:
        UserError: `count` is not such a multiple.
    """
    lengths = range(MIN_TERMS, MAX_TERMS + 1)
    if count < 1 or count % len(lengths):
        raise UserError(f"problems={count!r} of {NAME}: give a multiple of {len(lengths)}")
    left = dict.fromkeys(lengths, count // len(lengths))
    found: dict[str, tuple[str, int]] = {}
    for question, gold, metadata in questions(seed, 0, held_out=True):
        terms = metadata["num_terms"]
        if question not in found and left[terms]:
            found[question] = (gold, terms)
            left[terms] -= 1
            if not any(left.values()):
                break
    return [(question, gold, terms) for question, (gold, terms) in found.items()]
