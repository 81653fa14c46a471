"""Per-token arithmetic of the shaped loss, exact also if the target's probability rounds to 0 or 1.

Everything is a function of Δ = z_x − logsumexp_{j≠x} z_j, the log-odds of the target x.
`kernels/README.md` derives the formulas. Dimension: N tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .shape import RewardShape


class TargetTerms(NamedTuple):
    """The target's part, [N] each: its probability p, q = 1 − p, and its weight w in the loss."""

    nll: Tensor
    p: Tensor
    q: Tensor
    minus_log_q: Tensor
    minus_p_log_p: Tensor
    minus_q_log_q: Tensor
    wq: Tensor
    loss: Tensor


def target_terms(delta_N: Tensor, shape: RewardShape) -> TargetTerms:
    """The terms at log-odds Δ (arXiv 2512.22955, Eq. 11).

    The weight of ``positive="entropy"`` depends on more than Δ: `weighted` multiplies it in.

    Limits: Δ = +inf (no other token is possible) gives loss 0 and wq 0. Δ = −inf (an impossible
    target) gives the infinite loss of cross-entropy and wq 1, and 0 for both if w is 0.
    """
    nll_N, log_q_N = -F.logsigmoid(delta_N), F.logsigmoid(-delta_N)
    p_N, q_N = torch.sigmoid(delta_N), log_q_N.exp()
    largest = torch.finfo(delta_N.dtype).max
    if shape.weight_is_one or shape.positive == "entropy":
        wq_N, loss_N = q_N, nll_N
    elif shape.positive == "power":
        finite_nll_N = nll_N.clamp(max=largest)
        w_N = (-shape.alpha * finite_nll_N).exp()
        wq_N, loss_N = w_N * q_N, w_N * finite_nll_N
    elif shape.positive == "threshold":
        # NaN is never above the threshold, and must not become 0.
        w_N = (p_N > shape.threshold).to(p_N.dtype).masked_fill(p_N.isnan(), torch.nan)
        wq_N, loss_N = w_N * q_N, times_nll(w_N, nll_N)
    else:
        # Beyond this point nll/q is 1 up to rounding, and in the end both underflow.
        saturated_N = delta_N > -math.log(torch.finfo(delta_N.dtype).eps)
        nll_over_q_N = (nll_N / q_N).masked_fill(saturated_N, 1)
        product_wq_N = ((1 + shape.beta) * log_q_N).exp()
        if shape.positive == "product":
            wq_N, loss_N = product_wq_N, product_wq_N * nll_over_q_N
        else:
            # ln w = nll·(q^β − 1). For p ≥ 1/2 it is computed as a difference, since q^β may
            # overflow, and otherwise with expm1.
            likely_N = product_wq_N * nll_over_q_N - nll_N
            unlikely_N = nll_N.clamp(max=largest) * torch.expm1(shape.beta * log_q_N)
            w_N = torch.where(delta_N >= 0, likely_N, unlikely_N).exp()
            wq_N, loss_N = w_N * q_N, w_N * nll_N
    alone_N = delta_N == torch.inf
    return TargetTerms(
        nll=nll_N,
        p=p_N,
        q=q_N,
        minus_log_q=-log_q_N,
        minus_p_log_p=p_N * nll_N.clamp(max=largest),
        minus_q_log_q=q_N * (-log_q_N).clamp(max=largest),
        wq=wq_N.masked_fill(alone_N, 0),
        loss=loss_N.masked_fill(alone_N, 0),
    )


def times_nll(w_N: Tensor, nll_N: Tensor) -> Tensor:
    """w·nll, with its limit 0 where w is 0 and nll is infinite."""
    return torch.where(w_N == 0, w_N, w_N * nll_N)


def weighted(target: TargetTerms, w_N: Tensor) -> TargetTerms:
    """The terms with one more factor of the target's weight."""
    return target._replace(wq=target.wq * w_N, loss=times_nll(w_N, target.loss))


def entropy_weight(
    target: TargetTerms,
    is_in_head_N: Tensor,
    head_share_N: Tensor,
    rest_share_N: Tensor,
    head_entropy_N: Tensor,
    top_k: int,
) -> Tensor:
    """H/ln k, where H is the entropy of the softmax over the head set K alone; [N].

    With M = Σ_K p it is ln M + (−Σ_K p ln p)/M. If K holds the target, M is near 1 as p is, so that
    ln M is computed from the mass outside K.

    Args:
        target: the terms of the target.
        is_in_head_N: whether K holds the target.
        head_share_N: Σ e/s over K without the target.
        rest_share_N: Σ e/s over the other tokens.
        head_entropy_N: −Σ p ln p over K without the target.
        top_k: k.
    """
    outside_N, head_mass_N = target.q * rest_share_N, target.q * head_share_N
    mass_N = torch.where(is_in_head_N, 1 - outside_N, head_mass_N)
    log_mass_N = torch.where(is_in_head_N, torch.log1p(-outside_N), head_mass_N.log())
    sum_N = head_entropy_N + torch.where(is_in_head_N, target.minus_p_log_p, 0)
    return (log_mass_N + sum_N / mass_N).clamp(min=0) / math.log(top_k)
