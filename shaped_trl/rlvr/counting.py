"""Counts of one round of completions, over all processes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from accelerate import Accelerator

from shaped_trl.rlvr.groups import Outcome, outcomes
from shaped_trl.rlvr.ledger import Ledger


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
        ids: tokens of this process's completions.
        verdicts: the graders' statuses of this process's completions, where graders gave them.
        raised: indices of this process's completions on which the accuracy reward raised.
        ends: tokens that end a completion; one that ends otherwise was cut off.
        num_generations: completions of a prompt.
        accelerator: gathers the counts.
    """
    facts = [
        [
            len(completion),
            completion[-1] not in ends,
            verdicts is not None and verdicts[i] == "unparsed",
            i in raised,
        ]
        for i, completion in enumerate(ids)
    ]
    lengths, *flags = accelerator.gather(
        torch.tensor(facts, dtype=torch.int64, device=accelerator.device)
    ).T.cpu()
    truncated, unparsed, raises = (flag.bool() for flag in flags)
    accuracy = rewards[:, 0].cpu()
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
