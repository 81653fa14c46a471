"""The aims of the fused loss, compared with results. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from measure import Result, Size, time_ratio

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


class Aim(NamedTuple):
    """One line: the claim, the measurement, and whether it reaches the claim (None: unmeasured)."""

    claim: str
    measured: str
    reached: bool | None

    def __str__(self) -> str:
        word = {True: "reached", False: "NOT REACHED", None: "not measured"}[self.reached]
        return f"{word:13} {self.claim}: {self.measured}"


def aims(size: Size, results: Mapping[str, Result], device: str) -> list[Aim]:
    """All aims for this size and device."""
    if device == "cpu":
        floor = "floor: 3 matmuls and a pass"
        return [
            at_most(size, results, name, floor, 1.1)
            for name in ("ours cross-entropy", "ours beta", "ours full")
        ]
    lines = []
    for name in ("ours cross-entropy", "ours beta"):
        for mine, peer in ((name, "Liger C=16, fp32 sums"), (f"{name}, bf16 sums", "Liger C=16")):
            lines.append(at_most(size, results, mine, peer, 1.05))
            lines.append(leaner(size, results, mine, peer, 1))
    if size == Size(8192, 2560, 151_936):
        lines.append(faster(size, results, "ours cross-entropy, bf16 sums", "Liger C=1", 1.4))
    if size.N >= 8192:
        for mine in ("ours full, metrics", "ours full, metrics, bf16 sums"):
            lines.append(at_most(size, results, mine, "floor: 3 matmuls, our chunks", 1.15))
            lines.append(
                at_most(size, results, mine, "floor: 3 matmuls, our chunks", 1.08, " (stretch)")
            )
    lines.append(faster(size, results, "ours full", "full logits, full shape", 4))
    lines.append(leaner(size, results, "ours full", "full logits, full shape", 8))
    lines += [within_outputs(size, result) for result in results.values() if result.variant.is_ours]
    return lines


def at_most(
    size: Size, results: Mapping[str, Result], mine: str, other: str, most: float, remark: str = ""
) -> Aim:
    """The time of `mine` is at most `most` times that of `other`."""
    ratio = time_ratio(results.get(mine), results.get(other))
    claim = f"{size}: time of {mine} ≤ {most} × {other}{remark}"
    if ratio is None:
        return Aim(claim, _why_missing(results.get(other)), None)
    return Aim(
        claim, f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]", ratio.median <= most
    )


def faster(size: Size, results: Mapping[str, Result], mine: str, other: str, least: float) -> Aim:
    """`mine` is at least `least` times as fast as `other`."""
    ratio = time_ratio(results.get(other), results.get(mine))
    claim = f"{size}: {mine} ≥ {least} × faster than {other}"
    if ratio is None:
        return Aim(claim, _why_missing(results.get(other)), None)
    return Aim(
        claim, f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", ratio.median >= least
    )


def leaner(size: Size, results: Mapping[str, Result], mine: str, other: str, least: float) -> Aim:
    """`other` takes at least `least` times the extra memory of `mine`."""
    a, b = results.get(mine), results.get(other)
    claim = f"{size}: extra memory of {other} ≥ {least} × {mine}"
    if a is None or b is None or not a.peak_mb or not b.peak_mb:
        return Aim(claim, _why_missing(b), None)
    # In whole MiB, so that a few vectors more or less make no difference.
    ratio = round(b.peak_mb) / max(1, round(a.peak_mb))
    return Aim(claim, f"{ratio:.3f} ({b.peak_mb:.0f} against {a.peak_mb:.0f} MiB)", ratio >= least)


def within_outputs(size: Size, result: Result) -> Aim:
    """The extra memory is at most that of the gradients plus 1 GiB.

    The weight's gradient is counted in the dtype of its sums.
    """
    N, D, V = size
    sums = result.variant.sums
    limit_mb = (V * D * DTYPE_BYTES[sums] + N * D * DTYPE_BYTES["bfloat16"]) / 2**20 + 1024
    claim = f"{size}: extra memory of {result.variant.name} ≤ dW ({sums}) + dX + 1 GiB"
    if result.peak_mb is None:
        return Aim(claim, _why_missing(result), None)
    return Aim(claim, f"{result.peak_mb:.0f} of {limit_mb:.0f} MiB", result.peak_mb <= limit_mb)


def _why_missing(result: Result | None) -> str:
    return "out of memory" if result is not None and result.out_of_memory else "-"
