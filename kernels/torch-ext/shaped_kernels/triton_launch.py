"""How the Triton kernels are launched, and choices that are still to be measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Launch(NamedTuple):
    """How a row is divided: lanes of a tile, entries per thread, keys listed per lane, warps.

    `rows` is the number of rows that share a multiprocessor.
    """

    lanes: int
    per_thread: int
    lists: int
    warps: int
    rows: int = 1

    @property
    def registers(self) -> int:
        """The registers that a thread may use.

        Without this limit ptxas would rather spill than use the registers of a second row.
        """
        return min(255, 65536 // (32 * self.warps * self.rows))


class Trial(NamedTuple):
    """Choices that no GPU has measured, for the benchmark and for tests; by default they are off.

    Attributes:
        head_rows: the rows with a head set that share a multiprocessor; 2 leaves a thread of 16-bit
            logits 64 registers.
        group: the size of the groups whose maxima find the head set; 0 means lists. It is used only
            if there are at least 8 groups for each member of the head set.
        sharded: whether a head that is spread over processes stays so with impl="triton"; otherwise
            it is gathered. It always is with a softcap.
    """

    head_rows: int = 1
    group: int = 0
    sharded: bool = False


_trial = Trial()


def current_trial() -> Trial:
    """The choices that are in effect."""
    return _trial


@contextmanager
def trying(trial: Trial) -> Iterator[None]:
    """Run what is inside with the choices of `trial`."""
    global _trial
    before, _trial = _trial, trial
    try:
        yield
    finally:
        _trial = before


def choose_launch(dtype: torch.dtype, top_k: int) -> Launch:
    """The launch for logits of `dtype` with a head set of `top_k` (0: no head set).

    A large head set needs longer lists, since otherwise many rows would be searched a second time.
    Keys of fp32 have 64 bits, and fewer lanes leave room for them.
    """
    lists = 3 if top_k <= 128 else 5
    rows = _trial.head_rows if top_k else 1
    if dtype == torch.float32:
        return Launch(lanes=2048, per_thread=8, lists=lists, warps=8, rows=rows)
    return Launch(lanes=4096, per_thread=8, lists=lists, warps=16, rows=rows)
