"""Exact top-k membership without sorting: the first k of a stable descending sort.

Equal values are in the order of their ids. Ties at the threshold are common among logits from a
half-precision matmul.

Dimensions: R rows, V vocabulary, K head set, T rows with a tie at the threshold, G groups,
M members of groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A group has this many tokens. Groups are looked at only if there are this many times more of them
# than are asked for, since otherwise they would leave too little out.
_GROUP, _LEAST_GROUPS = 8, 4


def head_ids(z_RV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids [R, top_k] of the head set of each row, in no particular order, and the row's top two.

    The latter are values [R, 2]. `top_k` is below V. Any of several −inf entries may be taken,
    since they have no probability.
    """
    values_RK, ids_RK = largest(z_RV, top_k + 1)
    threshold_R = values_RK[:, top_k - 1]
    # torch.topk breaks ties arbitrarily. That matters only if the first value that is left out
    # equals the last one that is taken.
    is_tied_R = (threshold_R == values_RK[:, top_k]) & (threshold_R != -torch.inf)
    ids_RK = ids_RK[:, :top_k]
    tied_T = is_tied_R.nonzero().squeeze(-1)
    if tied_T.numel():
        ids_RK[tied_T] = _take_lowest_ids(z_RV[tied_T], values_RK[tied_T, :top_k], ids_RK[tied_T])
    return ids_RK, values_RK[:, :2]


def largest(z_RV: Tensor, count: int, in_order: bool = True) -> tuple[Tensor, Tensor]:
    """Values and ids, [R, count] each, as from `z_RV.topk(count)`, on a CPU in half the time.

    They descend if `in_order`.

    `torch.topk` takes a CPU several nanoseconds per entry, the maximum of entries far less. So the
    `count` groups of tokens with the largest maxima are found first, by the same method, and then
    the largest entries among theirs. No value is missed: if a group that is left out held one of
    the `count` largest, each of the `count` groups would hold one that is at least as large.
    """
    V = z_RV.shape[1]
    G = V // _GROUP
    if z_RV.device.type != "cpu" or G // count < _LEAST_GROUPS:
        return z_RV.topk(count, dim=-1, sorted=in_order)
    # The tokens of a group are G apart, so that the maxima of adjacent groups are one operation.
    grouped_RMG = z_RV[:, : _GROUP * G].unflatten(-1, (_GROUP, G))
    _, groups_RK = largest(grouped_RMG.amax(1), count, in_order=False)
    members_RM = grouped_RMG.gather(2, groups_RK[:, None].expand(-1, _GROUP, -1)).flatten(1)
    spare = V - _GROUP * G
    if spare:  # the last tokens are in no group
        members_RM = torch.cat([members_RM, z_RV[:, -spare:]], -1)
    values_RK, found_RK = members_RM.topk(count, dim=-1, sorted=in_order)
    place_RK = found_RK // count
    ids_RK = groups_RK.gather(-1, found_RK - place_RK * count) + place_RK * G
    if spare:
        ids_RK = torch.where(place_RK < _GROUP, ids_RK, found_RK + _GROUP * (G - count))
    return values_RK, ids_RK


def _take_lowest_ids(z_TV: Tensor, values_TK: Tensor, ids_TK: Tensor) -> Tensor:
    """`ids_TK` with the places at the threshold given to the lowest ids with this value."""
    threshold_T1 = values_TK[:, -1:]
    equal_TV = z_TV == threshold_T1
    above_T = (values_TK > threshold_T1).sum(-1)  # these come first: topk sorts
    # nonzero lists the equal entries row by row, with ascending ids; `rank` counts them within
    # their row.
    row, token_id = equal_TV.nonzero(as_tuple=True)
    count_T = equal_TV.sum(-1)
    rank = torch.arange(row.numel(), device=row.device) - (count_T.cumsum(0) - count_T)[row]
    place = above_T[row] + rank
    taken = place < ids_TK.shape[1]
    ids_TK[row[taken], place[taken]] = token_id[taken]
    return ids_TK


def is_first_max(z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor, max_R: Tensor) -> Tensor:
    """Booleans [R]: whether the target is the argmax, with ties going to the lowest id.

    `z_RV` holds −inf at the target, whose logit is `z_x_R`; `max_R` is the maximum of `z_RV`.
    """
    is_top1_R = z_x_R > max_R
    tied_T = (z_x_R == max_R).nonzero().squeeze(-1)
    if tied_T.numel():
        is_top1_R[tied_T] = targets_R[tied_T] < z_RV[tied_T].argmax(-1)
    return is_top1_R
