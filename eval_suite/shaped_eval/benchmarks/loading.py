"""The problems of a benchmark: its rows are read, and made into prompts with golds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks import prompts
from shaped_eval.benchmarks.prompts import Question
from shaped_eval.benchmarks.registry import (
    BENCHMARKS,
    ELSEWHERE,
    GENERATED,
    Benchmark,
    check_names,
    check_shots,
    has_examples,
)
from shaped_eval.benchmarks.worked_examples import SOURCE
from shaped_eval.errors import UserError
from shaped_eval.records import Problem
from shaped_eval.sources import NotInMirror, load_rows


def load_problems(
    names: Sequence[str],
    *,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
    chat: bool = False,
    shots: int | None = None,
) -> list[Problem]:
    """The problems of the named benchmarks, in order; `limit` keeps the first so many of each.

    A problem's `meta` holds ``row`` (its index in the source) and ``stop`` (strings that end a
    completion). `chat` builds user messages in place of texts to continue. `shots` worked examples
    in place of each benchmark's own number of them; among several benchmarks those that have no
    examples stay without.

    Raises:
        UserError: an unknown or repeated benchmark, one whose extra is missing, a data set not
            found, a row that lacks a field, more worked examples than there are, or any in a chat.
    """
    check_names(names)
    check_shots(shots, chat)
    alone = len(names) == 1
    shots_of = {name: shots if alone or has_examples(name) else None for name in names}
    return [
        problem
        for name in names
        for problem in _load_one(name, hub_mirror, limit, chat, shots_of[name])
    ]


def not_in_mirror(names: Sequence[str], hub_mirror: str | Path | None) -> list[str]:
    """Those of `names` of which the mirror, where one is set, lacks a split; looked up with one row
    of each."""
    return [name for name in names if _is_missing(name, hub_mirror)]


def _is_missing(name: str, hub_mirror: str | Path | None) -> bool:
    try:
        _load_one(name, hub_mirror, limit=1, chat=False, shots=None)
    except NotInMirror:
        return True
    return False


def _load_one(
    name: str, hub_mirror: str | Path | None, limit: int | None, chat: bool, shots: int | None
) -> list[Problem]:
    if name in GENERATED:
        return importlib.import_module(GENERATED[name]).problems()[:limit]
    if name in ELSEWHERE:
        module = importlib.import_module(ELSEWHERE[name].module)
        return module.problems(name, hub_mirror=hub_mirror, limit=limit, chat=chat, shots=shots)
    benchmark = BENCHMARKS[name]
    examples: list[Question] = []
    source = None
    if not chat and (benchmark.shots if shots is None else shots):
        examples, source = _worked_examples(
            name, hub_mirror, benchmark.shots if shots is None else shots
        )
    asked = questions(name, hub_mirror, limit)
    return [
        _problem(name, benchmark, question, row, examples, source, chat)
        for row, question in enumerate(asked)
    ]


def questions(
    name: str, hub_mirror: str | Path | None = None, limit: int | None = None
) -> list[Question]:
    """The questions of a benchmark of `BENCHMARKS`, without instructions or examples, in the
    source's order.

    Raises:
        UserError: the data set is not found, or a row lacks a field.
    """
    benchmark = BENCHMARKS[name]
    return _read_split(benchmark, benchmark.split, hub_mirror, limit)


def _worked_examples(
    name: str, hub_mirror: str | Path | None, shots: int
) -> tuple[list[Question], str]:
    """The first `shots` worked examples, and where they come from."""
    benchmark = BENCHMARKS[name]
    examples, source = list(benchmark.examples), SOURCE
    if benchmark.shots_from is not None:
        examples, source = benchmark.shots_from(hub_mirror, shots)
    if benchmark.shots_split is not None:
        examples = _read_split(benchmark, benchmark.shots_split, hub_mirror, shots)
        source = f"{benchmark.dataset_id}, config {benchmark.config}, split {benchmark.shots_split}, first rows"
    if shots > len(examples):
        raise UserError(
            f"shots={shots}, but {name} has {len(examples)} worked examples: use at most that many"
        )
    return examples[:shots], source


def _read_split(
    benchmark: Benchmark, split: str, hub_mirror: str | Path | None, limit: int | None = None
) -> list[Question]:
    rows = load_rows(benchmark.dataset_id, benchmark.config, split, hub_mirror)[:limit]
    return [_read(benchmark, row, index) for index, row in enumerate(rows)]


def _read(benchmark: Benchmark, row: Mapping[str, Any], index: int) -> Question:
    try:
        return benchmark.read(row)
    except KeyError as missing:
        raise UserError(
            f"data set {benchmark.dataset_id!r}, row {index}: no field {missing} among {', '.join(row)}: "
            "check that the mirror holds the rows as the Hub has them"
        ) from missing


def _problem(
    name: str,
    benchmark: Benchmark,
    question: Question,
    row: int,
    examples: list[Question],
    source: str | None,
    chat: bool,
) -> Problem:
    style = benchmark.style
    prompt = (
        prompts.chat_prompt(style, question.text)
        if chat
        else prompts.base_prompt(style, question.text, examples)
    )
    own_id = str(row) if question.own_id is None else question.own_id
    meta: dict[str, Any] = {"row": row, "stop": [] if chat else list(style.stop), **question.meta}
    if examples:
        meta |= {"shots": len(examples), "shots_source": source}
    return Problem(f"{name}/{own_id}", name, prompt, question.gold, benchmark.grader, meta)
