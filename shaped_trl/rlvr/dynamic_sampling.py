"""Dynamic sampling (DAPO, arXiv 2503.14476): prompts are tried until the batch holds informative
groups only.

P groups of a batch, G generations per prompt, R processes. All processes draw from equal prompt
streams. Each generates and grades its part of a round, and all get all rewards, so that they decide
alike which groups to keep and whether another round follows. The size of a round follows from the
share of informative groups so far and is a multiple of R. Kept groups move between processes only
as far as equal shares need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from shaped_trl.rlvr.groups import Outcome, balance
from shaped_trl.rlvr.ledger import Ledger
from shaped_trl.rlvr.prompt_stream import PromptStream


@dataclass
class Completion:
    """One completion, on the process that trains on it.

    Args:
        logprobs: log-probabilities of its tokens by the engine that sampled them; None without an
            engine.
        old_logps: log-probabilities of its tokens under the policy that wrote it; only if another
            policy trains on it.
        extra: values that reward functions logged with it, by column.
    """

    prompt_ids: list[int]
    ids: list[int]
    content: Any
    logprobs: list[float] | None
    extra: dict[str, Any] = field(default_factory=dict)
    old_logps: list[float] | None = None


def _as_json(item: Completion) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    extra = {
        name: value if isinstance(value, plain) else str(value)
        for name, value in item.extra.items()
    }
    return asdict(item) | {"extra": extra}


@dataclass
class Group:
    """The completions of one prompt. Every process has the rewards; only the owner has the
    completions."""

    row: int
    owner: int
    outcome: Outcome
    rewards_GF: torch.Tensor
    completions: list[Completion] | None = None
    filled: bool = False


class Batch(NamedTuple):
    """A generation batch.

    groups: P groups, those of process 0 first.
    ledger: counts of what was sampled for it.
    filled: whether any group only fills the batch.
    has_leftovers: whether any group was left over from the batch before.
    """

    groups: list[Group]
    ledger: Ledger
    filled: bool
    has_leftovers: bool


def refill_size(missing: int, ledger: Ledger, batch_groups: int, num_processes: int) -> int:
    """Number of prompts to try for `missing` groups, by the share of informative groups so far; at
    most a batch."""
    share = ledger.groups_informative / max(ledger.groups_sampled, 1)
    size = min(batch_groups, math.ceil(missing / max(share, 1 / batch_groups)))
    return math.ceil(size / num_processes) * num_processes


class DynamicSampler:
    """Makes generation batches.

    Args:
        stream: the prompts; equal in all processes.
        roll_out: `rows -> (groups, ledger)`: generates for this process's part of the rows, grades,
            and returns the groups of all processes in the order of the rows, with their counts.
        score: `completions -> list of per-token log-probabilities` under the present policy; all
            processes call it, with equally many completions.
        max_rounds, max_tokens: limits after which no other round begins.
    """

    def __init__(
        self,
        stream: PromptStream,
        roll_out: Callable[[list[int]], tuple[list[Group], Ledger]],
        score: Callable[[list[Completion]], list[list[float]]],
        *,
        max_rounds: int,
        max_tokens: int | None = None,
        keep_leftovers: bool = False,
        rank: int = 0,
        num_processes: int = 1,
    ):
        self.stream, self.roll_out, self.score = stream, roll_out, score
        self.max_rounds, self.max_tokens, self.keep_leftovers = (
            max_rounds,
            max_tokens,
            keep_leftovers,
        )
        self.rank, self.num_processes = rank, num_processes
        self.leftovers: list[Group] = []

    def batch(self, batch_groups: int) -> Batch:
        """`batch_groups` groups (over all processes), informative ones as far as the limits allow.

        If too few are found, discarded groups fill the batch; they are marked `filled`.
        """
        ledger = Ledger(batches=1)
        found, self.leftovers = self.leftovers, []
        has_leftovers = bool(found)
        discarded: list[Group] = []
        size = math.ceil((batch_groups - len(found)) / self.num_processes) * self.num_processes
        while size > 0:
            groups, cost = self.roll_out(self.stream.draw(size))
            ledger += cost
            for group in groups:
                accuracy = group.rewards_GF[:, 0]
                right, wrong = int((accuracy > 0).sum()), int((accuracy <= 0).sum())
                self.stream.report(group.row, group.outcome, right, wrong)
                (found if group.outcome is Outcome.INFORMATIVE else discarded).append(group)
            size = self._next_round(batch_groups - len(found), ledger, batch_groups)
        chosen, surplus = found[:batch_groups], found[batch_groups:]
        filling = discarded[: batch_groups - len(chosen)]
        for group in filling:
            group.filled = True
        if self.keep_leftovers:
            surplus = self._keep(surplus)
        ledger.groups_surplus += len(surplus)
        ledger.groups_filled += len(filling)
        return Batch(self._share_out(chosen + filling), ledger, bool(filling), has_leftovers)

    def _next_round(self, missing: int, ledger: Ledger, batch_groups: int) -> int:
        """Number of prompts of the next round; 0 for no other round."""
        if missing <= 0 or ledger.rounds >= self.max_rounds:
            return 0
        size = refill_size(missing, ledger, batch_groups, self.num_processes)
        if self.max_tokens is not None:
            tokens_of_group = ledger.rollout_tokens / ledger.groups_sampled
            affordable = int((self.max_tokens - ledger.rollout_tokens) / tokens_of_group)
            size = min(size, affordable // self.num_processes * self.num_processes)
        return max(size, 0)

    def _share_out(self, groups: list[Group]) -> list[Group]:
        """The groups in the order of the processes that train on them, equally many each;
        completions move along."""
        new_owners = balance([group.owner for group in groups], self.num_processes)
        if any(new != group.owner for new, group in zip(new_owners, groups, strict=True)):
            leaving = [
                (position, group.completions)
                for position, (new, group) in enumerate(zip(new_owners, groups, strict=True))
                if group.owner == self.rank != new
            ]
            for position, completions in gather_object(leaving):
                groups[position].completions = (
                    completions if new_owners[position] == self.rank else None
                )
        for new, group in zip(new_owners, groups, strict=True):
            group.owner = new
        return sorted(groups, key=lambda group: group.owner)  # stable

    def _keep(self, surplus: list[Group]) -> list[Group]:
        """Keep informative groups for the next batch, equally many for each process; return the
        others."""
        count = len(surplus) // self.num_processes * self.num_processes
        self.leftovers = self._share_out(surplus[:count])
        own = [
            item
            for group in self.leftovers
            if group.owner == self.rank
            for item in group.completions or []
        ]
        for item, logps in zip(own, self.score(own) if count else [], strict=True):
            item.old_logps = logps
        return surplus[count:]

    def gather_state(self) -> dict[str, Any]:
        """The state for `load_state_dict`, as JSON; all processes call it."""
        own = [
            (i, group.completions)
            for i, group in enumerate(self.leftovers)
            if group.owner == self.rank
        ]
        everywhere = dict(gather_object(own)) if self.leftovers else {}
        leftovers = [
            {
                "row": group.row,
                "rewards": [
                    [None if value != value else value for value in row]
                    for row in group.rewards_GF.tolist()
                ],
                "completions": [_as_json(item) for item in everywhere[i]],
            }
            for i, group in enumerate(self.leftovers)
        ]
        return {"stream": self.stream.state_dict(), "leftovers": leftovers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another sampler, of any number of processes.

        Raises:
            ValueError: that sampler had other prompts.
        """
        self.stream.load_state_dict(state["stream"])
        rows = state["leftovers"][
            : len(state["leftovers"]) // self.num_processes * self.num_processes
        ]
        each = len(rows) // self.num_processes
        self.leftovers = [
            self._restored(row, position // each) for position, row in enumerate(rows)
        ]

    def _restored(self, row: dict[str, Any], owner: int) -> Group:
        rewards = torch.tensor(
            [[math.nan if value is None else value for value in one] for one in row["rewards"]]
        )
        completions = (
            [Completion(**item) for item in row["completions"]] if owner == self.rank else None
        )
        return Group(row["row"], owner, Outcome.INFORMATIVE, rewards, completions)
