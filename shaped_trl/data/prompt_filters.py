"""Which of the prompts of a run stay: each once, short enough, and not among the held-out ones."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

from datasets import Dataset
from shaped_eval.errors import UserError

BATCH = 1000  # rows read together, which is about three times as fast as one by one


def first_of_equal(prompts: Iterable[Any]) -> list[int]:
    """The indices of the prompts that no earlier one equals.

    Only a digest of each prompt is kept: data sets that repeat each prompt 100 times are large.
    """
    seen: set[bytes] = set()
    kept = []
    for index, prompt in enumerate(prompts):
        digest = _digest(prompt)
        if digest not in seen:
            seen.add(digest)
            kept.append(index)
    return kept


def short_enough(
    rows: Dataset,
    max_prompt_length: int | None,
    tokenizer: Any,
    chat: bool,
    chat_template_kwargs: dict[str, Any] | None,
) -> tuple[Dataset, int]:
    """The rows with short prompts, and the number of the others.

    Args:
        rows: have the column ``prompt``.
        max_prompt_length: in tokens, those of the chat template included; None for no limit.
        tokenizer: counts the tokens.
        chat: the prompts are messages.
        chat_template_kwargs: the trainer's.

    Raises:
        UserError: there is a limit and no tokenizer.
    """
    if max_prompt_length is None:
        return rows, 0
    if tokenizer is None:
        raise UserError(f"max_prompt_length={max_prompt_length} needs a tokenizer to count with")
    lengths: list[int] = []
    for batch in rows.iter(BATCH):
        if chat:  # as TRL's trainer does
            encoded = tokenizer.apply_chat_template(
                batch["prompt"],
                add_generation_prompt=True,
                return_dict=True,
                **(chat_template_kwargs or {}),
            )
        else:
            encoded = tokenizer(batch["prompt"])
        lengths.extend(map(len, encoded["input_ids"]))
    kept = [index for index, length in enumerate(lengths) if length <= max_prompt_length]
    return rows.select(kept), len(rows) - len(kept)


def drop_prompts_of(rows: Dataset, others: Dataset) -> tuple[Dataset, int]:
    """The rows whose prompt is not among those of `others`, and the number of the rest."""
    taken = set(_digests(others))
    kept = [index for index, digest in enumerate(_digests(rows)) if digest not in taken]
    return rows.select(kept), len(rows) - len(kept)


def draw(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """The rows that are left when `count` of them are drawn at random, and the drawn ones.

    Raises:
        UserError: no row would be left.
    """
    if count >= len(rows):
        raise UserError(
            f"num_heldout={count} leaves none of the {len(rows)} prompts to train on: "
            "hold out fewer"
        )
    drawn = set(random.Random(seed).sample(range(len(rows)), count))
    return rows.select([i for i in range(len(rows)) if i not in drawn]), rows.select(sorted(drawn))


def each(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows one by one."""
    for batch in rows.iter(BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _digest(prompt: Any) -> bytes:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()[:16]


def _digests(rows: Dataset) -> Iterator[bytes]:
    return (_digest(prompt) for batch in rows.iter(BATCH) for prompt in batch["prompt"])
