"""Imported by the fork server of `scorer`, whose processes inherit what sympy loads lazily."""

from __future__ import annotations

import contextlib

from shaped_eval.grading.gym.grader import task_dataset
from shaped_eval.grading.gym.scorer import ARITHMETIC, INTEGRALS, score


def _warm_up(task: str) -> None:
    entries = task_dataset(task, size=1, seed=0)
    entry = entries[0]
    score(task, entry["answer"], entries, entry)


for _task in (*ARITHMETIC, *INTEGRALS):
    # fails with another version than the one that was read; each answer then takes longer
    with contextlib.suppress(Exception):
        _warm_up(_task)
