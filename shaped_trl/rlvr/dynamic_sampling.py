"""Which groups of completions carry a learning signal, and which prompts to try next (DAPO, arXiv 2503.14476).

P prompts, G generations per prompt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

SAME_REWARD = 1e-6


@dataclass
class Ledger:
    """What one generation batch cost: groups and completion tokens, sampled and kept."""

    rounds: int = 0
    groups_sampled: int = 0
    groups_kept: int = 0
    groups_all_right: int = 0
    groups_all_wrong: int = 0
    groups_ungraded: int = 0
    rollout_tokens: int = 0
    kept_tokens: int = 0
    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The row of the log; `raw_reward` and `completion_length` are over all sampled completions."""
        names = ("rounds", "groups_sampled", "groups_kept", "groups_all_right", "groups_all_wrong", "groups_ungraded")
        return {name: float(getattr(self, name)) for name in names} | {
            "raw_reward": sum(self.rewards) / max(len(self.rewards), 1),
            "completion_length": sum(self.lengths) / max(len(self.lengths), 1),
            "rollout_tokens": float(self.rollout_tokens),
            "rollout_tokens_per_trained": self.rollout_tokens / max(self.kept_tokens, 1),
        }


def informative_groups(accuracy_PG: torch.Tensor) -> torch.Tensor:
    """Bool [P]: groups whose accuracy reward varies (max − min over the group; NaN rewards are no evidence).

    A float standard deviation is no test: that of equal rewards need not be exactly zero.
    """
    spread = _amax(accuracy_PG, -math.inf) + _amax(-accuracy_PG, -math.inf)
    return spread > SAME_REWARD


def _amax(values: torch.Tensor, empty: float) -> torch.Tensor:
    return values.nan_to_num(nan=empty, neginf=empty).amax(dim=1)


def count_uninformative(accuracy_PG: torch.Tensor, ledger: Ledger) -> None:
    """Add the groups that are all right, all wrong or ungraded to the ledger."""
    for group in accuracy_PG:
        graded = group[~group.isnan()]
        if graded.numel() == 0:
            ledger.groups_ungraded += 1
        elif graded.max() - graded.min() <= SAME_REWARD:
            if graded[0] > SAME_REWARD:
                ledger.groups_all_right += 1
            else:
                ledger.groups_all_wrong += 1


def refill_order(num_rows: int, seed: int, step: int) -> Iterator[int]:
    """Row indices to draw when the batch of `step` needs more prompts: a permutation, again and again.

    It depends on the seed and the step alone, so that a resumed run draws the same prompts.
    """
    rng = random.Random(f"{seed}-{step}")
    while True:
        order = list(range(num_rows))
        rng.shuffle(order)
        yield from order


def refill_size(missing: int, ledger: Ledger, batch_groups: int) -> int:
    """How many prompts to try for `missing` groups, from the informative fraction seen so far; at most a batch."""
    fraction = ledger.groups_kept / max(ledger.groups_sampled, 1)
    return min(batch_groups, math.ceil(missing / max(fraction, 1 / batch_groups)))
