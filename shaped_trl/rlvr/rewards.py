"""Reward functions for TRL's trainers. A reward comes from a verdict: evaluation grades with the same code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eval_suite.errors import UserError
from eval_suite.grading import GradeRequest, GraderPool

REWARD_OF = {"pass": 1.0, "fail": 0.0, "unparsed": 0.0}


def completion_text(completion: Any) -> str:
    """The text of a completion: itself, or the content of the last message of a chat."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


class VerdictReward:
    """1 for a right answer, 0 for a wrong or missing one, None where the grader timed out or failed.

    Args:
        grader: a grader of the evaluation suite ("math", "gsm8k", "running_sums").
        num_workers: grading processes; they start with the first call and live as long as this object.

    Called by TRL with `completions` and the data set's column `gold`. It logs the verdict's status as the extra
    column `verdict`.
    """

    def __init__(self, grader: str, num_workers: int | None = None):
        self.grader = grader
        self.num_workers = num_workers
        self.__name__ = "accuracy"
        self._pool: GraderPool | None = None

    def __call__(
        self, completions: list, gold: list[str], log_extra: Callable[[str, list], None] | None = None, **kwargs: Any
    ) -> list[float | None]:
        if self._pool is None:
            self._pool = GraderPool(self.num_workers)
        requests = [
            GradeRequest(self.grader, completion_text(completion), answer)
            for completion, answer in zip(completions, gold, strict=True)
        ]
        statuses = [grade.status for grade in self._pool.grade(requests)]
        if log_extra is not None:
            log_extra("verdict", statuses)
        return [REWARD_OF.get(status) for status in statuses]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


class ReasoningGymReward:
    """The score in [0, 1] that a reasoning-gym task gives to the text after the last "Answer:".

    Args:
        entries: a data set of `reasoning_gym_dataset`.

    Called by TRL with `completions` and the column `entry`, the entry's number in `entries`.
    """

    def __init__(self, entries: Any):
        self.entries = entries
        self.__name__ = "accuracy"

    def __call__(self, completions: list, entry: list[int], **kwargs: Any) -> list[float]:
        scores = []
        for completion, index in zip(completions, entry, strict=True):
            _, marker, tail = completion_text(completion).rpartition("Answer:")
            answer = tail.strip().splitlines()[0].strip() if marker and tail.strip() else None
            scores.append(float(self.entries.score_answer(answer, self.entries[index])))
        return scores


def reasoning_gym_dataset(task: str, size: int, seed: int) -> Any:
    """A procedural data set of reasoning-gym.

    Raises:
        UserError: the extra is not installed, or there is no such task.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            f"reasoning_gym task {task!r} needs the extra `tasks`: pip install 'shaped-trl[tasks]'"
        ) from error
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed)
    except ValueError as error:
        raise UserError(f"dataset_name='reasoning_gym/{task}': {error}") from error
