"""`shaped_linear_loss`, the one public function. Its implementation is an argument.

Dimensions: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .chunked import chunked_loss
from .operators import operator_loss
from .reference import reference_loss
from .shape import LossOptions, RewardShape
from .targets import Targets
from .triton_rows import choose, keeps_shards, triton_loss
from .vocab_parallel import is_dtensor, local_tensors

Implementation = Callable[
    [Tensor, Tensor, Tensor | None, Targets, LossOptions], tuple[Tensor, dict[str, Tensor]]
]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": reference_loss,
    "chunked": chunked_loss,
    "triton": triton_loss,
}
_CROSS_ENTROPY = RewardShape()
METRICS = (
    "nll",
    "entropy",
    "target_prob",
    "head_mass",
    "tail_mass",
    "is_top1",
    "target_rank",
    "logsumexp",
)
REDUCTIONS = ("sum", "mean", "none")


class ShapedLossOutput(NamedTuple):
    """The result of `shaped_linear_loss`.

    `loss` is a scalar, or has the shape of `targets` with `reduction="none"`. The other fields have
    the shape of `targets`, carry no gradient, and are None unless they are named in `metrics`. All
    are 0 at ignored positions. All are fp32, or float64 for float64 input.
    """

    loss: Tensor
    nll: Tensor | None = None
    entropy: Tensor | None = None
    target_prob: Tensor | None = None
    head_mass: Tensor | None = None
    tail_mass: Tensor | None = None
    is_top1: Tensor | None = None
    target_rank: Tensor | None = None
    logsumexp: Tensor | None = None


def shaped_linear_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    shape: RewardShape = _CROSS_ENTROPY,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    token_weights: Tensor | None = None,
    z_loss: float = 0.0,
    reduction: str = "sum",
    ignore_index: int = -100,
    metrics: tuple[str, ...] = (),
    impl: str = "auto",
    chunk_mb: float | None = None,
    accum_dtype: torch.dtype | None = None,
) -> ShapedLossOutput:
    """Reward-shaped next-token loss of a linear head (arXiv 2512.22955, Eq. 10–13).

    The loss of a token is `token_weights`·(shaped loss + `z_loss`·logsumexp(z)²). The logits are
    z = hidden @ weight.T + bias, times `logit_scale`, then softcap·tanh(z/softcap) if there is a
    `softcap`. The defaults are `F.cross_entropy(z, targets, reduction="sum")`.

    Args:
        hidden: [..., D] hidden states, for example [N, D] or [B, T, D].
        weight: [V, D] head weight, in the dtype of `hidden` (any under autocast).
        targets: [...] token ids, already shifted, in the leading shape of `hidden`.
        shape: the rewards.
        bias: [V] or None. −inf removes a token from the vocabulary (unless there is a softcap).
        logit_scale: a multiplier of the logits, above 0.
        softcap: the bound of the softcap, above 0, or None.
        token_weights: [...] the factor of each token's whole loss, z-loss included; floating-point,
            finite, without a gradient, in the shape of `targets`. Negative ones are allowed. None
            means 1. Metrics are not weighted.
        z_loss: the weight of the squared logsumexp of the logits, at least 0 (PaLM,
            arXiv 2204.02311, section 5, has 1e-4).
        reduction: "sum" over the targets that are not ignored; "mean", the sum divided by their
            number (never by the sum of the weights); or "none", the loss of each token, which takes
            a gradient for each. The last computes the logits a second time in the backward.
        ignore_index: targets with this value are ignored.
        metrics: per-token values to return, from `METRICS`: nll and entropy (nats), target_prob,
            head_mass and tail_mass (probability inside and outside the top k, without the target),
            is_top1 (1 if the target is the argmax), and target_rank (the number of tokens before
            the target, that is with a larger logit, or an equal one and a lower id; it costs one
            more pass over the logits), and logsumexp (of the logits). Ties go to the lowest id.
        impl: "reference" (full logits, autograd), "chunked" (torch), "triton" (CUDA), or "auto":
            "triton" on a CUDA device that supports it, otherwise "chunked".
        chunk_mb: MiB of logits that "chunked" and "triton" hold at a time. None means 256 rows but
            at most 256 MiB, and on CUDA 640 MiB, or up to 970 if 5 chunks are then enough.
        accum_dtype: dtype in which they sum the weight's gradient over chunks. None means fp32
            (float64 for float64). The weight's own bf16 saves memory, but rounds each partial sum.
            The finished sum is rounded to the weight's dtype, unless `weight.grad_dtype` (torch
            2.10) is torch.float32; under `torch.compile` it always is.

    Returns:
        `ShapedLossOutput`. Without a valid target, a sum or mean is a differentiable 0. If the
        logits of a token contain NaN or +inf, or only −inf, its loss, metrics and gradient are NaN.

    `weight` and `bias` may be DTensors. All processes of their mesh must then call it with the same
    `hidden` and `targets`. Each gets the whole loss, the whole gradient of `hidden`, and the
    gradient of its own part of the head. With "chunked" (and "auto"), a head that is sharded by
    rows over one mesh dimension stays sharded. Any other head is gathered, as by
    `weight.full_tensor()`.

    Raises:
        ValueError: an argument is out of range, a target is outside the vocabulary, a token's
            weight is not finite, or only one of weight and bias is a DTensor.
        RuntimeError: "chunked" and "triton" allow neither a second backward through a sum or mean
            nor a double backward.

    Under `torch.compile` a call is one operator, also with `fullgraph=True`. Only "reference" and
    DTensors break the graph.

    On CUDA, the host reads the number of valid targets while the first chunk is running, so that
    the device does not wait.
    """
    _check_tensors(hidden, weight, targets, bias)
    options = LossOptions(
        shape,
        float(logit_scale),
        softcap,
        tuple(metrics),
        chunk_mb,
        accum_dtype,
        z_loss=z_loss,
        per_token=reduction == "none",
    )
    _check_options(options, metrics, weight.dtype)
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is not available; use auto, {', '.join(IMPLEMENTATIONS)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is unknown; use one of {', '.join(REDUCTIONS)}")
    if token_weights is not None:
        _check_token_weights(token_weights, targets)
        exact_dtype = torch.promote_types(hidden.dtype, torch.float32)
        token_weights = token_weights.reshape(-1).to(hidden.device, exact_dtype)
    targets_N = targets.reshape(-1).long()
    # In a graph of torch.compile, a plain head is one operator. Others break the graph, since
    # tracing them would be in vain.
    is_plain = impl != "reference" and not (is_dtensor(hidden) or is_dtensor(weight))
    compute = operator_loss if torch.compiler.is_compiling() and is_plain else _run
    loss, values_N = compute(
        hidden.reshape(targets.numel(), hidden.shape[-1]),
        *(weight, bias, targets_N, token_weights, options, ignore_index, impl),
    )
    if reduction == "mean":
        loss = loss / (targets_N != ignore_index).sum().clamp(min=1)
    elif reduction == "none":
        loss = loss.view(targets.shape)
    return ShapedLossOutput(
        loss, **{name: value.view(targets.shape) for name, value in values_N.items()}
    )


@torch.compiler.disable
def _run(
    hidden_ND: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets_N: Tensor,
    token_weights_N: Tensor | None,
    options: LossOptions,
    ignore_index: int,
    impl: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the implementation `impl`; weight and bias may be DTensors."""
    targets = Targets(targets_N, ignore_index, weight.shape[0], token_weights_N)
    hidden_ND, weight, bias, shard = local_tensors(
        hidden_ND, weight, bias, keep_shards=keeps_shards(impl, options.softcap)
    )
    # The row step in torch is the one that was measured on shards.
    chosen = "chunked" if shard and impl == "auto" else choose(impl, weight)
    return IMPLEMENTATIONS[chosen](hidden_ND, weight, bias, targets, options._replace(shard=shard))


def _check_tensors(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit; "
            "they must be [..., D] and [V, D]"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be that of hidden without the last "
            f"dimension, {tuple(hidden.shape[:-1])}"
        )
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise ValueError(f"targets has dtype {targets.dtype}; it must hold token ids (torch.long)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; it must be [V] = {tuple(weight.shape[:1])}"
        )
    dtypes = {t.dtype for t in (hidden, weight, bias) if t is not None}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(
            "hidden, weight and bias have different dtypes "
            f"({', '.join(sorted(map(str, dtypes)))}); cast them to one, or run under "
            "torch.autocast"
        )


def _check_token_weights(token_weights: Tensor, targets: Tensor) -> None:
    if token_weights.shape != targets.shape:
        raise ValueError(
            f"token_weights has shape {tuple(token_weights.shape)}; it must be that of targets, "
            f"{tuple(targets.shape)}"
        )
    if not token_weights.is_floating_point():
        raise ValueError(
            f"token_weights has dtype {token_weights.dtype}; it must be a floating-point type, "
            "as after token_weights.float()"
        )
    if token_weights.requires_grad:
        raise ValueError(
            "token_weights has requires_grad=True, but gets no gradient; pass "
            "token_weights.detach(), or multiply the losses of reduction='none'"
        )


def _check_options(
    options: LossOptions, metrics: tuple[str, ...], weight_dtype: torch.dtype
) -> None:
    if not isinstance(options.shape, RewardShape):
        raise ValueError(
            f"shape={options.shape!r} is not a RewardShape; a preset is "
            "RewardShape.preset('precision')"
        )
    for name, value in (
        ("logit_scale", options.logit_scale),
        ("softcap", options.softcap),
        ("chunk_mb", options.chunk_mb),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} is not above 0; leave it out for the default")
    if options.z_loss and options.shape.loss_temperature != 1:
        raise ValueError(
            f"z_loss={options.z_loss!r} does not go with the shape's "
            f"loss_temperature={options.shape.loss_temperature!r}; leave one of them out"
        )
    if not (math.isfinite(options.z_loss) and options.z_loss >= 0):
        raise ValueError(f"z_loss={options.z_loss!r} is not a finite number of at least 0")
    if options.accum_dtype not in (None, torch.float32, weight_dtype):
        raise ValueError(
            f"accum_dtype={options.accum_dtype!r} is not None, torch.float32 or the weight's "
            f"{weight_dtype}"
        )
    if isinstance(metrics, str):
        raise ValueError(f"metrics={metrics!r} is a string; write metrics=({metrics!r},)")
    for name in options.metrics:
        if name not in METRICS:
            raise ValueError(
                f"metrics contains {name!r}, which is unknown; use any of {', '.join(METRICS)}"
            )
