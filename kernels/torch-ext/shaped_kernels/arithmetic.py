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

    Limits: Δ = +inf (no other token is possible) gives loss 0 and wq 0. Δ = −inf (an impossible
    target) gives the infinite loss of cross-entropy and wq 1, and 0 for both with
    ``positive="power"``.
    """
    nll_N, log_q_N = -F.logsigmoid(delta_N), F.logsigmoid(-delta_N)
    p_N, q_N = torch.sigmoid(delta_N), log_q_N.exp()
    largest = torch.finfo(delta_N.dtype).max
    if shape.weight_is_one:
        wq_N, loss_N = q_N, nll_N
    elif shape.positive == "power":
        finite_nll_N = nll_N.clamp(max=largest)
        w_N = (-shape.alpha * finite_nll_N).exp()
        wq_N, loss_N = w_N * q_N, w_N * finite_nll_N
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
