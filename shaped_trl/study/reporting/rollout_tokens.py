"""The token axis of RL: how many tokens were sampled, and when a reward was first reached.

Rollout tokens are the tokens of the completions of all sampled groups, including groups that were
then dropped (the column `rollout_tokens` of ``rl_log.jsonl``, which has the count of an interval).
Logs without this column have no token axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from shaped_trl.study.finished import Rows
from shaped_trl.training.log_reading import curve

LAST_SHARE = 0.1  # of a run's rows count as its end, since a single logged batch is noisy
# metric of `rl_outcomes` → share of the baseline's plateau
TOKENS_TO = {"tokens_to_50": 0.5, "tokens_to_80": 0.8}


class Reached(NamedTuple):
    """Rollout tokens until a reward was reached; if it never was, the run's total (`censored`)."""

    tokens: float
    censored: bool


def sampled(rows: Rows) -> tuple[list[int], list[float]]:
    """Steps, and the rollout tokens from the beginning of the run up to each; empty if unknown."""
    steps, tokens = curve(rows, "rollout_tokens")
    return steps, list(accumulate(tokens))


def sampled_at(rows: Rows, steps: Sequence[int]) -> list[float]:
    """The rollout tokens up to these steps; between two logged steps, they are interpolated.

    Empty if the run has no counts.
    """
    logged, tokens = sampled(rows)
    return np.interp(steps, [0, *logged], [0.0, *tokens]).tolist() if logged else []


def tokens_to(rows: Rows, reward: float) -> Reached | None:
    """Rollout tokens until the smoothed raw reward of a run is first at least `reward` (0–1).

    The smoothed reward of a row is the mean over it and the rows before it, as many rows as a tenth
    of the run has; earlier rows have none. None if the run has no rewards or no counts of tokens.
    """
    steps, rewards = curve(rows, "raw_reward")
    tokens = sampled_at(rows, steps)
    if not rewards or not tokens:
        return None
    width = math.ceil(len(rewards) * LAST_SHARE)
    smoothed = np.convolve(rewards, np.full(width, 1 / width), mode="valid")
    reached = np.flatnonzero(smoothed >= reward)
    if len(reached) == 0:
        return Reached(sampled(rows)[1][-1], censored=True)
    return Reached(tokens[reached[0] + width - 1], censored=False)
