"""The row step on GPUs for a head whose vocabulary is spread over processes: a trial, off.

Two kernels make the passes over the logits of this process, and torch does what concerns a few
numbers of each row, as in `rows.py`. The target and the head set are taken out before the first
pass and put back after the second one.

Dimensions: C rows of a chunk, V columns of the logits buffer, K head set.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import FinishedRows, RowParts, finish_rows, needs_head
from .shape import LossOptions
from .triton_kernels import LOWEST_LOGIT, stream, write_tiles
from .triton_launch import choose_launch

_LOG2_E, _LN_2 = 1.4426950408889634, 0.6931471805599453
_LOWEST_LOG_E = -1e4  # as in rows.py


@triton.jit
def sum_rows(logits_ptr, out_ptr, V, width, rate, LANES: tl.constexpr, PER: tl.constexpr):
    """The largest logit m of a row, Σe and Σe·log2 e with e = 2^(rate·(z − m)), to [3, C]."""
    row = tl.program_id(0)
    columns = tl.num_programs(0)
    row_ptr = logits_ptr + row.to(tl.int64) * width
    m, s, t, *_ = stream(
        row_ptr, 0, V, width, 1.0, 0.0, rate, row_ptr, False, True, False, False, 0, LANES, PER
    )
    tl.store(out_ptr + row, m)
    tl.store(out_ptr + columns + row, s)
    tl.store(out_ptr + 2 * columns + row, t)


@triton.jit
def write_rows(
    logits_ptr, largest_ptr, rates_ptr, V, width, rate, LANES: tl.constexpr, PER: tl.constexpr
):
    """Overwrite a row with e times the rate of the row, where `largest_ptr` has m."""
    row = tl.program_id(0)
    m = tl.load(largest_ptr + row)
    of_rest = tl.load(rates_ptr + row)
    write_tiles(
        logits_ptr + row.to(tl.int64) * width, 0, V, width, 0, V, m, of_rest, of_rest, 0.0, 0,
        1.0, 0.0, rate, True, "", False, LANES, PER,
    )  # fmt: skip


class ShardedTritonRows:
    """The row step for a shard; without a softcap, which would turn −inf into a finite logit."""

    skips_ignored = False
    row_alignment = 64

    def __init__(
        self, logits_CV: Tensor, options: LossOptions, vocabulary: int | None = None
    ) -> None:
        assert options.shard is not None
        assert options.softcap is None
        self._names, self._tokens = options.metrics, options.shard
        self._options, self._metric_options = options.by_temperature()
        self._launch = choose_launch(logits_CV.dtype, 0)

    def __call__(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        with_grad: bool,
        weights_C: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss [C] and the metrics, [C] each; overwrites `logits_CV` with its gradient."""
        metrics: dict[str, Tensor] = {}
        if self._metric_options is not None:
            own = self._shape(logits_CV.clone(), targets_C, False, None, self._metric_options)
            metrics = own.metrics
        found = self._shape(logits_CV, targets_C, with_grad, weights_C, self._options)
        metrics = found.metrics | metrics
        return found.loss, [metrics[name] for name in self._names]

    @staticmethod
    def scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """`gradient` times the scalar `factor`, in `dtype`."""
        return gradient.mul_(factor).to(dtype)

    def _shape(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        with_grad: bool,
        weights_C: Tensor | None,
        options: LossOptions,
    ) -> FinishedRows:
        tokens, shape, dtype = self._tokens, options.shape, logits_CV.dtype
        # z is `unit` times the raw logit. The order is the same.
        unit = options.logit_scale / shape.loss_temperature
        x_C1 = tokens.columns(targets_C)[:, None]
        tokens.hide_spare(logits_CV)
        looks = needs_head(options, tokens.vocabulary)
        ids_CK = tokens.head_columns(logits_CV, shape.top_k)[0] if looks else x_C1[:, :0]
        raw_x_C = logits_CV.gather(-1, x_C1).squeeze(-1)
        logits_CV.scatter_(-1, x_C1, -torch.inf)
        rank_C, is_top1_C = self._rank(logits_CV, targets_C, raw_x_C, options)
        head_CK = logits_CV.gather(-1, ids_CK).float()
        logits_CV.scatter_(-1, ids_CK, -torch.inf)
        m_C, s_C, t_C = self._sum(logits_CV, unit)

        none_C = torch.full_like(m_C, -torch.inf)
        own_C = torch.where(m_C <= LOWEST_LOGIT.value, none_C, m_C)
        own_C = torch.maximum(own_C, head_CK.amax(-1) if looks else none_C)
        raw_x_C, largest_C = tokens.maximum(raw_x_C.float(), own_C)
        is_broken_C = ~torch.maximum(raw_x_C, largest_C).isfinite()
        largest_C.masked_fill_(largest_C == -torch.inf, 0)
        bits_C = (m_C - largest_C) * (unit * _LOG2_E)
        rescale_C = bits_C.exp2()
        log_e_CK = ((head_CK - largest_C[:, None]) * unit).clamp(min=_LOWEST_LOG_E)
        e_CK = log_e_CK.exp()
        # Σ e and Σ e·ln e, of the head and of the rest. Where nothing is left, bits are −inf.
        rest_dot_C = rescale_C * (t_C + bits_C.clamp(min=_LOWEST_LOG_E) * s_C) * _LN_2
        sums = [e_CK.sum(-1), rescale_C * s_C, (log_e_CK * e_CK).sum(-1), rest_dot_C]
        is_entropy = shape.positive == "entropy"
        place_C = [tokens.holds(ids_CK, x_C1).float()] if is_entropy else []
        parts = RowParts(raw_x_C * unit, largest_C * unit, is_broken_C, is_top1_C)
        found = finish_rows(options, tokens, weights_C, parts, sums, rank_C, place_C)
        if with_grad:
            scale_C = found.factor / found.sum
            self._write(logits_CV, largest_C, found.rates.rest * scale_C, unit)
            head_rate_C1 = (found.rates.head * scale_C)[:, None]
            logits_CV.scatter_(-1, ids_CK, (e_CK * head_rate_C1).to(dtype))
            # Last: the head may hold the target.
            target_C1 = (found.factor * found.rates.target)[:, None]
            logits_CV.scatter_(-1, x_C1, target_C1.to(dtype))
        return found

    def _rank(
        self, logits_CV: Tensor, targets_C: Tensor, raw_x_C: Tensor, options: LossOptions
    ) -> tuple[list[Tensor], Tensor | None]:
        """The target's rank in this process, and whether it is the argmax, if they are asked for.

        It is the argmax if no token of any process comes before it.
        """
        if not {"target_rank", "is_top1"} & set(options.metrics):
            return [], None
        (everywhere_C,) = self._tokens.maximum(raw_x_C.float())
        # The counts would be rounded in half precision.
        rank_C = self._tokens.count_before(logits_CV.float(), targets_C, everywhere_C)
        is_top1_C = self._tokens.total(rank_C)[0] == 0 if "is_top1" in options.metrics else None
        return [rank_C] if "target_rank" in options.metrics else [], is_top1_C

    def _sum(self, logits_CV: Tensor, unit: float) -> tuple[Tensor, ...]:
        out_3C = torch.empty(3, len(logits_CV), dtype=torch.float32, device=logits_CV.device)
        self._run(sum_rows, logits_CV, (out_3C,), unit)
        return out_3C.unbind()

    def _write(self, logits_CV: Tensor, largest_C: Tensor, rates_C: Tensor, unit: float) -> None:
        self._run(write_rows, logits_CV, (largest_C, rates_C.contiguous()), unit)

    def _run(self, kernel: Any, logits_CV: Tensor, vectors: tuple[Tensor, ...], unit: float):
        C, width = logits_CV.shape
        with torch.cuda.device_of(logits_CV):  # Triton launches on the current device
            kernel[(C,)](
                logits_CV,
                *vectors,
                *(self._tokens.size, width, unit * _LOG2_E),
                LANES=self._launch.lanes,
                PER=self._launch.per_thread,
                num_warps=self._launch.warps,
                maxnreg=self._launch.registers,
                enable_fp_fusion=True,
            )
