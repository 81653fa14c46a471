"""A head whose vocabulary is spread over processes, and what the processes exchange.

Each process has the logits of its own tokens, which have consecutive ids. The loss of a row needs a
few numbers about the other tokens: their largest logit, the logit of the target, the threshold of
the head set and some sums. These are exchanged for a block of rows at a time; neither the head nor
a row of logits is ever gathered.

Dimensions: R rows, V columns (the tokens of the whole vocabulary, or the width of a shard's
buffer), D hidden, K head candidates, P processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .topk import head_ids, is_first_max

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# Each row of the logits buffer starts at a multiple of this many elements; otherwise a matmul would
# write it slowly.
_ROW_ALIGNMENT = 64


class WholeVocabulary:
    """All tokens are in this process, so that nothing has to be exchanged."""

    def __init__(self, size: int) -> None:
        self.vocabulary = self.size = self.width = size

    def columns(self, targets_R: Tensor) -> Tensor:
        """The column [R] of each target in the logits buffer."""
        return targets_R

    def hide_spare(self, z_RV: Tensor) -> None:
        """Set the columns that belong to no token to −inf."""

    def maximum(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        """The maximum over processes of each of `values_R`."""
        return values_R

    def total(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        """The sum over processes of each of `values_R`."""
        return values_R

    def head_columns(self, z_RV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Columns [R, K] of the `top_k` < V largest logits, with ties going to the lowest id.

        Also the two largest logits of this process, [R, 2].
        """
        return head_ids(z_RV, top_k)

    def holds(self, ids_RK: Tensor, x_R1: Tensor) -> Tensor:
        """Booleans [R]: whether the target's column is among `ids_RK`, in this process."""
        return (ids_RK == x_R1).any(-1)

    def is_first_max(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor, max_R: Tensor) -> Tensor:
        """Booleans [R] as from `topk.is_first_max`."""
        return is_first_max(z_RV, targets_R, z_x_R, max_R)

    def count_before(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor) -> Tensor:
        """How many tokens of this process come before the target by logit, then by lower id; [R].

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
    """The tokens of this process, a row shard of `weight`: `size` tokens from the id `first` on.

    The shards are those of `torch.chunk`: equal, except that the last ones may be short or empty.
    All processes use logits buffers of the same `width`, and therefore the same chunks of rows. The
    last column belongs to no token; it stands for all tokens of other processes.
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
        # Backends differ in whether the maximum of a number and NaN is NaN. Infinity also marks a
        # row that is not a distribution.
        values = torch.stack(values_R).nan_to_num_(torch.inf, torch.inf, -torch.inf)
        return self._reduce(values, dist.ReduceOp.MAX).unbind()

    def total(self, *values_R: Tensor) -> tuple[Tensor, ...]:
        return self._reduce(torch.stack(values_R), dist.ReduceOp.SUM).unbind()

    def head_columns(self, z_RV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        K = min(top_k, self._largest)
        found_RK, top_R2 = head_ids(z_RV, K)
        ids_RK = found_RK.sort(dim=-1).values
        values_RK = z_RV.gather(-1, ids_RK)
        values_PRK = values_RK.new_empty(self._processes, *values_RK.shape)
        dist.all_gather([*values_PRK], values_RK, group=self._group)
        threshold_R1 = values_PRK.transpose(0, 1).flatten(1).topk(top_k, dim=-1).values[:, -1:]
        # Ids ascend with the process. Of the tokens at the threshold, those of earlier processes
        # come first.
        tied_PR = (values_PRK == threshold_R1).sum(-1)
        room_R = top_k - (values_PRK > threshold_R1).sum((0, -1)) - tied_PR[: self._rank].sum(0)
        is_tied_RK = values_RK == threshold_R1
        in_head_RK = (values_RK > threshold_R1) | (
            is_tied_RK & (is_tied_RK.cumsum(-1) <= room_R[:, None])
        )
        return ids_RK.masked_fill_(~in_head_RK, self.width - 1), top_R2

    def holds(self, ids_RK: Tensor, x_R1: Tensor) -> Tensor:
        # The last column stands for tokens of others, and for places of K that others have filled.
        return super().holds(ids_RK, x_R1) & (x_R1.squeeze(-1) != self.width - 1)

    def is_first_max(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor, max_R: Tensor) -> Tensor:
        is_top1_R = z_x_R > max_R
        # Both numbers are the same in all processes, so that all of them reduce, or none.
        tied_T = (z_x_R == max_R).nonzero().squeeze(-1)
        if tied_T.numel():
            max_T, column_T = z_RV[tied_T].max(-1)
            first_T = torch.where(max_T == max_R[tied_T], column_T + self.first, self.vocabulary)
            is_top1_R[tied_T] = targets_R[tied_T] < self._reduce(first_T, dist.ReduceOp.MIN)
        return is_top1_R

    def count_before(self, z_RV: Tensor, targets_R: Tensor, z_x_R: Tensor) -> Tensor:
        return super().count_before(z_RV[:, : self.size], targets_R - self.first, z_x_R)

    def sum_gradient(self, hidden_ND: Tensor) -> None:
        """Sum the gradients of the hidden states over the processes, in place.

        Each process has the gradient from its own tokens.
        """
        self._reduce(hidden_ND, dist.ReduceOp.SUM)

    def _reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        dist.all_reduce(values, op, group=self._group)
        return values


def local_tensors(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, keep_shards: bool
) -> tuple[Tensor, Tensor, Tensor | None, VocabularyShard | None]:
    """Plain tensors for `hidden`, `weight` and `bias`, and the shard of the last two or None.

    A DTensor `weight` that is sharded by rows over one mesh dimension becomes its local rows if
    `keep_shards`; any other is gathered. In both cases the gradients reach the DTensors. They are
    those of one loss that all processes of the mesh compute together from equal `hidden`, not those
    of a mean or sum over different data.

    Raises:
        ValueError: only one of `weight` and `bias` is a DTensor.
    """
    if is_dtensor(hidden):
        hidden = hidden.full_tensor()  # type: ignore[attr-defined]
    if not is_dtensor(weight):
        if bias is not None and is_dtensor(bias):
            raise ValueError(
                "bias is a DTensor and weight is not; distribute both, or gather bias with "
                "full_tensor()"
            )
        return hidden, weight, bias, None
    if bias is not None and not is_dtensor(bias):
        raise ValueError(
            "weight is a DTensor and bias is not; distribute both, or gather weight with "
            "full_tensor()"
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


def is_dtensor(tensor: Tensor) -> bool:
    """Whether the tensor is spread over processes."""
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return False
    # Imported here, because it takes half a second, and not every build of torch has it.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
