"""The corpus and the RL prompts of the controlled task `eval_suite.benchmarks.running_sums`.

A training text is a prompt, then either work with noise and the right answer, or a guess at the answer:

    3 1 4 1 5 9 2 . . . . = work 3 1 4 4 w12 3 6 answer 6 6 3
    3 1 4 1 5 9 2 . . . . = answer 0 8 1

Noise replaces a step's word and nothing else: the sum goes on rightly below it. So a model that emits a filler has
lost a running sum and must find it again from two steps back, which is what makes noisy steps costly.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from eval_suite.benchmarks.running_sums import (
    ANSWER,
    NAME,
    WORK,
    RunningSums,
    answer_of,
    draw_digits,
    prompt_text,
    running_sums,
)
from eval_suite.errors import UserError
from eval_suite.records import write_atomic


def corpus_rows(options: RunningSums, *, held_out: bool = False) -> Iterator[dict[str, str]]:
    """Rows ``{"prompt", "completion"}`` without end; `held_out` draws from the prompts kept for evaluation.

    Prompt and completion are apart so that no loss is spent on digits that nothing can predict. A completion starts
    with the space that joins it to its prompt.
    """
    rng = random.Random(f"{NAME} {'heldout' if held_out else 'train'} {options.seed}")
    fillers = options.fillers()
    cumulative = list(accumulate((rank + 1) ** -options.zipf_exponent for rank in range(len(fillers))))
    while True:
        length = _text_length(rng, options)
        digits = draw_digits(rng, length, options, held_out=held_out)
        if rng.random() < options.p_long:
            steps = [
                rng.choices(fillers, cum_weights=cumulative)[0] if rng.random() < options.noise else str(total)
                for total in running_sums(digits, options)
            ]
            words = [WORK, *steps, ANSWER, answer_of(digits, options)]
        else:
            words = [ANSWER, *(str(rng.randrange(options.modulus)) for _ in range(options.streams))]
        yield {"prompt": prompt_text(digits, options), "completion": " " + " ".join(words)}


def _text_length(rng: random.Random, options: RunningSums) -> int:
    lengths = range(options.min_digits, options.max_digits + 1)
    return rng.choices(lengths, options.length_weights)[0] if options.length_weights else rng.choice(lengths)


def prompt_rows(options: RunningSums) -> Iterator[dict[str, str]]:
    """RL rows ``{"prompt", "gold"}`` without end: no held-out prompt, every length up to `slots` equally often."""
    rng = random.Random(f"{NAME} rl {options.seed}")
    while True:
        length = rng.randint(options.min_digits, options.slots)
        digits = draw_digits(rng, length, options, held_out=False)
        yield {"prompt": prompt_text(digits, options), "gold": answer_of(digits, options)}


def write_corpus(
    folder: str | Path,
    *,
    train_rows: int = 50_000,
    heldout_rows: int = 512,
    rl_rows: int = 4_000,
    **task: Any,
) -> None:
    """Write ``train.jsonl``, ``heldout.jsonl`` (validation texts) and ``rl_prompts.jsonl`` into `folder`.

    Each file is replaced at once and has the same bytes for the same arguments. `task` holds fields of `RunningSums`.

    Raises:
        UserError: a field or a count outside its range; nothing is written.
    """
    options = RunningSums.of(**task)
    for name, count in {"train_rows": train_rows, "heldout_rows": heldout_rows, "rl_rows": rl_rows}.items():
        if count < 1:
            raise UserError(f"{name}={count} must be at least 1")
    files: dict[str, Iterable[dict[str, str]]] = {
        "train.jsonl": islice(corpus_rows(options), train_rows),
        "heldout.jsonl": islice(corpus_rows(options, held_out=True), heldout_rows),
        "rl_prompts.jsonl": islice(prompt_rows(options), rl_rows),
    }
    for name, rows in files.items():
        write_atomic(Path(folder) / name, "".join(json.dumps(row) + "\n" for row in rows))
