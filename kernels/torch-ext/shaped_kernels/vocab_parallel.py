"""A head whose rows, the vocabulary, are spread over processes: what a block of rows asks the
others for.

Each process has the logits of its own tokens, of consecutive ids. A row's loss needs a handful of
numbers about the other tokens: their largest logit, the target's logit, the head set's threshold
and a few sums. Those are exchanged, for a block of rows at a time; neither the head nor a row of
logits is ever gathered.

Dimensions: R rows, V columns (tokens in the whole vocabulary, in a buffer's width with a shard), D
    hidden, K head
candidates, P processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .topk import head_ids, is_first_max

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# A row of the logits buffer starts at a multiple of this many elements, or a matmul would write it
# slowly.
_ROW_ALIGNMENT = 64


class WholeVocabulary:
    """All tokens are in this process: every question has its answer here."""

    def __init__(self, size: int) -> None:
        self.vocabulary = self.size = self.width = size

    def columns(self, targets_R: Tensor) -> Tensor:
        """Column [R] of each target in the logits buffer."""
        return targets_R

    def hide_spare(self, z_RV: Tensor) -> None:
        """Make the columns that belong to no token impossible."""

    def maximum(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        """Each of `values_R`, the largest over processes."""
        return values_R

    def total(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        """Each of `values_R`, summed over processes."""
        return values_R

    def head_columns(self, z_RV: Tensor, top_k: int) -> Tensor:
        """Columns [R, K] of the `top_k` tokens that come first by logit, ties to the lowest id;
        `top_k` < V."""
        return head_ids(z_RV, top_k)

    def is_first_max(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor, max_R: Tensor) -> Tensor:
        """Booleans [R] as `topk.is_first_max` gives them."""
        return is_first_max(z_RV, targets_R, z_x_R, max_R)

    def count_before(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor) -> Tensor:
        """How many [R] of this process's tokens come before the target: larger, or equal with a
        lower id.

        `z_RV` holds −inf at the target, whose logit is `z_x_R`.
        """
        # A mask of floats is summed several times faster than one of booleans.
        mask_RV, z_x_R1 = torch.empty_like(z_RV), z_x_R[:, None]
        count_R = torch.gt(z_RV, z_x_R1, out=mask_RV).sum(-1)
        tied_T = (torch.ge(z_RV, z_x_R1, out=mask_RV).sum(-1) != count_R).nonzero().squeeze(-1)
        if tied_T.numel():
            is_lower_TV = torch.arange(z_RV.shape[1], device=z_RV.device) < targets_R[tied_T, None]
            count_R[tied_T] += ((z_RV[tied_T] == z_x_R1[tied_T]) & is_lower_TV).sum(-1)
        return count_R


class VocabularyShard(WholeVocabulary):
    """The tokens of this process, a row shard of `weight`: `size` of them, the first of id `first`.

    The shards are those of `torch.chunk`: equal but for the last ones, which may be short or empty.
    All processes use logits buffers of the same `width`, hence the same chunks of rows. The last
    column belongs to no token; it stands for whatever another process owns.
    """

    def __init__(self, weight: DTensor) -> None:
        mesh = weight.device_mesh
        self._group, self._rank, self._processes = (
            mesh.get_group(),
            mesh.get_local_rank(),
            mesh.size(),
        )
        self.vocabulary = weight.shape[0]
        self._largest = -(-self.vocabulary // self._processes)
        self.first = min(self._rank * self._largest, self.vocabulary)
        self.size = min(self._largest, self.vocabulary - self.first)
        self.width = self._largest + 1
        self.width += -self.width % _ROW_ALIGNMENT

    def columns(self, targets_R: Tensor) -> Tensor:
        x_R = targets_R - self.first
        return x_R.masked_fill((x_R < 0) | (x_R >= self.size), self.width - 1)

    def hide_spare(self, z_RV: Tensor) -> None:
        z_RV[:, self.size :] = -torch.inf

    def maximum(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        # Backends differ in whether the maximum of a number and NaN is NaN. Both make a row that is
        # no distribution.
        values = torch.stack(values_R).nan_to_num_(torch.inf, torch.inf, -torch.inf)
        return self._reduce(values, dist.ReduceOp.MAX).unbind()

    def total(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        return self._reduce(torch.stack(values_R), dist.ReduceOp.SUM).unbind()

    def head_columns(self, z_RV: Tensor, top_k: int) -> Tensor:
        K = min(top_k, self._largest)
        ids_RK = head_ids(z_RV, K).sort(dim=-1).values
        values_RK = z_RV.gather(-1, ids_RK)
        values_PRK = values_RK.new_empty(self._processes, *values_RK.shape)
        dist.all_gather([*values_PRK], values_RK, group=self._group)
        threshold_R1 = values_PRK.transpose(0, 1).flatten(1).topk(top_k, dim=-1).values[:, -1:]
        # Ids grow with the process: of the tokens at the threshold, those of the processes before
        # come first.
        tied_PR = (values_PRK == threshold_R1).sum(-1)
        room_R = top_k - (values_PRK > threshold_R1).sum((0, -1)) - tied_PR[: self._rank].sum(0)
        is_tied_RK = values_RK == threshold_R1
        in_head_RK = (values_RK > threshold_R1) | (
            is_tied_RK & (is_tied_RK.cumsum(-1) <= room_R[:, None])
        )
        return ids_RK.masked_fill_(~in_head_RK, self.width - 1)

    def is_first_max(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor, max_R: Tensor) -> Tensor:
        is_top1_R = z_x_R > max_R
        # Both are the same numbers in all processes, so that all of them come here or none.
        tied_T = (z_x_R == max_R).nonzero().squeeze(-1)
        if tied_T.numel():
            max_T, column_T = z_RV[tied_T].max(-1)
            first_T = torch.where(max_T == max_R[tied_T], column_T + self.first, self.vocabulary)
            is_top1_R[tied_T] = targets_R[tied_T] < self._reduce(first_T, dist.ReduceOp.MIN)
        return is_top1_R

    def count_before(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor) -> Tensor:
        return super().count_before(z_RV[:, : self.size], targets_R - self.first, z_x_R)

    def sum_gradient(self, hidden_ND: Tensor) -> None:
        """Add up the gradients of the hidden states that the processes have from their own tokens,
        in place."""
        self._reduce(hidden_ND, dist.ReduceOp.SUM)

    def _reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        dist.all_reduce(values, op, group=self._group)
        return values


def local_tensors(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, keep_shards: bool
) -> tuple[Tensor, Tensor, Tensor | None, VocabularyShard | None]:
    """`hidden`, `weight` and `bias` as plain tensors, and the shard that the last two are, or None.

    A DTensor `weight` that is sharded by rows over one mesh dimension gives its local rows where
    `keep_shards`; any other is gathered. Either way the gradients reach the DTensors, and are those
    of one loss that all processes of the mesh compute together from equal `hidden`: not those of a
    mean or sum over different data.

    Raises:
        ValueError: one of `weight` and `bias` is a DTensor, the other is not.
    """
    if _is_dtensor(hidden):
        hidden = hidden.full_tensor()  # type: ignore[attr-defined]
    if not _is_dtensor(weight):
        if bias is not None and _is_dtensor(bias):
            raise ValueError(
                "bias is a DTensor and weight is not; distribute both, or gather bias with full_tensor()"
            )
        return hidden, weight, bias, None
    if bias is not None and not _is_dtensor(bias):
        raise ValueError(
            "weight is a DTensor and bias is not; distribute both, or gather weight with full_tensor()"
        )
    return hidden, *_local_head(weight, bias, keep_shards)  # type: ignore[arg-type]


def _local_head(
    weight: DTensor, bias: DTensor | None, keep_shards: bool
) -> tuple[Tensor, Tensor | None, VocabularyShard | None]:
    from torch.distributed.tensor import Shard

    if not keep_shards or weight.placements != (Shard(0),):
        return weight.full_tensor(), None if bias is None else bias.full_tensor(), None
    if bias is not None:
        bias = bias.redistribute(weight.device_mesh, weight.placements)
    return weight.to_local(), None if bias is None else bias.to_local(), VocabularyShard(weight)


def _is_dtensor(tensor: Tensor) -> bool:
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return False
    # Here, because it takes half a second to import, and not every build of torch has it.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
