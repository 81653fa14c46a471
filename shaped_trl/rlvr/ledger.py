"""Counts of the rollouts: groups sampled, kept and discarded, and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from shaped_trl.rlvr.groups import Outcome
from shaped_trl.training.log import RENAMED

# TRL's lengths are means over rounds of unequal size; the ledger's own replace them
_MEANS_OVER_ROUNDS = (
    *("mean_length", "min_length", "max_length", "clipped_ratio"),
    *("mean_terminated_length", "min_terminated_length", "max_terminated_length"),
)
RL_RENAMED = RENAMED | {
    **{f"completions/{name}": None for name in _MEANS_OVER_ROUNDS},
    "num_tokens": "tokens",
    "clip_ratio/region_mean": "clip_ratio",
    "clip_ratio/high_mean": "clip_ratio_high",
    "clip_ratio/low_mean": "clip_ratio_low",
}


@dataclass
class Ledger:
    """Counts over all processes, of one generation batch or of several added up.

    Every sampled group is informative or discarded for one of the reasons of `Outcome`. Informative
    groups beyond the batch are `groups_surplus`. `groups_filled` are discarded groups that fill a
    batch for which too few informative ones were found; they are left out of the loss.
    `trained_tokens` are the tokens in the loss. `completions_right` have a reward above 0, and
    `completions_between` one other than 0 and 1. `completions_stale` were sampled by weights too
    old to train on; only the asynchronous trainer has them. It has no batches and no rounds either.
    """

    batches: int = 0
    rounds: int = 0
    groups_sampled: int = 0
    groups_informative: int = 0
    groups_all_right: int = 0
    groups_all_wrong: int = 0
    groups_truncated: int = 0
    groups_unparsed: int = 0
    groups_ungraded: int = 0
    groups_surplus: int = 0
    groups_filled: int = 0
    completions: int = 0
    completions_right: int = 0
    completions_truncated: int = 0
    completions_unparsed: int = 0
    completions_ungraded: int = 0
    completions_between: int = 0
    completions_stale: int = 0
    rewards_raised: int = 0
    rollout_tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    reward_sum: float = 0.0

    def __iadd__(self, other: Ledger) -> Ledger:
        longest = max(self.longest, other.longest)
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.longest = longest
        return self

    def add_groups(self, found: Sequence[Outcome]) -> None:
        """Count groups by their outcome."""
        self.groups_sampled += len(found)
        for outcome in Outcome:
            name = f"groups_{outcome.value}"
            setattr(self, name, getattr(self, name) + sum(other is outcome for other in found))

    def metrics(self) -> dict[str, float]:
        """Columns for the log: counts of the interval, `rounds` per batch, and shares and means
        over all that was sampled.

        `raw_reward` is the mean accuracy reward before groups are discarded. Empty where nothing
        was generated.
        """
        if self.batches == 0 and self.completions == 0:
            return {}
        graded = self.completions - self.completions_ungraded
        return {
            **{
                name: float(value)
                for name, value in asdict(self).items()
                if name.startswith("groups_")
            },
            "rounds": self.rounds / max(self.batches, 1),
            "raw_reward": _ratio(self.reward_sum, graded),
            "completion_length": self.rollout_tokens / max(self.completions, 1),
            "completion_length_max": float(self.longest),
            "truncated": self.completions_truncated / max(self.completions, 1),
            "unparsed": self.completions_unparsed / max(self.completions, 1),
            "ungraded": self.completions_ungraded / max(self.completions, 1),
            "rollout_tokens": float(self.rollout_tokens),
            "trained_tokens": float(self.trained_tokens),
            "rollout_tokens_per_trained": _ratio(self.rollout_tokens, self.trained_tokens),
        }


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


COUNTS = (
    *(f.name for f in fields(Ledger) if f.name.startswith("groups_")),
    "completions_stale",
    "rollout_tokens",
    "trained_tokens",
)


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The counts of a whole run, added up over the rows of its log."""
    return {name: int(sum(row.get(name) or 0 for row in rows)) for name in COUNTS}
