"""The corpus and the RL prompts of the controlled task `shaped_eval.benchmarks.running_sums`.

A training text is a prompt, then either work with noise and the right answer, or a guess at the
answer:

    3 1 4 1 5 9 2 . . . . = work 3 1 4 4 w12 3 6 answer 6 6 3
    3 1 4 1 5 9 2 . . . . = answer 0 8 1

Noise replaces a step's word and nothing else: the sum goes on rightly below it. So a model that
emits a filler has lost a running sum and must find it again from two steps back, which is what
makes noisy steps costly.

A share of the texts may be plain, which has nothing to do with the task: a chain of filler words
after ``=``, each drawn by where the one before stands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.running_sums import (
    ANSWER,
    END_OF_PROMPT,
    NAME,
    WORK,
    RunningSums,
    answer_of,
    draw_digits,
    prompt_text,
    running_sums,
)
from shaped_eval.errors import UserError

from shaped_trl.data.generated import check_counts, write_files

PLAIN_WORDS = 16
PLAIN_FILLERS = 64  # the most frequent ones, which a tokenizer of the task's texts alone knows


def corpus_rows(options: RunningSums, *, held_out: bool = False) -> Iterator[dict[str, str]]:
    """Rows ``{"prompt", "completion"}`` without end; `held_out` draws from the prompts kept for
    evaluation.

    Prompt and completion are apart so that no loss is spent on digits that nothing can predict. A
    completion starts with the space that joins it to its prompt.
    """
    rng = random.Random(f"{NAME} {'heldout' if held_out else 'train'} {options.seed}")
    fillers = options.fillers()
    cumulative = list(
        accumulate((rank + 1) ** -options.zipf_exponent for rank in range(len(fillers)))
    )
    while True:
        length = _text_length(rng, options)
        digits = draw_digits(rng, length, options, held_out=held_out)
        if rng.random() < options.p_long:
            steps = [
                rng.choices(fillers, cum_weights=cumulative)[0]
                if rng.random() < options.noise
                else str(total)
                for total in running_sums(digits, options)
            ]
            words = [WORK, *steps, ANSWER, answer_of(digits, options)]
        else:
            words = [ANSWER, *(str(rng.randrange(options.modulus)) for _ in range(options.streams))]
        yield {"prompt": prompt_text(digits, options), "completion": " " + " ".join(words)}


def _text_length(rng: random.Random, options: RunningSums) -> int:
    lengths = range(options.min_digits, options.max_digits + 1)
    return (
        rng.choices(lengths, options.length_weights)[0]
        if options.length_weights
        else rng.choice(lengths)
    )


def plain_rows(options: RunningSums, *, held_out: bool = False) -> Iterator[dict[str, str]]:
    """Rows of plain text without end: chains of `PLAIN_WORDS` fillers, in each the rank after the
    last word's drawn by the same Zipf law from another place of the list."""
    rng = random.Random(f"{NAME} plain {'heldout' if held_out else 'train'} {options.seed}")
    fillers = options.fillers()[:PLAIN_FILLERS]
    cumulative = list(
        accumulate((rank + 1) ** -options.zipf_exponent for rank in range(len(fillers)))
    )
    while True:
        place, words = 0, []
        for _ in range(PLAIN_WORDS):
            place = (7 * place + rng.choices(range(len(fillers)), cum_weights=cumulative)[0]) % len(
                fillers
            )
            words.append(fillers[place])
        yield {"prompt": END_OF_PROMPT, "completion": " " + " ".join(words)}


def _mixed(
    rows: Iterator[dict[str, str]], others: Iterator[dict[str, str]], share: float
) -> Iterator[dict[str, str]]:
    """`rows`, but a `share` of them `others`; without a share the very `rows`."""
    rng = random.Random(f"{NAME} mixed")
    while True:
        yield next(others if share and rng.random() < share else rows)


def prompt_rows(options: RunningSums) -> Iterator[dict[str, str]]:
    """RL rows ``{"prompt", "gold"}`` without end: no held-out prompt, every length up to `slots`
    equally often."""
    rng = random.Random(f"{NAME} rl {options.seed}")
    while True:
        length = rng.randint(options.min_digits, options.slots)
        digits = draw_digits(rng, length, options, held_out=False)
        yield {"prompt": prompt_text(digits, options), "gold": answer_of(digits, options)}


def write_corpus(
    folder: str | Path | None,
    *,
    train_rows: int = 50_000,
    heldout_rows: int = 512,
    rl_rows: int = 4_000,
    midtrain_rows: int = 0,
    plain_share: float = 0.0,
    **task: Any,
) -> None:
    """Write ``train.jsonl``, ``heldout.jsonl`` (validation texts) and ``rl_prompts.jsonl`` into
    `folder`; without one the options are only checked.

    Each file is replaced at once and has the same bytes for the same arguments. `task` holds fields
    of `RunningSums`. With `midtrain_rows` there is ``midtrain.jsonl``: texts that all work, as long
    as problems are. With `plain_share` so many texts to train on are plain; held-out ones, in a
    column `source`, are ``sums`` and then as many ``text``.

    Raises:
        UserError: a field or a count outside its range; nothing is written.
    """
    options = RunningSums.of(**task)
    check_counts(train_rows=train_rows, heldout_rows=heldout_rows, rl_rows=rl_rows)
    if midtrain_rows:
        check_counts(midtrain_rows=midtrain_rows)
    if isinstance(plain_share, str) or not 0 <= plain_share < 1:
        raise UserError(f"plain_share={plain_share!r} is out of range: give a number in [0, 1)")
    files: dict[str, Iterable[dict[str, str]]] = {
        "train.jsonl": islice(
            _mixed(corpus_rows(options), plain_rows(options), plain_share), train_rows
        ),
        "heldout.jsonl": islice(corpus_rows(options, held_out=True), heldout_rows),
        "rl_prompts.jsonl": islice(prompt_rows(options), rl_rows),
    }
    if plain_share:
        plain = islice(plain_rows(options, held_out=True), heldout_rows)
        parts = {"sums": files["heldout.jsonl"], "text": plain}
        files["heldout.jsonl"] = (
            row | {"source": name} for name, rows in parts.items() for row in rows
        )
    if midtrain_rows:
        longer = replace(
            options, p_long=1.0, max_digits=options.slots, length_weights=(), seed=options.seed + 1
        )
        files["midtrain.jsonl"] = islice(corpus_rows(longer), midtrain_rows)
    write_files(folder, files)
