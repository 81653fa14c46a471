"""The row step on a GPU: launches the kernels of `triton_kernels.py`.

Dimensions: V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from .chunked import RowStep, chunked_loss
from .shape import LossOptions
from .targets import Targets
from .triton_launch import Launch, choose_launch, current_trial

_FORMS = {"product": 1, "exponent": 2, "power": 3, "threshold": 4, "entropy": 5}
_LOG2_E = 1.4426950408889634
_METRIC_ROWS = {
    "nll": 1,
    "entropy": 2,
    "target_prob": 3,
    "head_mass": 4,
    "tail_mass": 5,
    "is_top1": 6,
    "target_rank": 7,
    "logsumexp": 8,
}
_MAX_VOCABULARY = 256 * 2048  # a key has 8 bits for the tile, and a tile at least 2048 lanes
_SCALE_BLOCK, _SCALE_PROGRAMS = 4096, 1024


def why_not_triton(weight: Tensor) -> str | None:
    """Why impl="triton" does not support this weight, as the end of a sentence; None if it does."""
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"does not support {weight.dtype}"
    if not weight.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"needs a CUDA device, not {weight.device.type!r} (or TRITON_INTERPRET=1, for tests)"
    if torch.version.hip:
        return "is for NVIDIA GPUs"
    if weight.shape[0] > _MAX_VOCABULARY:
        return f"supports up to {_MAX_VOCABULARY} tokens, not {weight.shape[0]}"
    return None


def choose(impl: str, weight: Tensor) -> str:
    """`impl`, or for "auto" the fastest implementation for the device and dtype of `weight`.

    Raises:
        ValueError: it is "triton", which does not support this weight.
    """
    if impl == "auto":
        return "triton" if weight.is_cuda and not why_not_triton(weight) else "chunked"
    if impl == "triton" and (reason := why_not_triton(weight)):
        raise ValueError(f"impl='triton' {reason}; use impl='chunked'")
    return impl


def keeps_shards(impl: str, softcap: float | None) -> bool:
    """Whether a head that is spread over processes stays so with this implementation."""
    return impl in ("auto", "chunked") or (
        impl == "triton" and current_trial().sharded and softcap is None
    )


def triton_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    options: LossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`chunked_loss` with one kernel launch per chunk for everything but the matmuls."""
    row_step: type[RowStep] = TritonRows
    if options.shard is not None:
        from .triton_shards import ShardedTritonRows as row_step
    return chunked_loss(hidden_ND, weight_VD, bias_V, targets, options, row_step)


class TritonRows:
    """The row step as one launch, which reads a row twice and writes it once."""

    skips_ignored = True
    row_alignment = 64

    def __init__(
        self, logits_CV: Tensor, options: LossOptions, vocabulary: int | None = None
    ) -> None:
        self._names, self._V = options.metrics, vocabulary or logits_CV.shape[1]
        self._without_tail = options.shape.top_k >= self._V
        loss_options, metric_options = options.by_temperature()
        self._loss = plan(self._V, logits_CV.dtype, loss_options)
        self._metrics = metric_options and plan(self._V, logits_CV.dtype, metric_options)

    def __call__(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        with_grad: bool,
        weights_C: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss [C] and the metrics, [C] each; overwrites `logits_CV` with its gradient."""
        # The launch for the metrics comes first, since it leaves the logits as they are.
        own_9C = self._metrics and self._launch(self._metrics, logits_CV, targets_C, None, False)
        out_9C = self._launch(self._loss, logits_CV, targets_C, weights_C, with_grad)
        metrics_9C = out_9C if own_9C is None else own_9C
        # Without a tail, the kernel's rest is the head.
        if self._without_tail:
            metrics_9C[4:6] = torch.stack([metrics_9C[5], 0 * metrics_9C[5]])  # NaN stays NaN
        return out_9C[0], [metrics_9C[_METRIC_ROWS[name]] for name in self._names]

    def _launch(
        self,
        planned: tuple[dict[str, Any], Launch],
        logits_CV: Tensor,
        targets_C: Tensor,
        weights_C: Tensor | None,
        with_grad: bool,
    ) -> Tensor:
        """What the kernel writes: [9, C]."""
        from .triton_kernels import shape_rows

        (arguments, launch), C = planned, logits_CV.shape[0]
        out_9C = torch.empty(9, C, dtype=torch.float32, device=logits_CV.device)
        scratch = None
        if arguments["GROUP"]:
            numbers = 2 * arguments["GROUPS"] + 2 * arguments["SLOTS"]
            scratch = torch.empty(C, numbers, dtype=torch.int32, device=logits_CV.device)
        with torch.cuda.device_of(logits_CV):  # Triton launches on the current device
            shape_rows[(C,)](
                logits_CV,
                targets_C,
                # The gradient of a sum is one number that stands for all.
                None if weights_C is None else weights_C.contiguous(),
                out_9C,
                scratch,
                self._V,
                logits_CV.shape[1],
                **arguments,
                GRAD=with_grad,
                num_warps=launch.warps,
                maxnreg=launch.registers,
                enable_fp_fusion=True,
            )
        return out_9C

    @staticmethod
    def scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """`gradient` times the scalar `factor`, in `dtype`; in place if that is its own dtype.

        A factor of 1 costs nothing.
        """
        from .triton_kernels import scale

        scaled = gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype)
        if gradient.numel():
            programs = min(-(-gradient.numel() // _SCALE_BLOCK), _SCALE_PROGRAMS)
            in_place = scaled is gradient
            with torch.cuda.device_of(gradient):
                scale[(programs,)](
                    gradient,
                    scaled,
                    factor,
                    gradient.numel(),
                    IN_PLACE=in_place,
                    BLOCK=_SCALE_BLOCK,
                    enable_fp_fusion=True,
                )
        return scaled


def plan(V: int, dtype: torch.dtype, options: LossOptions) -> tuple[dict[str, Any], Launch]:
    """The kernel's arguments without the tensors, V and GRAD, and the launch."""
    shape, names = options.shape, options.metrics
    rest_is_head = shape.top_k >= V
    lambda_rest = shape.lambda_head if rest_is_head else shape.lambda_tail
    mass = "head_mass" in names or "tail_mass" in names
    by_entropy = shape.positive == "entropy"
    looks = shape.lambda_head != shape.lambda_tail or mass or by_entropy
    head = not rest_is_head and looks
    scale = 1.0 if options.softcap is not None else options.logit_scale
    launch = choose_launch(dtype, shape.top_k if head else 0)
    if options.softcap is not None and not head:
        # without a limit, Triton 3.7's compiler takes up to 69 registers, and one row has them all
        launch = launch._replace(rows=2)
    group = current_trial().group
    group = group if head and shape.top_k * 8 * group <= V else 0
    arguments = {
        "top_k": shape.top_k,
        "form": 0 if shape.weight_is_one else _FORMS[shape.positive],
        "with_top1": int("is_top1" in names),
        "with_rank": int("target_rank" in names),
        "beta": float(shape.beta),
        "alpha": float(shape.alpha),
        "min_p": float(shape.threshold),
        "lambda_head": float(shape.lambda_head),
        "lambda_rest": float(lambda_rest),
        "z_loss": float(options.z_loss),
        "temperature": float(shape.loss_temperature),
        "logit_scale": options.logit_scale,
        "softcap": options.softcap or 0.0,
        "rate": scale * _LOG2_E / shape.loss_temperature,
        "HEAD": head,
        "SUMS": head or lambda_rest != 0 or "entropy" in names or by_entropy,
        "SOFTCAP": options.softcap is not None,
        "FIVE": launch.lists == 5,
        "GROUP": group,
        # Whole tiles have maxima.
        "GROUPS": _power_of_2(-(-V // launch.lanes) * launch.lanes // group) if group else 0,
        "SLOTS": max(512, _power_of_2(4 * shape.top_k)) if group else 0,
        "LANES": launch.lanes,
        "PER": launch.per_thread,
    }
    return arguments, launch


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()
