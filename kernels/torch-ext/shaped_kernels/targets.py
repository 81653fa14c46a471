"""The targets of a call and their weights. The valid ones are found without making the device wait.

Dimension: N positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

# Positions to index a tensor with, as a slice if they are adjacent.
Rows = slice | Tensor


class Targets:
    """Token ids at N positions, some of which are ignored.

    Attributes:
        ids_N: token ids, −1 at ignored positions.
        weights_N: the factor of each token's loss, or None for 1; arbitrary at ignored positions.
    """

    def __init__(
        self,
        targets_N: Tensor,
        ignore_index: int,
        vocabulary: int,
        weights_N: Tensor | None = None,
    ) -> None:
        self._targets_N = targets_N
        self._ignore_index = ignore_index
        self._vocabulary = vocabulary
        self._is_valid_N = targets_N != ignore_index
        self._is_bad_N = self._is_valid_N & ((targets_N < 0) | (targets_N >= vocabulary))
        # A bad id must not index anything before it has been reported.
        self.ids_N = targets_N.masked_fill(~self._is_valid_N | self._is_bad_N, -1)
        self.weights_N = weights_N
        self._is_bad_weight_N = (
            None if weights_N is None else self._is_valid_N & ~weights_N.isfinite()
        )

    def __len__(self) -> int:
        return self._targets_N.shape[0]

    def times(self, factors_N: Tensor) -> Targets:
        """The same targets with their weights multiplied by `factors_N`, which may be anything."""
        weighted = copy.copy(self)
        weighted.weights_N = factors_N if self.weights_N is None else self.weights_N * factors_N
        weighted._is_bad_weight_N = None
        return weighted

    def weights_of(self, rows: Rows) -> Tensor | None:
        """The weights of the positions `rows`; None if there are no weights."""
        return None if self.weights_N is None else self.weights_N[rows]

    def rows_from(self, start: int) -> Callable[[], Rows]:
        """Ask for the valid positions from `start` on; the returned function gives them.

        A GPU is asked now, and the call waits for its answer. Work that is enqueued in between
        keeps it busy while the host waits.

        Raises:
            ValueError: at the call, if a target is outside the vocabulary, or a weight not finite.
        """
        is_valid = self._is_valid_N[start:]
        # The valid positions come first, in ascending order.
        order = is_valid.logical_not().sort(stable=True).indices
        bad_N = [
            self._is_bad_N,
            *([] if self._is_bad_weight_N is None else [self._is_bad_weight_N]),
        ]
        counts = torch.stack([is_valid.sum(), *(is_bad_N.sum() for is_bad_N in bad_N)])
        answered: torch.cuda.Event | None = None
        if counts.is_cuda:
            counts = torch.empty_like(counts, device="cpu", pin_memory=True).copy_(
                counts, non_blocking=True
            )
            answered = torch.cuda.Event()
            answered.record()

        def rows() -> Rows:
            if answered is not None:
                answered.synchronize()
            valid, bad, *bad_weights = counts.tolist()
            if bad:
                raise ValueError(self._bad_target())
            if any(bad_weights):
                raise ValueError(self._bad_weight())
            return slice(start, len(self)) if valid == len(self) - start else order[:valid] + start

        return rows

    def _bad_target(self) -> str:
        return (
            f"targets contains {self._targets_N[self._is_bad_N][0].item()}, outside the vocabulary "
            f"[0, {self._vocabulary}); mark targets to skip with ignore_index={self._ignore_index}"
        )

    def _bad_weight(self) -> str:
        assert self.weights_N is not None
        return (
            f"token_weights contains {self.weights_N[self._is_bad_weight_N][0].item()}, which is "
            f"not a finite number of {self.weights_N.dtype}; a token that should not count has the "
            f"weight 0, or the target ignore_index={self._ignore_index}"
        )


def count_rows(rows: Rows) -> int:
    """The number of positions in `rows`."""
    return rows.stop - rows.start if isinstance(rows, slice) else rows.shape[0]


def take_rows(rows: Rows, first: int, last: int) -> Rows:
    """The positions number `first` to `last` − 1 of `rows`."""
    return (
        slice(rows.start + first, rows.start + last)
        if isinstance(rows, slice)
        else rows[first:last]
    )
