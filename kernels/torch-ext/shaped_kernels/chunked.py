"""The shaped loss of a linear head in chunks of rows, without an [N, V] tensor.

Gradients of a sum are computed in the forward. A matmul computes the logits of a chunk. A row step
(`TorchRows`, or `TritonRows` on a GPU) turns them into loss, metrics and, in place, their gradient.
Two more matmuls carry this gradient to the hidden states and to the weight. The gradients of losses
per token need the factor that comes back for each, so that they are computed in the backward.

Dimensions: N tokens, D hidden, V vocabulary, C rows of a chunk, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rows import TorchRows
from .shape import LossOptions
from .targets import Rows, Targets, count_rows, take_rows

# The most MiB of logits, and the most rows, that are held at a time. On a CPU, more rows than this
# make no matmul faster, and logits that are still in the cache do.
_CPU_CHUNK_MB, _CPU_ROWS = 256, 256
# On a GPU, a few large matmuls are fast, and a sum in fp32 is read and written once per chunk. So a
# chunk may take up to the larger amount if this number of chunks is then enough.
_CUDA_CHUNK_MB, _CUDA_MOST_MB, _CUDA_CHUNKS = 640, 970, 5
# A GPU's matmul works in tiles, so that rows beyond a multiple of this cost a whole tile.
_CUDA_TILE_ROWS = 128


class RowStep(Protocol):
    """Turns the logits of a chunk into loss, metrics and gradient."""

    skips_ignored: bool
    """Whether it accepts rows with the target −1, and gives them loss, metrics and gradient 0."""

    row_alignment: int
    """The width of the logits buffer is a multiple of this; columns beyond the vocabulary are free.
    """

    def __init__(
        self, logits_CV: Tensor, options: LossOptions, vocabulary: int | None = None
    ) -> None: ...

    def __call__(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        with_grad: bool,
        weights_C: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss [C] and the metrics of `options.metrics`, [C] each.

        Loss and gradient are multiplied by `weights_C`; None stands for 1. Overwrites `logits_CV`
        with its gradient.
        """
        ...

    @staticmethod
    def scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """`gradient` times the scalar `factor` in `dtype`; may overwrite it."""
        ...


def chunked_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    options: LossOptions,
    row_step: type[RowStep] = TorchRows,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed loss, and the metrics of the options as [N] tensors, like `reference_loss`.

    With `options.per_token` the losses are an [N] tensor, 0 at ignored positions.

    Half-precision inputs stay in their dtype for the matmuls. Everything else is fp32, also the
    accumulated weight gradient unless `options.accum_dtype` is set. float64 stays float64. Under
    autocast, the matmuls run in its dtype.

    Raises:
        RuntimeError: a second backward through the same summed loss, or a double backward.
    """
    dtype = compute_dtype(hidden_ND)
    inputs = (hidden_ND, weight_VD, bias_V)
    # ctx.needs_input_grad does not help, since it is true under no_grad as well.
    needs = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs)
    if any(needs):
        function = _LossPerToken if options.per_token else _ChunkedLoss
        loss, metrics_MN = function.apply(*inputs, targets, options, row_step, dtype, needs)
    else:
        loss, metrics_MN, _ = run_chunks(*inputs, targets, options, row_step, dtype, needs)
        if not options.per_token:
            loss = loss.sum()
    return loss, dict(zip(options.metrics, metrics_MN.unbind(), strict=True))


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients for an incoming gradient of 1; the backward scales them in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets: Targets,
        options: LossOptions,
        row_step: type[RowStep],
        dtype: torch.dtype,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        loss_N, metrics_MN, grads = run_chunks(
            hidden_ND, weight_VD, bias_V, targets, options, row_step, dtype, needs
        )
        ctx.grad_dtypes = [_grad_dtype(t) for t in (hidden_ND, weight_VD, bias_V)]
        ctx.used, ctx.row_step = False, row_step
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(metrics_MN)
        return loss_N.sum(), metrics_MN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.used:
            raise RuntimeError(
                "the first backward has used up the gradients of this shaped_linear_loss; "
                "compute the loss again for a second backward"
            )
        ctx.used = True
        grads = [
            None if grad is None else ctx.row_step.scale(grad, grad_loss, dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.grad_dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


class _LossPerToken(torch.autograd.Function):
    """Losses [N]. The backward computes the logits again, and so allows any number of calls."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets: Targets,
        options: LossOptions,
        row_step: type[RowStep],
        dtype: torch.dtype,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        inputs = (hidden_ND, weight_VD, bias_V)
        no_gradient = (False,) * len(inputs)
        loss_N, metrics_MN, _ = run_chunks(*inputs, targets, options, row_step, dtype, no_gradient)
        ctx.save_for_backward(*inputs)
        # The metrics are known, and computing them again would cost time.
        ctx.arguments = (options._replace(metrics=()), row_step, dtype, needs)
        ctx.targets, ctx.grad_dtypes = targets, [_grad_dtype(t) for t in inputs]
        ctx.mark_non_differentiable(metrics_MN)
        return loss_N, metrics_MN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V = ctx.saved_tensors
        options, row_step, dtype, needs = ctx.arguments
        targets = ctx.targets.times(grad_N)
        result = run_chunks(hidden_ND, weight_VD, bias_V, targets, options, row_step, dtype, needs)
        grads = [
            None if grad is None else grad.to(dtype)
            for grad, dtype in zip(result[-1], ctx.grad_dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


class _Gradients:
    """The gradients that are needed, summed over chunks; the others are None."""

    def __init__(
        self, hidden_ND: Tensor, weight_VD: Tensor, accum_dtype: torch.dtype, needs: tuple
    ) -> None:
        self._weight_VD = weight_VD
        self._first = True
        needs_hidden, needs_weight, needs_bias = needs
        # Zeros, since ignored rows may not be visited.
        self.hidden_ND = torch.zeros_like(hidden_ND) if needs_hidden else None
        self.weight_VD = torch.empty_like(weight_VD, dtype=accum_dtype) if needs_weight else None
        self.bias_V = (
            weight_VD.new_zeros(weight_VD.shape[0], dtype=accum_dtype) if needs_bias else None
        )

    def add(self, dz_CV: Tensor, hidden_CD: Tensor, rows: Rows, ignored_C: Tensor | None) -> None:
        """Add the share of the positions `rows`: logit gradient `dz_CV`, hidden states `hidden_CD`.

        `ignored_C` says which of them are ignored, None that none is. Their logit gradient is 0,
        but 0 times NaN would be NaN.
        """
        if self.hidden_ND is not None:
            if isinstance(rows, slice):
                torch.mm(dz_CV, self._weight_VD, out=self.hidden_ND[rows])
                if ignored_C is not None:
                    self.hidden_ND[rows].masked_fill_(ignored_C[:, None], 0)
            else:
                self.hidden_ND.index_copy_(0, rows, torch.mm(dz_CV, self._weight_VD))
        if self.weight_VD is not None:
            if ignored_C is not None:
                hidden_CD = hidden_CD.masked_fill(ignored_C[:, None], 0)
            self._add_weight(self.weight_VD, dz_CV.t(), hidden_CD)
        if self.bias_V is not None:
            self.bias_V += dz_CV.sum(0, dtype=self.bias_V.dtype)
        self._first = False

    def _add_weight(self, sum_VD: Tensor, dz_VC: Tensor, hidden_CD: Tensor) -> None:
        # Rounding the product of each chunk to half precision before the sum would bias training.
        if dz_VC.dtype != sum_VD.dtype and not sum_VD.is_cuda:
            dz_VC, hidden_CD = dz_VC.to(sum_VD.dtype), hidden_CD.to(sum_VD.dtype)
        # Only CUDA's matmul can sum in another dtype. The first chunk overwrites the sum, which
        # saves a pass over [V, D].
        mixed: dict[str, Any] = {} if dz_VC.dtype == sum_VD.dtype else {"out_dtype": sum_VD.dtype}
        if self._first:
            torch.mm(dz_VC, hidden_CD, out=sum_VD, **mixed)
        else:
            torch.addmm(sum_VD, dz_VC, hidden_CD, out=sum_VD, **mixed)

    def sums(self) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states, weight and bias; None if not needed."""
        if self._first and self.weight_VD is not None:
            self.weight_VD.zero_()
        return self.hidden_ND, self.weight_VD, self.bias_V


def run_chunks(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    options: LossOptions,
    row_step: type[RowStep],
    dtype: torch.dtype,
    needs: tuple[bool, ...],
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Losses [N], metrics [M, N] in the order of `options.metrics`, and the needed gradients.

    `dtype` is that of the matmuls.
    """
    device = hidden_ND.device.type
    with torch.autocast(device, enabled=False):
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
        exact_dtype = torch.promote_types(dtype, torch.float32)
        V = weight_VD.shape[0]
        # A shard's buffer has spare columns, so that its width is the same in all processes.
        width = V + -V % row_step.row_alignment if options.shard is None else options.shard.width
        C = _even_rows(
            len(targets), _most_rows(len(targets), width, weight_VD, options.chunk_mb), device
        )
        logits_CV = hidden_ND.new_empty(C, width)
        step = row_step(logits_CV, options, V)
        grads = _Gradients(hidden_ND, weight_VD, options.accum_dtype or exact_dtype, needs)
        loss_N = hidden_ND.new_zeros(len(targets), dtype=exact_dtype)
        metrics_MN = loss_N.new_zeros(len(options.metrics), len(targets))
        for rows in _chunks(targets, C, row_step.skips_ignored, device):
            hidden_CD, row_CV = hidden_ND[rows], logits_CV[: count_rows(rows)]
            dz_CV = row_CV[:, :V]
            if bias_V is None:
                torch.mm(hidden_CD, weight_VD.t(), out=dz_CV)
            else:
                torch.addmm(bias_V, hidden_CD, weight_VD.t(), out=dz_CV)
            loss_N[rows], metrics = step(
                row_CV, targets.ids_N[rows], any(needs), targets.weights_of(rows)
            )
            for metric_N, metric_C in zip(metrics_MN.unbind(), metrics, strict=True):
                metric_N[rows] = metric_C
            may_ignore = row_step.skips_ignored and isinstance(rows, slice)
            grads.add(dz_CV, hidden_CD, rows, targets.ids_N[rows] < 0 if may_ignore else None)
        if options.shard is not None and grads.hidden_ND is not None:
            options.shard.sum_gradient(grads.hidden_ND)
        return loss_N, metrics_MN, grads.sums()


def _grad_dtype(tensor: Tensor | None) -> torch.dtype | None:
    """The dtype of an input's gradient: its own, or the `grad_dtype` that its owner has set."""
    if tensor is None:
        return None
    # Only a leaf has one, from torch 2.10 on. None stands for any.
    wanted = getattr(tensor, "grad_dtype", None) if tensor.is_leaf else None
    return wanted or tensor.dtype


def compute_dtype(hidden_ND: Tensor) -> torch.dtype:
    """The dtype of the matmuls: that of `hidden_ND`, or autocast's."""
    device, dtype = hidden_ND.device.type, hidden_ND.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def _chunks(targets: Targets, C: int, skips_ignored: bool, device: str) -> Iterator[Rows]:
    """Yield the positions of at most `C` valid targets at a time.

    If the row step skips ignored targets, the first chunk is simply the first `C` positions. The
    host asks for the valid ones among the rest while this chunk is running, so that the device does
    not wait.
    """
    first = C if skips_ignored else 0
    rest = targets.rows_from(first)
    if first:
        yield slice(0, first)
    rows = rest()
    start, stop = 0, count_rows(rows)
    while start < stop:
        count = _even_rows(stop - start, C, device)
        yield take_rows(rows, start, start + count)
        start += count


def _most_rows(N: int, width: int, weight_VD: Tensor, chunk_mb: float | None) -> int:
    """The most rows whose logits fit into `chunk_mb` MiB; on a GPU whole tiles; at least 1."""

    def fitting(mb: float) -> int:
        rows = int(mb * 2**20 / (width * weight_VD.dtype.itemsize))
        return (
            rows - rows % _CUDA_TILE_ROWS
            if weight_VD.is_cuda and rows > _CUDA_TILE_ROWS
            else max(1, rows)
        )

    if chunk_mb is not None:
        return fitting(chunk_mb)
    if not weight_VD.is_cuda:
        return min(fitting(_CPU_CHUNK_MB), _CPU_ROWS)
    for_few_chunks = -(-N // _CUDA_CHUNKS)
    for_few_chunks += -for_few_chunks % _CUDA_TILE_ROWS
    return max(fitting(_CUDA_CHUNK_MB), min(for_few_chunks, fitting(_CUDA_MOST_MB)))


def _even_rows(N: int, most: int, device: str) -> int:
    """Rows of the next chunk if the `N` remaining rows are spread evenly.

    A short last chunk would be a slow matmul.
    """
    rows = -(-N // max(1, -(-N // most)))
    if device == "cuda":
        rows += -rows % _CUDA_TILE_ROWS
    return min(rows, most, N)
