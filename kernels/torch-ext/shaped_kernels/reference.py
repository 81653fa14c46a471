"""The shaped loss written as the equations, to judge the other implementations.

It uses full logits, log space and autograd.

Dimensions: N tokens, D hidden, V vocabulary, K head set.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .shape import LossOptions, RewardShape
from .targets import Rows, Targets


def reference_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    options: LossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed loss, and the metrics of the options as [N] tensors (arXiv 2512.22955, Eq. 10–13).

    With `options.per_token` the losses are an [N] tensor, 0 at ignored positions.

    The loss of a token is the surrogate −Σ_a sg(p_a r_a) ln p_a over the whole vocabulary, where sg
    stops the gradient. Its gradient with respect to the logits is the policy gradient
    −E_{a~p}[r_a ∇ln p_a]. Several [N, V] tensors are held at once.
    """
    rows = targets.rows_from(0)()
    hidden_ND, targets_N = hidden_ND[rows], targets.ids_N[rows]
    z_NV = compute_logits(hidden_ND, weight_VD, bias_V, options)
    shape, temperature = options.shape, options.shape.loss_temperature
    tokens = _Tokens(z_NV, targets_N[:, None], shape.top_k)
    if temperature == 1:
        loss_N = _token_losses(tokens, shape)
    else:
        cooled = _Tokens(z_NV / temperature, targets_N[:, None], shape.top_k)
        loss_N = temperature * _token_losses(cooled, shape)
    if options.z_loss:
        loss_N = loss_N + options.z_loss * (z_NV.logsumexp(-1) * tokens.one_N).square()
    weights_N = targets.weights_of(rows)
    if weights_N is not None:
        loss_N = loss_N * weights_N
    loss = _at_rows(rows, loss_N, len(targets)) if options.per_token else loss_N.sum()
    values = {name: loss_N.new_zeros(len(targets)) for name in options.metrics}
    for name, value_N in values.items():
        value_N[rows] = _metric(name, tokens).detach() * tokens.one_N
    return loss, values


class _Tokens:
    """What losses and metrics need of logits `z_NV` and targets `x_N1`."""

    def __init__(self, z_NV: Tensor, x_N1: Tensor, top_k: int) -> None:
        self.z_NV, self.x_N1 = z_NV, x_N1
        z_others_NV = z_NV.scatter(-1, x_N1, -torch.inf)
        # If logits are not a distribution (NaN, +inf, or only −inf), log_softmax is NaN.
        # Multiplying by this makes everything else NaN as well.
        self.one_N = torch.where(z_NV.amax(-1).isfinite(), 1, torch.nan)
        # A target without a competitor has nothing to learn: its loss and gradient are 0.
        self.alone_N = (z_others_NV == -torch.inf).all(-1) & (self.one_N == 1)
        lse_others_N = z_others_NV.masked_fill(self.alone_N[:, None], 0).logsumexp(-1)
        # Δ = logit(p_x) keeps the full relative precision of both p and 1−p, also near 0 and 1.
        delta_N = z_NV.gather(-1, x_N1).squeeze(-1) - lse_others_N
        self.delta_N = delta_N.masked_fill(self.alone_N, torch.inf) * self.one_N
        self.nll_N = -F.logsigmoid(self.delta_N)
        self.log_p_NV = z_NV.log_softmax(-1)
        self.p_others_NV = self.log_p_NV.detach().exp().scatter(-1, x_N1, 0)
        self.in_head_NV = head_mask(z_NV.detach(), top_k)


def _token_losses(tokens: _Tokens, shape: RewardShape) -> Tensor:
    """The shaped loss [N] of each token."""
    if shape.positive == "entropy":
        w_N = entropy_weight(tokens.z_NV.detach(), shape.top_k)
    else:
        # The cap keeps w finite for β < 0 if 1−p underflows. There w·nll is finite.
        largest_log_w = 0.9 * math.log(torch.finfo(tokens.z_NV.dtype).max)
        w_N = log_weight(tokens.delta_N.detach(), shape).clamp(max=largest_log_w).exp()
    # w = 0 at nll = ∞ has the limit 0. The forms of β keep the infinite loss of an impossible
    # target.
    positive_N = (w_N * tokens.nll_N).masked_fill(tokens.alone_N | (w_N == 0), 0)
    p_others_NV = tokens.p_others_NV
    rewards_NV = torch.full_like(p_others_NV, shape.lambda_tail).masked_fill_(
        tokens.in_head_NV, shape.lambda_head
    )
    log_p_NV = tokens.log_p_NV.masked_fill(p_others_NV == 0, 0)
    return positive_N - (p_others_NV * rewards_NV * log_p_NV).sum(-1)


def _metric(name: str, tokens: _Tokens) -> Tensor:
    """One of the metrics, [N]."""
    z_NV, x_N1 = tokens.z_NV, tokens.x_N1
    compute = {
        "nll": lambda: tokens.nll_N,
        "target_prob": lambda: torch.sigmoid(tokens.delta_N),
        "entropy": lambda: torch.special.entr(tokens.log_p_NV.exp()).sum(-1),
        "head_mass": lambda: (tokens.p_others_NV * tokens.in_head_NV).sum(-1),
        "tail_mass": lambda: (tokens.p_others_NV * ~tokens.in_head_NV).sum(-1),
        "is_top1": lambda: head_mask(z_NV, 1).gather(-1, x_N1).squeeze(-1).to(z_NV.dtype),
        "target_rank": lambda: target_rank(z_NV, x_N1),
        "logsumexp": lambda: z_NV.logsumexp(-1),
    }
    return compute[name]()


def _at_rows(rows: Rows, values: Tensor, N: int) -> Tensor:
    """`values` at the positions `rows` of [N] zeros, with their gradient."""
    if isinstance(rows, slice):
        return values
    return values.new_zeros(N).index_copy(0, rows, values)


def compute_logits(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, options: LossOptions
) -> Tensor:
    """Logits [N, V] as a model computes them: a matmul in the inputs' dtype, the rest in fp32."""
    z_NV = F.linear(hidden_ND, weight_VD, bias_V)
    z_NV = (z_NV if z_NV.dtype == torch.float64 else z_NV.float()) * options.logit_scale
    return z_NV if options.softcap is None else options.softcap * torch.tanh(z_NV / options.softcap)


def log_weight(delta_N: Tensor, shape: RewardShape) -> Tensor:
    """ln w [N] from the target's log-odds Δ (Eq. 11).

    ln(1−p) = −softplus(Δ), and nll = softplus(−Δ).
    """
    nll_N, log_q_N = -F.logsigmoid(delta_N), F.logsigmoid(-delta_N)
    if shape.positive == "power":
        return -shape.alpha * nll_N
    if shape.positive == "threshold":
        is_likely_N = torch.sigmoid(delta_N) > shape.threshold
        log_w_N = torch.zeros_like(delta_N).masked_fill(~is_likely_N, -torch.inf)
        return log_w_N.masked_fill(delta_N.isnan(), torch.nan)
    if shape.weight_is_one:
        return torch.zeros_like(delta_N)
    if shape.positive == "product":
        return shape.beta * log_q_N
    # ln w = nll·((1−p)^β − 1). For p near 1, nll underflows, but its logarithm is −Δ up to
    # rounding.
    saturated_N = delta_N > -math.log(torch.finfo(delta_N.dtype).eps)
    log_nll_N = torch.where(saturated_N, -delta_N, nll_N.log())
    likely_N = (shape.beta * log_q_N + log_nll_N).exp() - nll_N
    unlikely_N = nll_N * torch.expm1(shape.beta * log_q_N)
    return torch.where(delta_N >= 0, likely_N, unlikely_N).masked_fill(delta_N.isinf(), 0)


def entropy_weight(z_NV: Tensor, top_k: int) -> Tensor:
    """H/ln k [N]: the entropy of the softmax over the k largest logits alone (EAFT)."""
    log_p_NK = z_NV.topk(min(top_k, z_NV.shape[-1]), dim=-1).values.log_softmax(-1)
    return torch.special.entr(log_p_NK.exp()).sum(-1) / math.log(top_k)


def target_rank(z_NV: Tensor, x_N1: Tensor) -> Tensor:
    """How many tokens [N] come before the target in a stable descending sort."""
    z_x_N1 = z_NV.gather(-1, x_N1)
    is_first_NV = (z_NV == z_x_N1) & (torch.arange(z_NV.shape[1], device=z_NV.device) < x_N1)
    return ((z_NV > z_x_N1) | is_first_NV).sum(-1).to(z_NV.dtype)


def head_mask(z_NV: Tensor, top_k: int) -> Tensor:
    """The head set as booleans [N, V]: the first `top_k` of a stable descending sort."""
    # A few rows at a time, since the 64-bit indices of a whole sort would be the largest tensor.
    ids_NK = torch.cat(
        [
            rows.sort(dim=-1, descending=True, stable=True).indices[:, :top_k].clone()
            for rows in z_NV.split(64)
        ]
    )
    return torch.zeros_like(z_NV, dtype=torch.bool).scatter_(-1, ids_NK, True)
