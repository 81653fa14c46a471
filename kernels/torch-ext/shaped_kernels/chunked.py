"""The shaped loss a few rows at a time: no [N, V] tensor, and the gradients are computed in the forward.

A chunk of rows is what a matmul sees. Inside it, blocks of rows go through the elementwise passes of
`rows.py`; on a CPU they are small enough to stay in its cache. The gradient overwrites the logits of a chunk.

Dimensions: N tokens, D hidden, V vocabulary, C rows of a chunk, R rows of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rows import Scratch, shape_rows
from .shape import LossOptions

# On a CPU a block and its scratch should fit the last-level cache; elsewhere small blocks only cost launches.
_CPU_BLOCK_MB = 8


def chunked_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    options: LossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed loss, and the metrics asked for as [N] tensors. Same contract as `reference_loss`.

    Half-precision inputs go through the matmuls as they are, everything else is fp32, the accumulated weight
    gradient included; float64 stays float64. Under autocast the matmuls run in its dtype.

    Raises:
        RuntimeError: a second backward through the same loss, or a double backward.
    """
    inputs = (hidden_ND, weight_VD, bias_V)
    # ctx.needs_input_grad would not do: it is true under no_grad as well.
    needs = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs)
    if any(needs):
        loss, *metrics_N = _ChunkedLoss.apply(*inputs, targets_N, options, needs)
    else:
        loss, metrics_N, _ = _run_chunks(*inputs, targets_N, options, needs)
    return loss, dict(zip(options.metrics, metrics_N, strict=True))


class _ChunkedLoss(torch.autograd.Function):
    """Gradients for an incoming gradient of 1, made in the forward; the backward scales them in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        options: LossOptions,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        loss, metrics_N, grads = _run_chunks(hidden_ND, weight_VD, bias_V, targets_N, options, needs)
        ctx.input_dtypes = [None if t is None else t.dtype for t in (hidden_ND, weight_VD, bias_V)]
        ctx.used = False
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(*metrics_N)
        return loss, *metrics_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.used:
            raise RuntimeError(
                "the gradients of this shaped_linear_loss were used up by its first backward; "
                "compute the loss again for a second one"
            )
        ctx.used = True
        # Reading the factor is free on a CPU. Elsewhere it would wait for the device, so scaling is cheaper.
        scales = grad_loss.device.type != "cpu" or grad_loss.item() != 1
        grads = [
            None if grad is None else (grad.mul_(grad_loss) if scales else grad).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.input_dtypes, strict=True)
        ]
        return *grads, None, None, None


class _Gradients:
    """The gradients that are needed, summed over chunks; None for the others."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, sum_dtype: torch.dtype, needs: tuple[bool, ...]) -> None:
        self._hidden_ND, self._weight_VD = hidden_ND, weight_VD
        needs_hidden, needs_weight, needs_bias = needs
        self.hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        # The first chunk overwrites, which saves a pass over [V, D]; without a chunk nothing would.
        self._first = hidden_ND.shape[0] > 0
        new = torch.empty_like if self._first else torch.zeros_like
        self.weight_VD = new(weight_VD, dtype=sum_dtype) if needs_weight else None
        self.bias_V = weight_VD.new_zeros(weight_VD.shape[0], dtype=sum_dtype) if needs_bias else None

    def add(self, dz_CV: Tensor, chunk: slice) -> None:
        """Add the share of the rows `chunk`, whose logit gradient is `dz_CV`."""
        if self.hidden_ND is not None:
            torch.mm(dz_CV, self._weight_VD, out=self.hidden_ND[chunk])
        if self.weight_VD is not None:
            self._add_weight(self.weight_VD, dz_CV.t(), self._hidden_ND[chunk])
        if self.bias_V is not None:
            self.bias_V += dz_CV.sum(0, dtype=self.bias_V.dtype)
        self._first = False

    def _add_weight(self, sum_VD: Tensor, dz_VC: Tensor, hidden_CD: Tensor) -> None:
        # Rounding each chunk's product to half precision before the sum would bias training.
        beta = 0 if self._first else 1
        if dz_VC.dtype == sum_VD.dtype:
            torch.addmm(sum_VD, dz_VC, hidden_CD, beta=beta, out=sum_VD)
        elif sum_VD.is_cuda:
            torch.addmm(sum_VD, dz_VC, hidden_CD, beta=beta, out_dtype=sum_VD.dtype, out=sum_VD)
        else:
            torch.addmm(sum_VD, dz_VC.to(sum_VD.dtype), hidden_CD.to(sum_VD.dtype), beta=beta, out=sum_VD)


def _run_chunks(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    options: LossOptions,
    needs: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor], tuple[Tensor | None, ...]]:
    """Loss, metrics in the order of `options.metrics`, and the gradients that `needs` asks for, else None."""
    device = hidden_ND.device.type
    dtype = hidden_ND.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
        exact_dtype = torch.promote_types(dtype, torch.float32)
        N, V = hidden_ND.shape[0], weight_VD.shape[0]
        C = _rows_per_chunk(N, V, exact_dtype, options.chunk_mb)
        R = C if device != "cpu" else min(C, max(1, int(_CPU_BLOCK_MB * 2**20 / (V * exact_dtype.itemsize))))
        logits_CV = hidden_ND.new_empty(C, V)
        scratch = Scratch.allocate(R, logits_CV, exact_dtype, options)
        loss_N = hidden_ND.new_empty(N, dtype=exact_dtype)
        metrics_N = [torch.empty_like(loss_N) for _ in options.metrics]
        grads = _Gradients(hidden_ND, weight_VD, exact_dtype, needs)
        for start in range(0, N, C):
            chunk = slice(start, min(start + C, N))
            dz_CV = logits_CV[: chunk.stop - start]
            if bias_V is None:
                torch.mm(hidden_ND[chunk], weight_VD.t(), out=dz_CV)
            else:
                torch.addmm(bias_V, hidden_ND[chunk], weight_VD.t(), out=dz_CV)
            for first in range(start, chunk.stop, R):
                rows = slice(first, min(first + R, chunk.stop))
                block_RV = dz_CV[rows.start - start : rows.stop - start]
                loss_R, metrics_R = shape_rows(block_RV, targets_N[rows], options, scratch, any(needs))
                loss_N[rows] = loss_R
                for name, metric_N in zip(options.metrics, metrics_N, strict=True):
                    metric_N[rows] = metrics_R[name]
            grads.add(dz_CV, chunk)
        return loss_N.sum(), metrics_N, (grads.hidden_ND, grads.weight_VD, grads.bias_V)


def _rows_per_chunk(N: int, V: int, dtype: torch.dtype, chunk_mb: float) -> int:
    """Rows whose logits fit `chunk_mb`, spread evenly: a short last chunk would be a slow matmul."""
    most = max(1, int(chunk_mb * 2**20 / (V * dtype.itemsize)))
    chunks = max(1, -(-N // most))
    return max(1, -(-N // chunks))
