"""The targets of a call. The valid ones are found without making the device wait.

Dimension: N positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Positions to index a tensor with, as a slice if they are adjacent.
Rows = slice | Tensor


class Targets:
    """Token ids at N positions, some of which are ignored.

    Attributes:
        ids_N: token ids, −1 at ignored positions.
    """

    def __init__(self, targets_N: Tensor, ignore_index: int, vocabulary: int) -> None:
        self._targets_N = targets_N
        self._ignore_index = ignore_index
        self._vocabulary = vocabulary
        self._is_valid_N = targets_N != ignore_index
        self._is_bad_N = self._is_valid_N & ((targets_N < 0) | (targets_N >= vocabulary))
        # A bad id must not index anything before it has been reported.
        self.ids_N = targets_N.masked_fill(~self._is_valid_N | self._is_bad_N, -1)

    def __len__(self) -> int:
        return self._targets_N.shape[0]

    def rows_from(self, start: int) -> Callable[[], Rows]:
        """Ask for the valid positions from `start` on; the returned function gives them.

        A GPU is asked now, and the call waits for its answer. Work that is enqueued in between
        keeps it busy while the host waits.

        Raises:
            ValueError: at the call, if a target is outside the vocabulary.
        """
        is_valid = self._is_valid_N[start:]
        # The valid positions come first, in ascending order.
        order = is_valid.logical_not().sort(stable=True).indices
        counts = torch.stack([is_valid.sum(), self._is_bad_N.sum()])
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
            valid, bad = counts.tolist()
            if bad:
                raise ValueError(self._bad_target())
            return slice(start, len(self)) if valid == len(self) - start else order[:valid] + start

        return rows

    def _bad_target(self) -> str:
        return (
            f"targets contains {self._targets_N[self._is_bad_N][0].item()}, outside the vocabulary "
            f"[0, {self._vocabulary}); mark targets to skip with ignore_index={self._ignore_index}"
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
