"""Dynamic sampling (DAPO, arXiv 2503.14476): prompts are tried until the batch holds informative
groups only.

P groups of a batch, G generations per prompt, R processes. All processes draw from equal prompt
streams, each generates and grades its part of a round, and all see all rewards: so they agree on
what is kept, on the next round and on the end without a vote. A round's size follows from the
informative share seen so far and is a multiple of R. Kept groups move between processes only as far
as is needed for equal shares.
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
        logprobs: of its tokens, as the engine that sampled them says; None where it does not.
        old_logps: of its tokens, under the policy that wrote it; only where another policy trains
            on it.
        extra: what reward functions logged with it.
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
    """The completions of one prompt. Every process has its rewards; the completions only the one
    that owns it."""

    row: int
    owner: int
    outcome: Outcome
    rewards_GF: torch.Tensor
    completions: list[Completion] | None = None
    filled: bool = False


class Batch(NamedTuple):
    """P groups, those of process 0 first; what they cost; and whether any is filled in, or left
    over from before."""

    groups: list[Group]
    ledger: Ledger
    filled: bool
    has_leftovers: bool


def refill_size(missing: int, ledger: Ledger, batch_groups: int, num_processes: int) -> int:
    """How many prompts to try for `missing` groups, from the informative share seen so far; at most
    a batch."""
    share = ledger.groups_informative / max(ledger.groups_sampled, 1)
    size = min(batch_groups, math.ceil(missing / max(share, 1 / batch_groups)))
    return math.ceil(size / num_processes) * num_processes


class DynamicSampler:
    """Makes generation batches.

    Args:
        stream: the prompts; equal in all processes.
        roll_out: `rows -> (groups, ledger)`: generates for this process's part of the rows, grades,
            and gives the groups of all processes in the order of the rows, with their counts.
        score: `completions -> list of per-token log-probabilities` under the present policy; called
            by all processes with equally many.
        max_rounds, max_tokens: no further round begins beyond these.
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
        """`batch_groups` groups (over all processes), informative ones as far as the bounds allow.

        What is missing in the end is filled with groups that were discarded, marked `filled`.
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
                self.stream.report(group.row, group.outcome)
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
        """Prompts of the next round; 0 where there is to be none."""
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
        """Put informative groups aside for the next batch, equally many a process; returns the
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
        """JSON of what `load_state_dict` needs; called by all processes."""
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
        """Go on where another sampler was, of any number of processes.

        Raises:
            ValueError: it had other prompts.
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
