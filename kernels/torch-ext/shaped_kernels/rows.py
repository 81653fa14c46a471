"""Loss, metrics and gradient of one block of logits, in place: the elementwise part of the loss.

Let m be the largest logit besides that of the target x, e_j = exp(z_j − m), and s = Σ e_j over
j ≠ x. The other tokens then have p_j = q·e_j/s. The target and the head set are taken out and put
back by gather and scatter over a few indices, so that every pass over [R, V] is a plain one. The
mass of the tail is summed directly. If the vocabulary is spread over processes, V is this process's
part, and `VocabularyShard` computes what concerns the whole; otherwise `WholeVocabulary` does.

Dimensions: R rows, V vocabulary, K head set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arithmetic import TargetTerms, entropy_weight, target_terms, weighted
from .shape import LossOptions, RewardShape
from .vocab_parallel import WholeVocabulary

# If e_j is 0, ln e_j is −inf. With any finite number instead, their product has its limit 0.
_LOWEST_LOG_E = -1e4


class Scratch(NamedTuple):
    """Memory that is allocated once and used by every block, [R, V] each; None if not needed."""

    upcast_RV: Tensor | None
    log_e_RV: Tensor | None
    slope_RV: Tensor | None

    @classmethod
    def allocate(
        cls, R: int, logits_CV: Tensor, dtype: torch.dtype, options: LossOptions
    ) -> Scratch:
        """Allocate what `options` need for R rows of `dtype`."""
        V = logits_CV.shape[1]
        vocabulary = V if options.shard is None else options.shard.vocabulary
        shape = options.shape
        needs_log_e = (
            _rest_rate(shape, vocabulary) != 0
            or "entropy" in options.metrics
            # without a tail, the entropy of the head is that of the rest
            or (shape.positive == "entropy" and shape.top_k >= vocabulary)
        )
        needed = (logits_CV.dtype != dtype, needs_log_e, options.softcap is not None)
        return cls(*(logits_CV.new_empty(R, V, dtype=dtype) if need else None for need in needed))


class TorchRows:
    """The row step in plain torch. On a CPU its blocks of rows are small enough for the cache."""

    skips_ignored = False
    row_alignment = 1
    _BLOCK_MB = {"cpu": 8}

    def __init__(
        self, logits_CV: Tensor, options: LossOptions, vocabulary: int | None = None
    ) -> None:
        C, V = logits_CV.shape
        dtype = torch.promote_types(logits_CV.dtype, torch.float32)
        block_mb = self._BLOCK_MB.get(logits_CV.device.type, 256)
        self._R = min(C, max(1, int(block_mb * 2**20 / (V * dtype.itemsize))))
        self._dtype, self._names = dtype, options.metrics
        self._options, self._metric_options = options.by_temperature()
        self._scratch = Scratch.allocate(self._R, logits_CV, dtype, options)

    def __call__(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        with_grad: bool,
        weights_C: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss [C] and the metrics, [C] each; overwrites `logits_CV` with its gradient."""
        loss_C = torch.empty_like(targets_C, dtype=self._dtype)
        metrics_C = [torch.empty_like(loss_C) for _ in self._names]
        for rows in range(0, len(targets_C), self._R):
            block = slice(rows, rows + self._R)
            logits_RV, targets_R = logits_CV[block], targets_C[block]
            weights_R = None if weights_C is None else weights_C[block]
            own_metrics: dict[str, Tensor] = {}
            if self._metric_options is not None:
                copy_RV = logits_RV.clone()
                _, own_metrics = shape_rows(
                    copy_RV, targets_R, None, self._metric_options, self._scratch, False
                )
            loss_C[block], metrics = shape_rows(
                logits_RV, targets_R, weights_R, self._options, self._scratch, with_grad
            )
            metrics |= own_metrics
            for name, metric_C in zip(self._names, metrics_C, strict=True):
                metric_C[block] = metrics[name]
        return loss_C, metrics_C

    @staticmethod
    def scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """`gradient` times the scalar `factor`, in place, in `dtype`."""
        # On a CPU, reading the factor is free. On other devices, reading would wait for the device,
        # and scaling costs less.
        if gradient.device.type != "cpu" or factor.item() != 1:
            gradient = gradient.mul_(factor)
        return gradient.to(dtype)


class _Others(NamedTuple):
    """Shares Σ e/s and −Σ p ln p, [R] each, of the tokens besides the target."""

    head_share: Tensor
    rest_share: Tensor
    head_entropy: Tensor
    rest_entropy: Tensor | None


def shape_rows(
    logits_RV: Tensor,
    targets_R: Tensor,
    weights_R: Tensor | None,
    options: LossOptions,
    scratch: Scratch,
    with_grad: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics, [R] each, of raw logits (before scale, softcap and upcast).

    The loss and its gradient are multiplied by `weights_R` (None for 1), the metrics are not.
    Overwrites `logits_RV`: with d loss / d logits if `with_grad`, otherwise with arbitrary values.
    """
    shape, (R, V) = options.shape, logits_RV.shape
    tokens = options.shard or WholeVocabulary(V)
    x_R1 = tokens.columns(targets_R)[:, None]
    z_RV = logits_RV if scratch.upcast_RV is None else scratch.upcast_RV[:R].copy_(logits_RV)
    slope_RV = _transform(z_RV, options, scratch)
    tokens.hide_spare(z_RV)
    ids_RK, top_R2 = x_R1[:, :0], None
    if needs_head(options, tokens.vocabulary):
        ids_RK, top_R2 = tokens.head_columns(z_RV, shape.top_k)

    z_x_R = z_RV.gather(-1, x_R1).squeeze(-1)
    z_RV.scatter_(-1, x_R1, -torch.inf)
    if top_R2 is None:
        max_R = z_RV.amax(-1)
    else:  # the second largest logit is the largest other one if none is above the target's
        max_R = torch.where(z_x_R >= top_R2[:, 0], top_R2[:, 1], top_R2[:, 0])
    z_x_R, max_R = tokens.maximum(z_x_R, max_R)
    is_top1_R = (
        tokens.is_first_max(z_RV, targets_R, z_x_R, max_R) if "is_top1" in options.metrics else None
    )
    with_rank = "target_rank" in options.metrics
    rank_R = [tokens.count_before(z_RV, targets_R, z_x_R)] if with_rank else []
    with_place = shape.positive == "entropy"
    place_R = [tokens.holds(ids_RK, x_R1).to(z_RV.dtype)] if with_place else []
    is_broken_R = ~torch.maximum(z_x_R, max_R).isfinite()
    max_R.masked_fill_(max_R == -torch.inf, 0)
    z_RV.sub_(max_R[:, None])
    log_e_RK = z_RV.gather(-1, ids_RK)
    log_e_RV = None
    if scratch.log_e_RV is not None:
        log_e_RV = torch.clamp(z_RV, min=_LOWEST_LOG_E, out=scratch.log_e_RV[:R])
    e_RK, e_RV = log_e_RK.exp(), z_RV.exp_().scatter_(-1, ids_RK, 0)

    # Σ e and Σ e·ln e, of the head and of the rest.
    sums = [e_RK.sum(-1), e_RV.sum(-1), log_e_RK.clamp_(min=_LOWEST_LOG_E).mul_(e_RK).sum(-1)]
    if log_e_RV is not None:
        sums.append(log_e_RV.mul_(e_RV).sum(-1))
    found = finish_rows(
        options, tokens, weights_R, RowParts(z_x_R, max_R, is_broken_R, is_top1_R),
        sums, rank_R, place_R,
    )  # fmt: skip
    if with_grad:
        _write_gradient(e_RV, e_RK, ids_RK, x_R1, found)
        if slope_RV is not None:
            e_RV.mul_(slope_RV)
        if scratch.upcast_RV is not None:
            logits_RV.copy_(e_RV)
    return found.loss, found.metrics


class RowParts(NamedTuple):
    """What is known of rows before their sums, [R] each, over all processes.

    The target's logit, the largest other logit (0 if there is none), whether they are not those of
    a distribution, and whether the target is the argmax (None if not asked for).
    """

    z_x: Tensor
    largest: Tensor
    is_broken: Tensor
    is_top1: Tensor | None


class FinishedRows(NamedTuple):
    """Losses [R] and metrics, and what the gradient is made of: `factor` is of all of `rates`."""

    loss: Tensor
    metrics: dict[str, Tensor]
    rates: _Rates
    sum: Tensor
    factor: Tensor | float


def finish_rows(
    options: LossOptions,
    tokens: WholeVocabulary,
    weights_R: Tensor | None,
    parts: RowParts,
    sums: list[Tensor],
    rank_R: list[Tensor],
    place_R: list[Tensor],
) -> FinishedRows:
    """Everything about rows that follows from sums over their logits.

    Args:
        options: those of the loss.
        tokens: the vocabulary, over which the sums are summed.
        weights_R: the weights of the tokens.
        parts: the parts of the rows.
        sums: Σ e of the head and of the rest, and Σ e·ln e of the head and, if it is needed, of the
            rest; in this process.
        rank_R: how many tokens of this process come before the target, if that is asked for.
        place_R: whether the head set holds the target in this process, if that is needed.
    """
    shape = options.shape
    z_x_R, max_R, is_broken_R, is_top1_R = parts
    rest_is_head = shape.top_k >= tokens.vocabulary
    head_sum_R, rest_sum_R, head_dot_R, *rest_dot_R = tokens.total(*sums, *rank_R, *place_R)
    is_in_head_R = (rest_dot_R.pop() > 0) | rest_is_head if place_R else None
    target_rank_R = rest_dot_R.pop() if rank_R else None
    sum_R = head_sum_R + rest_sum_R
    alone_R = sum_R == 0
    # The largest e_j is 1, so this changes only a target without a competitor.
    sum_R.clamp_(min=1)
    delta_R = (
        ((z_x_R - max_R) - sum_R.log())
        .masked_fill_(alone_R, torch.inf)
        .masked_fill_(is_broken_R, torch.nan)
    )
    target = target_terms(delta_R, shape)
    # Of the two sums, the one that adds a number of at most ln 2 to the logit of the larger part.
    lse_R = torch.where(delta_R >= 0, z_x_R + target.nll, max_R + sum_R.log() + target.minus_log_q)

    def minus_p_log_p(share_R: Tensor, dot_R: Tensor) -> Tensor:
        u_entropy_R = share_R * sum_R.log() - dot_R / sum_R
        return target.minus_q_log_q * share_R + target.q * u_entropy_R

    head_R, rest_R = head_sum_R / sum_R, rest_sum_R / sum_R
    rest_entropy_R = minus_p_log_p(rest_R, rest_dot_R[0]) if rest_dot_R else None
    others = _Others(head_R, rest_R, minus_p_log_p(head_R, head_dot_R), rest_entropy_R)
    if is_in_head_R is not None:
        target = weighted(
            target, _entropy_weight(target, others, is_in_head_R, shape, rest_is_head)
        )
    rest_rate = _rest_rate(shape, tokens.vocabulary)
    loss_R = target.loss + shape.lambda_head * others.head_entropy
    if others.rest_entropy is not None:
        loss_R = loss_R + rest_rate * others.rest_entropy
    if options.z_loss:
        loss_R = loss_R + options.z_loss * lse_R.square()
    if shape.loss_temperature != 1:
        loss_R = loss_R * shape.loss_temperature
    if weights_R is not None:
        loss_R = loss_R * weights_R
    metrics = _metrics(
        options.metrics, target, others, is_top1_R, target_rank_R, rest_is_head, lse_R
    )
    factor = options.logit_scale if weights_R is None else options.logit_scale * weights_R
    pull_R = 2 * options.z_loss * lse_R if options.z_loss else None
    rates = _rates(target, others, shape.lambda_head, rest_rate, pull_R)
    return FinishedRows(loss_R, metrics, rates, sum_R, factor)


def _rest_rate(shape: RewardShape, V: int) -> float:
    """The reward of the tokens outside the head set; of all others if there is no tail."""
    return shape.lambda_head if shape.top_k >= V else shape.lambda_tail


def needs_head(options: LossOptions, V: int) -> bool:
    """Whether the head set matters, for a vocabulary of V tokens."""
    shape = options.shape
    mass = "head_mass" in options.metrics or "tail_mass" in options.metrics
    looks = shape.lambda_head != shape.lambda_tail or mass or shape.positive == "entropy"
    return shape.top_k < V and looks


def _transform(z_RV: Tensor, options: LossOptions, scratch: Scratch) -> Tensor | None:
    """Scale and softcap `z_RV` in place; return the softcap's slope 1 − tanh², or None.

    The loss is T times that of z/T, so that T has no part in the gradient.
    """
    slope_RV = None
    if options.logit_scale != 1:
        z_RV.mul_(options.logit_scale)
    if options.softcap is not None and scratch.slope_RV is not None:
        z_RV.div_(options.softcap).tanh_()
        slope_RV = torch.square(z_RV, out=scratch.slope_RV[: z_RV.shape[0]]).neg_().add_(1)
        z_RV.mul_(options.softcap)
    if options.shape.loss_temperature != 1:
        z_RV.div_(options.shape.loss_temperature)
    return slope_RV


def _entropy_weight(
    target: TargetTerms,
    others: _Others,
    is_in_head_R: Tensor,
    shape: RewardShape,
    rest_is_head: bool,
) -> Tensor:
    """`entropy_weight`, where without a tail the rest is the head."""
    if not rest_is_head:
        head = (others.head_share, others.rest_share, others.head_entropy)
    else:
        assert others.rest_entropy is not None
        head = (others.rest_share, others.head_share, others.rest_entropy)
    return entropy_weight(target, is_in_head_R, *head, shape.top_k)


class _Rates(NamedTuple):
    """The gradient of the rest and of the head as multiples of e/s, and at the target; [R] each."""

    rest: Tensor
    head: Tensor
    target: Tensor


def _rates(
    target: TargetTerms,
    others: _Others,
    head_rate: float,
    rest_rate: float,
    pull_R: Tensor | None,
) -> _Rates:
    """The gradient is p_j·(R − r_j) for the others, and −(wq − p·S) at the target.

    S is the mean reward of the other tokens. `pull_R`, if there is one, is the derivative of the
    z-loss with respect to the logsumexp, which adds p_j·pull everywhere: it acts like a part of S.
    """
    S_R = target.q * (head_rate * others.head_share + rest_rate * others.rest_share)
    if pull_R is not None:
        S_R = S_R + pull_R
    return _Rates(
        rest=target.wq + target.q * (S_R - rest_rate),
        head=target.wq + target.q * (S_R - head_rate),
        target=target.p * S_R - target.wq,
    )


def _write_gradient(
    e_RV: Tensor, e_RK: Tensor, ids_RK: Tensor, x_R1: Tensor, found: FinishedRows
) -> None:
    """Overwrite `e_RV` with the gradient."""
    rates, scale_R = found.rates, found.factor / found.sum
    e_RV.mul_((rates.rest * scale_R)[:, None])
    e_RV.scatter_(-1, ids_RK, e_RK * (rates.head * scale_R)[:, None])
    # Last: the head may hold the target.
    e_RV.scatter_(-1, x_R1, (found.factor * rates.target)[:, None])


def _metrics(
    names: tuple[str, ...],
    target: TargetTerms,
    others: _Others,
    is_top1_R: Tensor | None,
    target_rank_R: Tensor | None,
    rest_is_head: bool,
    lse_R: Tensor,
) -> dict[str, Tensor]:
    """The metrics in `names`: entropy in nats, masses without the target."""
    metrics: dict[str, Tensor] = {}
    for name in names:
        if name == "nll":
            metrics[name] = target.nll
        elif name == "target_prob":
            metrics[name] = target.p
        elif name == "logsumexp":
            metrics[name] = lse_R
        elif name == "head_mass":
            metrics[name] = target.q * (others.rest_share if rest_is_head else others.head_share)
        elif name == "tail_mass":
            metrics[name] = target.q * (others.head_share if rest_is_head else others.rest_share)
        elif name == "entropy":
            assert others.rest_entropy is not None
            metrics[name] = target.minus_p_log_p + others.head_entropy + others.rest_entropy
        elif name == "target_rank":
            assert target_rank_R is not None
            metrics[name] = target_rank_R.masked_fill(target.nll.isnan(), torch.nan)
        else:
            assert name == "is_top1"
            assert is_top1_R is not None
            metrics[name] = is_top1_R.to(target.p.dtype).masked_fill_(target.nll.isnan(), torch.nan)
    return metrics
