"""The loss as operators of torch.library, so that `torch.compile` takes each call as one node.

`linear_loss` returns the sum and its gradients, which its backward multiplies by the incoming
factor. `linear_losses` returns losses per token, and its backward calls `linear_loss`. Arguments of
an operator are tensors and plain numbers; so options are taken apart before and put together after.

Dimensions: N tokens, D hidden, V vocabulary, M metrics.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .chunked import RowStep, compute_dtype, run_chunks
from .rows import TorchRows
from .shape import LossOptions, RewardShape
from .targets import Targets
from .triton_rows import TritonRows, choose

# A copy that the Hub's `kernels` library loads has another package name, and so other operators.
_NAMESPACE = re.sub(r"\W", "_", __package__ or "shaped_kernels")
_OF_SHAPE = ("beta", "lambda_head", "lambda_tail", "alpha", "threshold", "loss_temperature")
_TENSORS = "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? token_weights"
_SETTINGS = (
    "float[] of_shape, int top_k, str positive, float logit_scale, float? softcap, float z_loss, "
    "str metrics, float? chunk_mb, ScalarType? accum_dtype, int ignore_index, str impl, "
    "ScalarType dtype, bool[] needs"
)


class _Settings(NamedTuple):
    """The arguments of an operator besides its tensors, in the order of `_SETTINGS`.

    Attributes:
        of_shape: the fields of the shape that are named in `_OF_SHAPE`.
        metrics: their names, with commas between them.
        dtype: that of the matmuls.
        needs: whether hidden states, weight and bias need a gradient.
    """

    of_shape: list[float]
    top_k: int
    positive: str
    logit_scale: float
    softcap: float | None
    z_loss: float
    metrics: str
    chunk_mb: float | None
    accum_dtype: torch.dtype | None
    ignore_index: int
    impl: str
    dtype: torch.dtype
    needs: list[bool]

    @classmethod
    def of(cls, arguments: tuple[Any, ...]) -> _Settings:
        """The settings among all `arguments` of an operator: they are the last."""
        return cls(*arguments[-len(cls._fields) :])

    def names(self) -> tuple[str, ...]:
        return tuple(self.metrics.split(",")) if self.metrics else ()

    def options(self) -> LossOptions:
        of_shape = dict(zip(_OF_SHAPE, self.of_shape, strict=True))
        return LossOptions(
            RewardShape(top_k=self.top_k, positive=self.positive, **of_shape),
            self.logit_scale,
            self.softcap,
            self.names(),
            self.chunk_mb,
            self.accum_dtype,
            z_loss=self.z_loss,
        )


def operator_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    token_weights_N: Tensor | None,
    options: LossOptions,
    ignore_index: int,
    impl: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As from `chunked_loss`; `impl` is "auto", "chunked" or "triton"."""
    inputs = (hidden_ND, weight_VD, bias_V)
    needs = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs]
    shape = options.shape
    settings = _Settings(
        [float(getattr(shape, name)) for name in _OF_SHAPE],
        shape.top_k,
        shape.positive,
        options.logit_scale,
        options.softcap,
        options.z_loss,
        ",".join(options.metrics),
        options.chunk_mb,
        options.accum_dtype,
        ignore_index,
        impl,
        compute_dtype(hidden_ND),
        needs,
    )
    if options.per_token:
        loss, metrics_MN = _linear_losses(*inputs, targets_N, token_weights_N, *settings)
    else:
        loss, metrics_MN, *_ = _linear_loss(*inputs, targets_N, token_weights_N, None, *settings)
    values = zip(options.metrics, metrics_MN.detach().unbind(), strict=True)
    return loss, dict(values)


def _run(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    token_weights_N: Tensor | None,
    factors_N: Tensor | None,
    settings: _Settings,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Losses [N], metrics [M, N] and gradients; losses are multiplied by `factors_N` as well."""
    targets = Targets(targets_N, settings.ignore_index, weight_VD.shape[0], token_weights_N)
    if factors_N is not None:
        targets = targets.times(factors_N)
    is_triton = choose(settings.impl, weight_VD) == "triton"
    row_step: type[RowStep] = TritonRows if is_triton else TorchRows
    return run_chunks(
        *(hidden_ND, weight_VD, bias_V, targets, settings.options()),
        *(row_step, settings.dtype, tuple(settings.needs)),
    )


@torch.library.custom_op(
    f"{_NAMESPACE}::linear_loss",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor? factors, {_SETTINGS}) -> ({', '.join(5 * ['Tensor'])})",
)
def _linear_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    token_weights_N: Tensor | None,
    factors_N: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """The summed loss, metrics [M, N], and gradients for a factor of 1; empty if not needed."""
    tensors = (hidden_ND, weight_VD, bias_V, targets_N, token_weights_N, factors_N)
    loss_N, metrics_MN, grads = _run(*tensors, _Settings(*settings))
    return loss_N.sum(), metrics_MN, *(hidden_ND.new_empty(0) if g is None else g for g in grads)


@_linear_loss.register_fake
def _(hidden_ND: Tensor, weight_VD: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    settings = _Settings.of(arguments)
    loss_N, metrics_MN = _empty_losses(hidden_ND, settings)
    sums = settings.accum_dtype or loss_N.dtype
    grads = (
        torch.empty_like(hidden_ND, dtype=settings.dtype),
        torch.empty_like(weight_VD, dtype=sums),
        weight_VD.new_empty(weight_VD.shape[0], dtype=sums),
    )
    kept = (
        grad if need else hidden_ND.new_empty(0)
        for grad, need in zip(grads, settings.needs, strict=True)
    )
    return loss_N.sum(), metrics_MN, *kept


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.needs = inputs[-1]
    ctx.dtypes = [None if t is None else t.dtype for t in inputs[:3]]
    ctx.count = len(inputs)
    ctx.save_for_backward(*output[2:])


def _scale_gradients(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    kept = zip(ctx.saved_tensors, ctx.dtypes, ctx.needs, strict=True)
    grads = [(grad_loss * grad).to(dtype) if need else None for grad, dtype, need in kept]
    return *grads, *[None] * (ctx.count - len(grads))


_linear_loss.register_autograd(_scale_gradients, setup_context=_save_gradients)


@torch.library.custom_op(
    f"{_NAMESPACE}::linear_losses",
    mutates_args=(),
    schema=f"({_TENSORS}, {_SETTINGS}) -> (Tensor, Tensor)",
)
def _linear_losses(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    token_weights_N: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Losses [N] and metrics [M, N], without gradients."""
    tensors = (hidden_ND, weight_VD, bias_V, targets_N, token_weights_N, None)
    return _run(*tensors, _Settings(*settings)._replace(needs=[False] * 3))[:2]


@_linear_losses.register_fake
def _(hidden_ND: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _empty_losses(hidden_ND, _Settings.of(arguments))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.settings = _Settings.of(inputs)
    ctx.save_for_backward(*inputs[: -len(ctx.settings)])


def _gradients_again(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    tensors, settings = ctx.saved_tensors, ctx.settings._replace(metrics="")  # they are known
    _, _, *grads = _linear_loss(*tensors, grad_N, *settings)
    kept = zip(grads, tensors[:3], settings.needs, strict=True)
    given = [grad.to(tensor.dtype) if need else None for grad, tensor, need in kept]
    return *given, *[None] * (len(tensors) + len(settings) - len(given))


_linear_losses.register_autograd(_gradients_again, setup_context=_save_inputs)


def _empty_losses(hidden_ND: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
    """Losses [N] and metrics [M, N] without values."""
    exact_dtype = torch.promote_types(settings.dtype, torch.float32)
    loss_N = hidden_ND.new_empty(hidden_ND.shape[0], dtype=exact_dtype)
    return loss_N, loss_N.new_empty(len(settings.names()), hidden_ND.shape[0])
