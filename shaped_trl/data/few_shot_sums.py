"""Sums for a pretrained language model that was not taught the task: prompts with worked examples.

    3+8=11
    6+2=8
    9+5=

The model goes on with further sums after its answer, so the grader `text` reads the first line. A
quarter of the sums, in either order of their terms, is for evaluation only. There is no corpus to
train on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.options import options_of
from shaped_eval.errors import UserError

from shaped_trl.data.generated import check_counts, write_benchmark, write_files

NAME = "few_shot_sums"
HELD_OUT_SHARE = 4  # one of so many sums is held out
GRADER = "text"
ALLOWED = {"shots": (0, 16), "max_term": (9, 999), "seed": (0, 9999)}

Terms = tuple[int, int]


@dataclass(frozen=True)
class FewShotSums:
    """Options of the prompts. Equal options give the same rows, byte for byte.

    Args:
        shots: number of worked examples in a prompt, up to 16.
        max_term: largest term of a sum, from 9 to 999; the smallest is 1.
        seed: of the prompts, from 0 to 9999. The sums that are held out do not depend on it.

    Raises:
        UserError: a field is outside its range.
    """

    shots: int = 2
    max_term: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in ALLOWED.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(
                    f"{name}={getattr(self, name)} is out of range: give {least} to {most}"
                )


def divided(options: FewShotSums) -> tuple[list[Terms], list[Terms]]:
    """All unordered sums in two parts, for training and for evaluation."""
    sums = list(combinations_with_replacement(range(1, options.max_term + 1), 2))
    random.Random(f"{NAME} parts").shuffle(sums)
    cut = len(sums) // HELD_OUT_SHARE
    return sums[cut:], sums[:cut]


def prompt_rows(options: FewShotSums, *, held_out: bool = False) -> Iterator[tuple[str, str]]:
    """An endless stream of (prompt, gold). Worked examples are never sums that are held out."""
    train, evaluation = divided(options)
    rng = random.Random(f"{NAME} {'heldout' if held_out else 'rl'} {options.seed}")
    asked = evaluation if held_out else train
    while True:
        question = rng.choice(asked)
        others = [terms for terms in train if terms != question]
        shown = [_ordered(rng, terms) for terms in rng.sample(others, options.shots)]
        a, b = _ordered(rng, question)
        yield "".join(f"{c}+{d}={c + d}\n" for c, d in shown) + f"{a}+{b}=", str(a + b)


def write_corpus(
    folder: str | Path | None, *, rl_rows: int = 4_000, problems: int = 48, **task: Any
) -> None:
    """Write ``rl_prompts.jsonl``, and ``problems.yaml``, a benchmark of held-out sums.

    Args:
        folder: where they go; None to check the options only.
        rl_rows: number of RL prompts.
        problems: number of problems for evaluation. They ask the held-out sums, 11 by default,
            again and again after other examples, so that intervals over problems, which take them
            as independent, are too short.
        task: fields of `FewShotSums`.

    Raises:
        UserError: a field or a count is outside its range. Nothing is written then.
    """
    options = options_of(FewShotSums, NAME, task)
    check_counts(rl_rows=rl_rows, problems=problems)
    rows = islice(prompt_rows(options), rl_rows)
    write_files(
        folder, {"rl_prompts.jsonl": ({"prompt": prompt, "gold": gold} for prompt, gold in rows)}
    )
    write_benchmark(folder, islice(prompt_rows(options, held_out=True), problems), GRADER)


def _ordered(rng: random.Random, terms: Sequence[int]) -> Terms:
    a, b = rng.sample(terms, 2)
    return a, b
