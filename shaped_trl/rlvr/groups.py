"""The outcome of a group of completions of one prompt, and the process that trains on it.

P prompts (groups), G generations per prompt, R processes (ranks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import torch

SAME_REWARD = 1e-6


class Outcome(Enum):
    """The outcome of a group. Only an informative one has a gradient: its advantages are not all
    zero.

    A group without a right answer has one of three causes: most of its completions were cut off at
    the length limit; most of the others had no answer that the grader could read; or the answers
    were wrong.
    """

    INFORMATIVE = "informative"
    ALL_RIGHT = "all_right"
    ALL_WRONG = "all_wrong"
    TRUNCATED = "truncated"
    UNPARSED = "unparsed"
    UNGRADED = "ungraded"


def informative_groups(accuracy_PG: torch.Tensor) -> torch.Tensor:
    """Bool [P]: groups whose accuracy reward varies (max − min over the group, without NaN).

    The standard deviation would not do: in floating point, that of equal rewards need not be zero.
    """
    spread = _amax(accuracy_PG, -math.inf) + _amax(-accuracy_PG, -math.inf)
    return spread > SAME_REWARD


def _amax(values: torch.Tensor, empty: float) -> torch.Tensor:
    return values.nan_to_num(nan=empty, neginf=empty).amax(dim=1)


def outcomes(
    accuracy_PG: torch.Tensor, truncated_PG: torch.Tensor, unparsed_PG: torch.Tensor
) -> list[Outcome]:
    """The outcome of each group.

    Args:
        accuracy_PG: the accuracy reward; above zero is right, NaN is not graded.
        truncated_PG: bool, the completion was cut off at the length limit.
        unparsed_PG: bool, the grader found no answer in it.
    """
    G = accuracy_PG.shape[1]
    informative = informative_groups(accuracy_PG).tolist()
    graded = (~accuracy_PG.isnan()).any(dim=1).tolist()
    right = (accuracy_PG > SAME_REWARD).any(dim=1).tolist()
    cut_off = truncated_PG.sum(dim=1).tolist()
    no_answer = (unparsed_PG & ~truncated_PG).sum(dim=1).tolist()
    found = []
    for p in range(len(informative)):
        if informative[p]:
            found.append(Outcome.INFORMATIVE)
        elif not graded[p]:
            found.append(Outcome.UNGRADED)
        elif right[p]:
            found.append(Outcome.ALL_RIGHT)
        elif cut_off[p] > G / 2:
            found.append(Outcome.TRUNCATED)
        elif no_answer[p] > (G - cut_off[p]) / 2:
            found.append(Outcome.UNPARSED)
        else:
            found.append(Outcome.ALL_WRONG)
    return found


def balance(owners: Sequence[int], num_processes: int) -> list[int]:
    """The process that trains on each group: all get equally many, and as few groups as possible
    move.

    Args:
        owners: the rank that holds each group; the number of groups is a multiple of
            `num_processes`.
    """
    room = [len(owners) // num_processes] * num_processes
    assigned: list[int | None] = []
    for owner in owners:
        assigned.append(owner if room[owner] > 0 else None)
        room[owner] -= room[owner] > 0
    free = iter([rank for rank in range(num_processes) for _ in range(room[rank])])
    return [next(free) if rank is None else rank for rank in assigned]
