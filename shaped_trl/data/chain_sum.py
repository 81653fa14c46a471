"""The corpus and the RL prompts of `shaped_eval.benchmarks.chain_sum`, arithmetic of reasoning-gym.

A training text is a question and then either the totals after each term, some of which noise
replaces, with the answer, or a guess at the answer:

    State the final answer to the following arithmetic problem: 7 + 5 - 3 = 12 9 Answer: 9
    State the final answer to the following arithmetic problem: 7 + 5 - 3 = Answer: -4
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.chain_sum import (
    MAX_TERMS,
    MIN_TERMS,
    NAME,
    held_out_questions,
    questions,
    totals,
)
from shaped_eval.benchmarks.options import options_of
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.grader import MARK

from shaped_trl.data.generated import check_counts, write_benchmark, write_files

SHORT, LONG, HELD_OUT, RL = range(1, 5)  # parts of the data; part 0 is the benchmark's
HARDEST = 9 * MAX_TERMS  # the largest absolute value of a total


@dataclass(frozen=True)
class ChainSum:
    """Options of the corpus. Equal options give the same rows, byte for byte.

    Args:
        p_long: share of the texts that write totals before they answer; the others guess.
        noise: probability that a total is a random number; the next one is right again.
        max_terms: most terms of a text; the fewest are 3.
        long_share: share of the texts with up to 8 terms.
        seed: from 0 to 9999.

    Raises:
        UserError: a field is outside its range.
    """

    p_long: float = 0.7
    noise: float = 0.1
    max_terms: int = 6
    long_share: float = 0.02
    seed: int = 0

    def __post_init__(self):
        for name in ("p_long", "noise", "long_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is out of range: give a number in [0, 1]"
                )
        if not MIN_TERMS <= self.max_terms <= MAX_TERMS:
            raise UserError(
                f"max_terms={self.max_terms} is out of range: give {MIN_TERMS} to {MAX_TERMS}"
            )
        if not 0 <= self.seed < 10_000:
            raise UserError(f"seed={self.seed} is out of range: give 0 to 9999")


def corpus_rows(options: ChainSum, *, held_out: bool = False) -> Iterator[dict[str, str]]:
    """An endless stream of rows ``{"prompt", "completion"}``; completions begin with a space."""
    rng = random.Random(f"{NAME} {'heldout' if held_out else 'train'} {options.seed}")
    parts = (HELD_OUT, HELD_OUT) if held_out else (SHORT, LONG)
    short, longer = (
        questions(options.seed, part, held_out=held_out, max_terms=most)
        for part, most in zip(parts, (options.max_terms, MAX_TERMS), strict=True)
    )
    while True:
        question, _, metadata = next(longer if rng.random() < options.long_share else short)
        right = totals(metadata["expression"])
        if rng.random() < options.p_long:
            work = [
                rng.randint(-HARDEST, HARDEST) if rng.random() < options.noise else total
                for total in right
            ]
            words = [*map(str, work), MARK, str(right[-1])]
        else:
            words = [MARK, str(rng.randint(-HARDEST, HARDEST))]
        yield {"prompt": question, "completion": " " + " ".join(words)}


def write_corpus(
    folder: str | Path | None,
    *,
    train_rows: int = 50_000,
    heldout_rows: int = 512,
    rl_rows: int = 4_000,
    problems: int = 0,
    **task: Any,
) -> None:
    """Write ``train.jsonl``, ``heldout.jsonl`` and ``rl_prompts.jsonl``, each replaced atomically.

    Args:
        folder: where they go; None to check the options only.
        train_rows: number of training texts.
        heldout_rows: number of validation texts.
        rl_rows: number of RL prompts, with 3 to 8 terms equally often.
        problems: number of held-out questions of the seed's own in ``problems.yaml``, a benchmark
            for evaluation, a multiple of 6; 0 to write no such file. Its grader compares numbers,
            so that answers can be voted on, as those of the task's own grader cannot.
        task: fields of `ChainSum`.

    Raises:
        UserError: a field or a count is outside its range, or reasoning-gym is not installed.
            Nothing is written then.
    """
    options = options_of(ChainSum, NAME, task)
    check_counts(train_rows=train_rows, heldout_rows=heldout_rows, rl_rows=rl_rows)
    prompts = (
        {"prompt": question, "gold": gold}
        for question, gold, _ in questions(options.seed, RL, held_out=False)
    )
    files = {
        "train.jsonl": islice(corpus_rows(options), train_rows),
        "heldout.jsonl": islice(corpus_rows(options, held_out=True), heldout_rows),
        "rl_prompts.jsonl": islice(prompts, rl_rows),
    }
    rows = [
        (question, str(totals(_expression(question))[-1]))
        for question, _, _ in (held_out_questions(options.seed, problems) if problems else ())
    ]
    write_files(folder, files)
    if problems:
        write_benchmark(folder, rows, "exact_match")


def _expression(question: str) -> str:
    return question.rpartition(": ")[2].removesuffix(" =")
