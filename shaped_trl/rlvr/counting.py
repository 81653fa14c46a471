"""Counts of rollouts: of one round of completions over all processes, or of any groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from accelerate import Accelerator

from shaped_trl.rlvr.groups import Outcome, outcomes
from shaped_trl.rlvr.ledger import Ledger


def facts_of(
    ids: Sequence[Sequence[int]],
    verdicts: Sequence[str | None] | None,
    raised: Collection[int],
    ends: Collection[int],
) -> torch.Tensor:
    """Int64 [completions, 4]: tokens, and whether it was cut off, had no answer, or its reward
    raised.

    Args:
        ids: tokens of the completions.
        verdicts: the graders' statuses of the completions, where graders gave them.
        raised: indices of the completions on which the accuracy reward raised.
        ends: tokens that end a completion; one that ends otherwise was cut off.
    """
    return torch.tensor(
        [
            [
                len(completion),
                completion[-1] not in ends,
                verdicts is not None and verdicts[i] == "unparsed",
                i in raised,
            ]
            for i, completion in enumerate(ids)
        ],
        dtype=torch.int64,
    )


def count_groups(
    accuracy: torch.Tensor, facts: torch.Tensor, num_generations: int
) -> tuple[list[Outcome], Ledger]:
    """Outcomes of groups and counts of their completions.

    Args:
        accuracy: [completions], NaN where there is none.
        facts: of the same completions, as `facts_of` gives them.
        num_generations: completions of a prompt.
    """
    lengths, *flags = facts.T
    truncated, unparsed, raises = (flag.bool() for flag in flags)
    by_group = (-1, num_generations)
    found = outcomes(accuracy.view(by_group), truncated.view(by_group), unparsed.view(by_group))
    ledger = Ledger(
        rounds=1,
        completions=len(accuracy),
        completions_right=int((accuracy > 0).sum()),
        completions_truncated=int(truncated.sum()),
        completions_unparsed=int((unparsed & ~truncated).sum()),
        completions_ungraded=int(accuracy.isnan().sum()),
        completions_between=int((~accuracy.isnan() & (accuracy != 0) & (accuracy != 1)).sum()),
        rewards_raised=int(raises.sum()),
        rollout_tokens=int(lengths.sum()),
        longest=int(lengths.max()),
        reward_sum=float(accuracy.nansum()),
    )
    ledger.add_groups(found)
    return found, ledger


def count_round(
    rewards: torch.Tensor,
    ids: Sequence[Sequence[int]],
    verdicts: Sequence[str | None] | None,
    *,
    raised: Collection[int],
    ends: Collection[int],
    num_generations: int,
    accelerator: Accelerator,
) -> tuple[list[Outcome], Ledger]:
    """Outcomes of the groups and counts of the completions of all processes; called by all of them.

    Args:
        rewards: [completions of all processes, reward functions]; the first column is the accuracy,
            NaN where there is none.
        ids, verdicts, raised, ends: as in `facts_of`, of this process's completions.
        num_generations: completions of a prompt.
        accelerator: gathers the counts.
    """
    own = facts_of(ids, verdicts, raised, ends).to(accelerator.device)
    facts = accelerator.gather(own).cpu()
    return count_groups(rewards[:, 0].cpu(), facts, num_generations)
