"""Training steps from a token budget: ``--train_tokens 500B``."""

from __future__ import annotations

import re

from shaped_eval.errors import UserError

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_tokens(text: str) -> int:
    """``"1.5B"`` → 1_500_000_000.

    Raises:
        UserError: the text is not a number with the suffix K, M, B or T, or without one.
    """
    match = re.fullmatch(
        r"([0-9]+)(?:\.([0-9]+))?([KMBT]?)", str(text).replace("_", "").strip().upper()
    )
    if match is None:
        raise UserError(
            f"train_tokens={text!r} is not a number of tokens: "
            "write it as 300M, 1.5B or 500B (K, M, B or T)"
        )
    whole, fraction, suffix = match.group(1), match.group(2) or "", match.group(3)
    return int(whole + fraction) * SUFFIXES[suffix] // 10 ** len(fraction)


def budget_steps(train_tokens: str, sequences: int, length: int) -> int:
    """The number of optimizer steps for which the budget suffices.

    Args:
        train_tokens: the budget, as `parse_tokens` reads it.
        sequences: number of sequences of a step, over all micro-batches and processes.
        length: number of tokens of a sequence.

    Raises:
        UserError: the budget is not a number, or is less than one step.
    """
    budget, step = parse_tokens(train_tokens), sequences * length
    if budget < step:
        raise UserError(
            f"train_tokens={train_tokens} is less than one step of {step:,} tokens "
            f"({sequences:,} sequences of {length:,}): raise it, or lower "
            "per_device_train_batch_size, gradient_accumulation_steps or max_length"
        )
    return budget // step
