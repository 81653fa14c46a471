"""Draws the next tokens of a batch, each row from a random stream of its own.

A row's stream depends on the row's seed alone. Its samples are therefore the same, up to rounding
of the logits, whichever rows share its batch.

Notation: R rows, V vocabulary, K candidate tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shaped_eval.errors import UserError
from shaped_eval.provenance import stable_hash

# The tokens that are sorted to find the nucleus. If they do not hold it, eight times as many are.
FIRST_CANDIDATES = 64
_GOLDEN = 0x9E3779B97F4A7C15


def row_seed(problem_seed: int, sample_index: int) -> int:
    """The seed of one sample: 64 bits, the same on every machine."""
    return int(stable_hash([problem_seed, sample_index])[:16], 16)


class TokenDraw:
    """Draws from softmax(logits / temperature), cut to the nucleus of probability `top_p`.

    The token of a row is argmax of log p − log e over its candidates, where e is a standard
    exponential variable for each token: the Gumbel-max trick. A change of the probabilities by
    rounding changes the token with a probability of about that change, which an inverse of the
    distribution function would not guarantee. e comes from a hash of the row's seed, the step and
    the token, so that it is only computed for the candidates.

    Args:
        temperature: 0 takes the token with the largest logit; nothing is drawn then.
        seeds: one for each row, unsigned numbers of 64 bits.
    """

    def __init__(
        self, temperature: float, top_p: float, seeds: Sequence[int], device: str | torch.device
    ) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._seeds_R = torch.tensor([_signed(seed) for seed in seeds], device=device)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the rows with these indices, in this order."""
        self._seeds_R = self._seeds_R[rows]

    def __call__(self, logits_RV: torch.Tensor, step: int) -> torch.Tensor:
        """The tokens [R] of the rows at the `step`-th token of their completions.

        Raises:
            UserError: the logits of a row are not finite, so that they give no probabilities.
        """
        tokens_R = logits_RV.argmax(-1)
        top_R = logits_RV.gather(1, tokens_R[:, None])
        if not bool(torch.isfinite(top_R).all()):
            raise UserError(
                "model: its logits are not finite, as with weights that training has ruined, or "
                "with a dtype that is too small for them: try --dtype float32"
            )
        if self._temperature == 0:
            return tokens_R
        scores_RV = logits_RV.float() / self._temperature
        tokens_RK, log_p_RK = _nucleus(scores_RV, self._top_p)
        noise_RK = _exponential(self._seeds_R, step, tokens_RK)
        best_R = (log_p_RK - noise_RK.log()).argmax(-1, keepdim=True)
        return tokens_RK.gather(1, best_R).squeeze(1)


def _nucleus(scores_RV: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidate tokens [R, K] and their log-probabilities, −inf outside of the nucleus.

    The nucleus is the smallest set of the likeliest tokens with a probability of `top_p`.
    """
    vocabulary = scores_RV.shape[1]
    if top_p >= 1:
        all_tokens = torch.arange(vocabulary, device=scores_RV.device)
        return all_tokens.expand_as(scores_RV), scores_RV.log_softmax(-1)
    total_R1 = scores_RV.logsumexp(-1, keepdim=True)
    count = min(FIRST_CANDIDATES, vocabulary)
    while True:
        top_RK, tokens_RK = scores_RV.topk(count)
        log_p_RK = top_RK - total_R1
        p_RK = log_p_RK.exp()
        sums_RK = p_RK.cumsum(-1)
        if count == vocabulary or bool((sums_RK[:, -1] >= top_p).all()):
            # a token belongs to it if those before it do not reach top_p
            return tokens_RK, log_p_RK.masked_fill(sums_RK - p_RK >= top_p, -torch.inf)
        count = min(8 * count, vocabulary)


def _exponential(seeds_R: torch.Tensor, step: int, tokens_RK: torch.Tensor) -> torch.Tensor:
    """Standard exponential variables, a function of seed, step and token.

    SplitMix64 (Steele, Lea, Flood 2014) gives a stream of seeds for the steps, and from each a
    stream for the tokens. Apple's GPUs have no float64 and get 24 random bits in place of 53.
    """
    at_step_R = _mix(seeds_R + _signed((step + 1) * _GOLDEN))
    bits_RK = _mix(at_step_R[:, None] + (tokens_RK + 1) * _signed(_GOLDEN))
    digits, dtype = (24, torch.float32) if bits_RK.device.type == "mps" else (53, torch.float64)
    uniform_RK = (_shifted(bits_RK, 64 - digits).to(dtype) + 0.5) * 2.0**-digits
    return -uniform_RK.log()


def _mix(state: torch.Tensor) -> torch.Tensor:
    """The output function of SplitMix64; products wrap around, as in unsigned arithmetic."""
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted to the right as an unsigned number; torch's own shift repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The number modulo 2^64, in the range of torch.int64."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number
