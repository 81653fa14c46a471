"""Chains of additions and subtractions, the task chain_sum of reasoning-gym (extra `tasks`), with a
part held out.

``State the final answer to the following arithmetic problem: 7 + 5 - 3 =`` has the gold 9, and the
task's own score grades it (`shaped_eval.grading.gym.grader`). Terms have one digit. As in
`running_sums` one question in eight is held out by a hash of its text: none of these is ever a
question to train on.
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
PARTS, STRIDE = 8, 10_000_000  # parts of the data for each seed, entries for each part
SIZE = 10_000 * PARTS * STRIDE  # of the task's data set, which makes an entry when it is asked for
COUNT = 48


def questions(
    seed: int, part: int, *, held_out: bool, max_terms: int = MAX_TERMS
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(question, gold, the task's metadata) without end, from where a part of the data begins.

    Every number of terms from `MIN_TERMS` to `max_terms` is equally frequent. The task draws entry
    i of its own seed s from s + i alone: other seeds would be the same entries, shifted. So each
    seed and part has a place of its own.
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
    """The work, in closed form: the total after each term of ``7 + 5 - 3`` but the first: 12, 9."""
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
    """48 different held-out questions, all numbers of terms equally often; `limit` keeps the first
    so many.

    A chat is asked to mark its answer, as the text of a base model does by what it was trained on.

    Raises:
        UserError: worked examples, which it has none of.
    """
    if shots:
        raise UserError(f"shots={shots}, but {name} has no worked examples: leave it out")
    left = dict.fromkeys(range(MIN_TERMS, MAX_TERMS + 1), COUNT // (MAX_TERMS - MIN_TERMS + 1))
    found: dict[str, tuple[str, int]] = {}
    for question, gold, metadata in questions(0, 0, held_out=True):
        terms = metadata["num_terms"]
        if question not in found and left[terms]:
            found[question] = (gold, terms)
            left[terms] -= 1
            if not any(left.values()):
                break
    tail = f"\nEnd with a line that starts with {MARK}" if chat else ""
    rows = [
        Problem(
            f"{name}/{index}",
            name,
            _asked(question + tail, chat),
            gold,
            "reasoning_gym",
            {"terms": terms},
        )
        for index, (question, (gold, terms)) in enumerate(found.items())
    ]
    return rows[:limit]


def _asked(text: str, chat: bool) -> Any:
    return [{"role": "user", "content": text}] if chat else text
