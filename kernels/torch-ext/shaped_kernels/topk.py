"""Exact top-k membership without sorting: the first k of a stable descending sort.

Equal values are in the order of their ids. Ties at the threshold are common among logits from a
half-precision matmul.


Dimensions: R rows, V vocabulary, K head set, T rows with a tie at the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor


def head_ids(z_RV: Tensor, top_k: int) -> Tensor:
    """Ids [R, top_k] of the head set of each row, in no particular order; `top_k` is below V.

    Any of several −inf entries may be taken, since they have no probability.
    """
    values_RK, ids_RK = z_RV.topk(top_k + 1, dim=-1)
    threshold_R = values_RK[:, top_k - 1]
    # torch.topk breaks ties arbitrarily. That matters only if the first value that is left out
    # equals the last one that is taken.
    is_tied_R = (threshold_R == values_RK[:, top_k]) & (threshold_R != -torch.inf)
    ids_RK = ids_RK[:, :top_k]
    tied_T = is_tied_R.nonzero().squeeze(-1)
    if tied_T.numel():
        ids_RK[tied_T] = _take_lowest_ids(z_RV[tied_T], values_RK[tied_T, :top_k], ids_RK[tied_T])
    return ids_RK


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
