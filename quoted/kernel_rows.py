"""The rows of `kernels/benchmarks/results.csv`, by size and variant."""

from __future__ import annotations

import functools

from quoted.records import Number, number, ratio, row
from quoted.values import Interval, marked

PATH = "kernels/benchmarks/results.csv"
H200, CPU = "2026-11-26T11:43", "2026-11-21T08:22"  # when the two main runs were made
LARGE, CPU_SIZE = "8192x2560x151936", "1024x512x151936"
CROSS_ENTROPY, FULL = "ours cross-entropy", "ours full, metrics"
FULL_LOGITS, LIGER = "full logits, full shape", "Liger C=16"


@functools.cache
def measured(size: str, variant: str, date: str = H200) -> Measured:
    return Measured(row(PATH, size=size, variant=variant, date=date))


class Measured:
    """One row: times in ms, memory in MiB."""

    def __init__(self, of: dict[str, str]) -> None:
        self.row = of

    @property
    def ms(self) -> Number:
        return number(self.row, "median_ms")

    @property
    def mib(self) -> Number:
        return number(self.row, "peak_mb")

    @property
    def rounds(self) -> Number:
        return number(self.row, "rounds")

    @property
    def date(self) -> str:
        return marked(self.row["date"][:10])

    @property
    def to_floor(self) -> Interval:
        return ratio(self.row, "floor_ratio")

    @property
    def to_base(self) -> Interval:
        return ratio(self.row, "base_ratio")


def faster(size: str) -> Number:
    """How many times the full shape is faster than full logits of the same shape."""
    return Number(measured(size, FULL_LOGITS).ms / measured(size, "ours full").ms)


def leaner(size: str) -> Number:
    """How many times less memory it takes."""
    return Number(measured(size, FULL_LOGITS).mib / measured(size, "ours full").mib)


def to_matmuls(variant: str) -> Number:
    """The time on the CPU, divided by that of the three matmuls alone."""
    matmuls = measured(CPU_SIZE, "floor: 3 matmuls, our chunks", CPU)
    return Number(measured(CPU_SIZE, variant, CPU).ms / matmuls.ms)
