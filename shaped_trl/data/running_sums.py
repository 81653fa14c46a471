"""The corpus and the RL prompts of the controlled task `shaped_eval.benchmarks.running_sums`.

A training text is a prompt, followed either by work with noise and the right answer, or by a guess:

    3 1 4 1 5 9 2 . . . . = work 3 1 4 4 w12 3 6 answer 6 6 3
    3 1 4 1 5 9 2 . . . . = answer 0 8 1

Noise replaces the word of a step and nothing else: the sums after it are right. A model that emits
a filler has therefore lost a running sum, and must compute it again from the one before it in the
same stream. This makes noisy steps costly.

A share of the texts may be plain text that has nothing to do with the task: a chain of filler words
after ``=``, in which each word is drawn given the one before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.running_sums import (
    END_OF_PROMPT,
    NAME,
    WORK,
    RunningSums,
    answer_of,
    draw_digits,
    prompt_text,
    running_sums,
)
from shaped_eval.benchmarks.running_sums import problems as held_out_problems
from shaped_eval.errors import UserError
from shaped_eval.grading.text.running_sums import ANSWER

from shaped_trl.data.generated import check_counts, write_benchmark, write_files

PLAIN_WORDS = 16
PLAIN_FILLERS = 64  # the most frequent ones, which a tokenizer trained on the task alone knows


def corpus_rows(options: RunningSums, *, held_out: bool = False) -> Iterator[dict[str, str]]:
    """An endless stream of rows ``{"prompt", "completion"}``.

    Prompt and completion are separate columns, so that there is no loss on the digits, which are
    random. A completion begins with the space that joins it to its prompt.

    Args:
        options: of the task and its corpus.
        held_out: draw the prompts that are for evaluation only.
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
    """An endless stream of plain texts, each a chain of `PLAIN_WORDS` fillers.

    The same Zipf law draws every word, counted from a place in the list that depends on the word
    before.
    """
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
    """`rows`, of which `others` replace a `share`; exactly `rows` if the share is 0."""
    rng = random.Random(f"{NAME} mixed")
    while True:
        yield next(others if share and rng.random() < share else rows)


def prompt_rows(options: RunningSums) -> Iterator[dict[str, str]]:
    """An endless stream of RL rows ``{"prompt", "gold"}``.

    None of the prompts is held out, and every length up to `slots` is equally frequent.
    """
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
    problems: int = 0,
    **task: Any,
) -> None:
    """Write ``train.jsonl``, ``heldout.jsonl`` and ``rl_prompts.jsonl``, each replaced atomically.

    The same arguments give the same bytes.

    Args:
        folder: where they go; None to check the options only.
        train_rows: number of training texts.
        heldout_rows: number of validation texts.
        rl_rows: number of RL prompts.
        midtrain_rows: number of texts of ``midtrain.jsonl``, which all work and are as long as
            problems; 0 to write no such file.
        plain_share: share of the training texts that are plain. If it is above 0, the validation
            texts are followed by as many plain ones, and a column ``source`` calls the former
            ``sums`` and the latter ``text``.
        problems: number of held-out problems of the seed's own in ``problems.yaml``, a benchmark
            for evaluation; 0 to write no such file.
        task: fields of `RunningSums`.

    Raises:
        UserError: a field or a count is outside its range. Nothing is written then.
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
    rows = [
        (each.prompt, each.gold)
        for each in (held_out_problems(options, problems) if problems else ())
    ]
    write_files(folder, files)
    if problems:
        write_benchmark(folder, rows, NAME)
