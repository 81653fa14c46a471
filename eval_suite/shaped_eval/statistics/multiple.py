"""Several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values, in the given order.

    Rejecting those below 5% makes any error with a probability of at most 5%.

    Holm (1979): of m sorted p-values, number i (from 0) is multiplied by m − i; it is at most 1,
    and at least as large as those before it.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
