"""The targets of a call: which positions count, and how many, without making the device wait.

Dimension: N positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Targets:
    """The positions that count come first, in their order; the ignored ones follow.

    Attributes:
        order_N: the position in the caller's tensor of each entry here; None where all count and stand as they are.
        ids_N: token ids in this order, −1 where ignored.

    A CPU knows at once how many count. A CUDA device is asked when the object is made and answers when `count` is
    called: work that was enqueued in between keeps it busy while the host waits.
    """

    def __init__(self, targets_N: Tensor, ignore_index: int, vocabulary: int) -> None:
        self._targets_N, self._ignore_index, self._vocabulary = targets_N, ignore_index, vocabulary
        is_valid_N = targets_N != ignore_index
        self._is_bad_N = is_valid_N & ((targets_N < 0) | (targets_N >= vocabulary))
        counts = torch.stack([is_valid_N.sum(), self._is_bad_N.sum()])
        self._ready: torch.cuda.Event | None = None
        if targets_N.is_cuda:
            self._counts = torch.empty_like(counts, device="cpu", pin_memory=True).copy_(counts, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
        else:
            self._counts = counts.cpu()
        self.order_N = None
        # A bad id must not be followed anywhere before `count` has reported it.
        self.ids_N = targets_N.masked_fill(~is_valid_N | self._is_bad_N, -1)
        if self._ready is not None or self.count() < targets_N.shape[0]:
            self.order_N = is_valid_N.logical_not().sort(stable=True).indices
            self.ids_N = self.ids_N[self.order_N]

    def __len__(self) -> int:
        return self._targets_N.shape[0]

    def count(self) -> int:
        """Number of positions that count.

        Raises:
            ValueError: a target is outside the vocabulary.
        """
        if self._ready is not None:
            self._ready.synchronize()
        valid, bad = self._counts.tolist()
        if bad:
            raise ValueError(
                f"targets holds {self._targets_N[self._is_bad_N][0].item()}, outside the vocabulary "
                f"[0, {self._vocabulary}); mark what is to be skipped with ignore_index={self._ignore_index}"
            )
        return valid

    def restore(self, values: Tensor) -> Tensor:
        """Values [..., N] of this order in the order of the caller's positions."""
        return values if self.order_N is None else torch.empty_like(values).index_copy_(-1, self.order_N, values)
