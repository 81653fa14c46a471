"""Log-probabilities of given tokens under a linear head, as reinforcement learning needs them."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from .function import shaped_linear_loss


class LogProbs(NamedTuple):
    """The result of `linear_log_probs`, in the shape of the ids, 0 at ignored positions.

    Both are fp32, or float64 for float64 input. `log_probs` has a gradient, `entropies` (nats) has
    none.
    """

    log_probs: Tensor
    entropies: Tensor


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    impl: str = "auto",
    chunk_mb: float | None = None,
) -> LogProbs:
    """ln softmax(z/temperature) at the tokens `ids`, and the entropies of these distributions.

    z are the logits of `shaped_linear_loss`, softcap included. No tensor of their size is held: a
    chunk of rows at a time is computed in the forward, and once more in the backward. Any number of
    backwards is allowed.

    Args:
        hidden: [..., D] hidden states.
        weight: [V, D] head weight.
        ids: [...] token ids, in the leading shape of `hidden`.
        temperature: above 0.
        bias, logit_scale, softcap, ignore_index, impl, chunk_mb: as in `shaped_linear_loss`.

    Raises:
        ValueError: an argument is out of range, or an id is outside the vocabulary.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature!r} is not a finite number above 0")
    output = shaped_linear_loss(
        hidden,
        weight,
        ids,
        bias=bias,
        # c·tanh(z/c)/T is c'·tanh((z/T)/c') with c' = c/T.
        logit_scale=logit_scale / temperature,
        softcap=None if softcap is None else softcap / temperature,
        reduction="none",
        ignore_index=ignore_index,
        metrics=("entropy",),
        impl=impl,
        chunk_mb=chunk_mb,
    )
    assert output.entropy is not None
    return LogProbs(-output.loss, output.entropy)
