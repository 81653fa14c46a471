"""`shaped_linear_loss`: the one public function; the implementation is an argument.

Dimensions: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .chunked import chunked_loss
from .reference import reference_loss
from .shape import LossOptions, RewardShape

Implementation = Callable[[Tensor, Tensor, Tensor | None, Tensor, LossOptions], tuple[Tensor, dict[str, Tensor]]]
IMPLEMENTATIONS: dict[str, Implementation] = {"reference": reference_loss, "chunked": chunked_loss}
_CROSS_ENTROPY = RewardShape()
METRICS = ("nll", "entropy", "target_prob", "head_mass", "tail_mass", "is_top1")


class ShapedLossOutput(NamedTuple):
    """What `shaped_linear_loss` returns.

    `loss` is a scalar. The other fields have the shape of `targets`, carry no gradient, are 0 at ignored
    positions, and are None unless named in `metrics`. All are fp32, or float64 for float64 input.
    """

    loss: Tensor
    nll: Tensor | None = None
    entropy: Tensor | None = None
    target_prob: Tensor | None = None
    head_mass: Tensor | None = None
    tail_mass: Tensor | None = None
    is_top1: Tensor | None = None


# torch.compile would break its graph at the first value read from the device and trace the rest in vain.
@torch.compiler.disable
def shaped_linear_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    shape: RewardShape = _CROSS_ENTROPY,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    metrics: tuple[str, ...] = (),
    impl: str = "auto",
    chunk_mb: float = 256.0,
) -> ShapedLossOutput:
    """Reward-shaped next-token loss of a linear head, summed over the targets (arXiv 2512.22955, Eq. 10–13).

    The logits are z = hidden @ weight.T + bias, times `logit_scale`, then softcap·tanh(z/softcap) where a
    `softcap` is given. The defaults are `F.cross_entropy(z, targets, reduction="sum")`.

    Args:
        hidden: [..., D] hidden states, for example [N, D] or [B, T, D].
        weight: [V, D] head weight, in the dtype of `hidden` (any under autocast).
        targets: [...] token ids, already shifted; the leading shape of `hidden`.
        shape: the rewards.
        bias: [V] or None. −inf removes a token from the vocabulary (unless a softcap follows).
        logit_scale: above 0.
        softcap: above 0, or None.
        ignore_index: targets equal to it count for nothing.
        metrics: per-token values to return, from `METRICS`: nll and entropy (nats), target_prob, head_mass
            and tail_mass (probability inside and outside the top k, the target not counted), is_top1 (1 where
            the target is the argmax; ties go to the lowest id).
        impl: "reference" (full logits, autograd), "chunked", or "auto": the best there is for the device.
        chunk_mb: MiB of logits held at a time by "chunked", counted in fp32 (float64 for float64).

    Returns:
        `ShapedLossOutput`. Without a valid target the loss is a differentiable 0.

    Raises:
        ValueError: an argument is out of range, or a target outside the vocabulary.
        RuntimeError: a second backward through one loss, or a double backward ("chunked").
    """
    _check_tensors(hidden, weight, targets, bias)
    options = LossOptions(shape, float(logit_scale), softcap, tuple(metrics), float(chunk_mb))
    _check_options(options, metrics)
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is not available; use auto, {', '.join(IMPLEMENTATIONS)}")
    compute_loss = IMPLEMENTATIONS["chunked" if impl == "auto" else impl]

    targets_N = targets.reshape(-1).long()
    hidden_ND = hidden.reshape(targets_N.shape[0], hidden.shape[-1])
    valid_ids = _valid_ids(targets_N, ignore_index, weight.shape[0])
    if valid_ids is None:
        loss, values_N = compute_loss(hidden_ND, weight, bias, targets_N, options)
    else:
        # Ignored rows leave before the matmul; autograd puts zeros in their place.
        hidden_ND = hidden_ND.index_select(0, valid_ids)
        loss, values = compute_loss(hidden_ND, weight, bias, targets_N[valid_ids], options)
        zeros_N = loss.new_zeros(targets_N.shape)
        values_N = {name: zeros_N.index_copy(0, valid_ids, value) for name, value in values.items()}
    return ShapedLossOutput(loss, **{name: value.view(targets.shape) for name, value in values_N.items()})


def _valid_ids(targets_N: Tensor, ignore_index: int, vocabulary: int) -> Tensor | None:
    """Positions that count, or None where all do. One wait for the device answers both questions."""
    is_valid_N = targets_N != ignore_index
    is_bad_N = is_valid_N & ((targets_N < 0) | (targets_N >= vocabulary))
    valid, bad = torch.stack([is_valid_N.sum(), is_bad_N.sum()]).tolist()
    if bad:
        raise ValueError(
            f"targets holds {targets_N[is_bad_N][0].item()}, outside the vocabulary [0, {vocabulary}); "
            f"mark what is to be skipped with ignore_index={ignore_index}"
        )
    return None if valid == targets_N.shape[0] else is_valid_N.nonzero().squeeze(-1)


def _check_tensors(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit; "
            "they must be [..., D] and [V, D]"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be hidden's without its last "
            f"dimension, {tuple(hidden.shape[:-1])}"
        )
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise ValueError(f"targets has dtype {targets.dtype}; it must hold token ids (torch.long)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be [V] = {tuple(weight.shape[:1])}")
    dtypes = {t.dtype for t in (hidden, weight, bias) if t is not None}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(
            f"hidden, weight and bias have different dtypes ({', '.join(sorted(map(str, dtypes)))}); "
            "cast them to one, or run under torch.autocast"
        )


def _check_options(options: LossOptions, metrics: tuple[str, ...]) -> None:
    if not isinstance(options.shape, RewardShape):
        raise ValueError(f"shape={options.shape!r} is not a RewardShape; a preset is RewardShape.preset('precision')")
    for name, value in (
        ("logit_scale", options.logit_scale),
        ("softcap", options.softcap),
        ("chunk_mb", options.chunk_mb),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} is not above 0; leave it out for the default")
    if isinstance(metrics, str):
        raise ValueError(f"metrics={metrics!r} is one string; write metrics=({metrics!r},)")
    for name in options.metrics:
        if name not in METRICS:
            raise ValueError(f"metrics holds {name!r}, which is unknown; use any of {', '.join(METRICS)}")
