"""Benchmarks by name: where their rows are, how a prompt is built, what ends a completion, who grades it.

One table, `BENCHMARKS`, for those read from a data set; `GENERATED` for those a module makes. Adding one is
adding a row.

GSM8K has 4 worked examples for base models, the first 4 rows of the train split of the same source. MATH-500
and AIME have none, only the instruction to box the answer.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_suite.benchmarks import prompts
from eval_suite.benchmarks.prompts import Question, Style
from eval_suite.errors import UserError
from eval_suite.records import Problem
from eval_suite.sources import load_rows


@dataclass(frozen=True)
class Benchmark:
    """One row of the table. `shots` worked examples begin a base prompt: the first rows of `shots_split`."""

    dataset_id: str
    config: str | None
    split: str
    read: Callable[[Mapping[str, Any]], Question]
    style: Style
    grader: str
    shots: int = 0
    shots_split: str = "train"


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark("openai/gsm8k", "main", "test", prompts.read_gsm8k, prompts.QUESTION_ANSWER, "gsm8k", shots=4),
    "math500": Benchmark("HuggingFaceH4/MATH-500", None, "test", prompts.read_math500, prompts.PROBLEM_BOXED, "math"),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", None, "train", prompts.read_aime, prompts.PROBLEM_BOXED, "math"),
}

# name -> module with `problems() -> list[Problem]`; imported when asked for.
GENERATED: dict[str, str] = {"running_sums": "eval_suite.benchmarks.running_sums"}


def load_problems(
    names: Sequence[str],
    *,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> list[Problem]:
    """The problems of the named benchmarks, in order; `limit` keeps the first so many of each.

    A problem's `meta` holds ``row`` (its index in the source) and ``stop`` (strings that end a completion).
    `chat` builds user messages in place of texts to continue.

    Raises:
        UserError: an unknown or repeated benchmark, a data set not found, a row that lacks a field.
    """
    check_names(names)
    return [problem for name in names for problem in _load_one(name, hub_mirror, limit, chat)]


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for no, an unknown or a repeated benchmark; reads nothing."""
    known = [*BENCHMARKS, *GENERATED]
    if not names:
        raise UserError(f"benchmarks is empty: name some of {', '.join(known)}, separated by commas")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"benchmarks: {name!r} is unknown: the known ones are {', '.join(known)}{guess}")
        if list(names).count(name) > 1:
            raise UserError(f"benchmarks: {name!r} is named more than once: name each once")


def _load_one(name: str, hub_mirror: str | Path | None, limit: int | None, chat: bool) -> list[Problem]:
    if name in GENERATED:
        return importlib.import_module(GENERATED[name]).problems()[:limit]
    benchmark = BENCHMARKS[name]
    rows = load_rows(benchmark.dataset_id, benchmark.config, benchmark.split, hub_mirror)[:limit]
    shots: list[Question] = []
    if benchmark.shots and not chat:
        train = load_rows(benchmark.dataset_id, benchmark.config, benchmark.shots_split, hub_mirror)
        shots = [_read(benchmark, row, index) for index, row in enumerate(train[: benchmark.shots])]
    return [
        _problem(name, benchmark, _read(benchmark, row, index), index, shots, chat) for index, row in enumerate(rows)
    ]


def _read(benchmark: Benchmark, row: Mapping[str, Any], index: int) -> Question:
    try:
        return benchmark.read(row)
    except KeyError as missing:
        raise UserError(
            f"data set {benchmark.dataset_id!r}, row {index}: no field {missing} among {', '.join(row)}: "
            "check that the mirror holds the rows as the Hub has them"
        ) from missing


def _problem(
    name: str, benchmark: Benchmark, question: Question, index: int, shots: list[Question], chat: bool
) -> Problem:
    style = benchmark.style
    prompt = prompts.chat_prompt(style, question.text) if chat else prompts.base_prompt(style, question.text, shots)
    own_id = str(index) if question.own_id is None else question.own_id
    meta = {"row": index, "stop": [] if chat else list(style.stop), **question.meta}
    return Problem(f"{name}/{own_id}", name, prompt, question.gold, benchmark.grader, meta)
