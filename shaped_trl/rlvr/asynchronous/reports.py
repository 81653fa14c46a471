"""What the rollout process tells the trainer: completions, and a report on each group."""

from __future__ import annotations

from dataclasses import dataclass

from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.ledger import Ledger


@dataclass(frozen=True)
class Report:
    """A group that was graded, and where the stream of prompts was then.

    group_id: its number in the rollout process.
    row: its prompt's row in the data set.
    outcome: how it came out; only a kept group's completions follow.
    kept: whether they do.
    ledger: its counts.
    cursor: the stream's position.
    unfinished: rows that were drawn and not yet graded, or are to be drawn again.
    error: what the accuracy reward raised, if anything.
    """

    group_id: int
    row: int
    outcome: Outcome
    kept: bool
    ledger: Ledger
    cursor: tuple[int, int, int]
    unfinished: list[int]
    error: str | None = None


@dataclass(slots=True)
class Delivery(RolloutSample):
    """A completion of TRL's, with the report on its group if it is the group's first.

    A report travels on a completion because TRL's loop puts nothing else on the queue, and because
    it must come before the completions that it concerns. Of a discarded group only this one
    completion is sent, without tokens.
    """

    report: Report | None = None
