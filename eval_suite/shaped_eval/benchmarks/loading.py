"""The problems of benchmarks: their rows are read and made into prompts with golds."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.own import is_file_of_rows, is_own, name_of
from shaped_eval.benchmarks.prompts import Question, base_prompt, chat_messages
from shaped_eval.benchmarks.registry import (
    ELSEWHERE,
    GENERATED,
    benchmark_of,
    check_names,
    check_shots,
    check_since,
    has_examples,
)
from shaped_eval.benchmarks.rows import Benchmark, columns_read, day_of, read_question
from shaped_eval.benchmarks.worked_examples import SOURCE
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, read_jsonl
from shaped_eval.sources import NotInMirror, iter_file_rows, iter_rows


def load_problems(
    names: Sequence[str],
    *,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
    chat: bool = False,
    shots: int | None = None,
    since: str | None = None,
) -> list[Problem]:
    """The problems of benchmarks, in the order of the names.

    The `meta` of a problem holds ``row``, its index in the data set, and ``stop``, the strings that
    end a completion.

    Args:
        names: names of shipped benchmarks, and paths of files that define others (`own`).
        hub_mirror: folder that is read in place of the Hub, see `shaped_eval.sources`.
        limit: keep so many of the first problems of each benchmark; None for all.
        chat: make messages of a user in place of texts to continue.
        shots: number of worked examples; None for each benchmark's own number. Of several
            benchmarks those that have no worked examples stay without.
        since: of a benchmark whose problems have dates, keep those published on this day or later,
            such as 2025-01-31. Others keep all.

    Raises:
        UserError: a benchmark is unknown, stands twice or lacks its extra; a data set is not found,
            or one of its rows cannot be read; there are fewer worked examples than `shots`, or any
            in a chat; or no problem is left by `since`, or no benchmark has dates.
    """
    check_names(names)
    check_shots(shots, chat)
    check_since(since, names)
    alone = len(names) == 1
    shots_of = {name: shots if alone or has_examples(name) else None for name in names}
    return [
        problem
        for name in names
        for problem in _load_one(name, hub_mirror, limit, chat, shots_of[name], since)
    ]


def is_stored(folder: str | Path, names: Sequence[str]) -> bool:
    """Whether a run in `folder` goes on with the problems that it has stored.

    It does if one of `names` is a file that does not exist any more.
    """
    gone = any(is_own(name) and not Path(name).exists() for name in names)
    return gone and (Path(folder) / "problems.jsonl").is_file()


def problems_of_run(folder: str | Path, names: Sequence[str], **options: Any) -> list[Problem]:
    """The problems of the run in `folder`: those that it has stored (`is_stored`), or new ones.

    Args:
        folder: of a run that has begun or will begin.
        names: as in `load_problems`.
        options: of `load_problems`.

    Raises:
        UserError: as `load_problems`, or the stored problems are damaged.
    """
    if is_stored(folder, names):
        return list(read_jsonl(Path(folder) / "problems.jsonl", Problem))
    return load_problems(names, **options)


def not_in_mirror(names: Sequence[str], hub_mirror: str | Path | None) -> list[str]:
    """Those of `names` that a mirror lacks, if one is set; one row of each is read to find out."""
    return [name for name in names if _is_missing(name, hub_mirror)]


def _is_missing(name: str, hub_mirror: str | Path | None) -> bool:
    try:
        _load_one(name, hub_mirror, limit=1, chat=False, shots=None)
    except NotInMirror:
        return True
    return False


def _load_one(
    name: str,
    hub_mirror: str | Path | None,
    limit: int | None,
    chat: bool,
    shots: int | None,
    since: str | None = None,
) -> list[Problem]:
    if name in GENERATED:
        return importlib.import_module(GENERATED[name]).problems()[:limit]
    if name in ELSEWHERE:
        module = importlib.import_module(ELSEWHERE[name].module)
        return module.problems(name, hub_mirror=hub_mirror, limit=limit, chat=chat, shots=shots)
    benchmark = benchmark_of(name)
    examples: list[Question] = []
    source = None
    if not chat:
        examples, source = worked_examples(name, hub_mirror, shots)
    chosen = _read_split(benchmark, benchmark.split, hub_mirror, limit, since)
    if since is not None and not chosen:
        raise UserError(
            f"since={since!r}: {name} has no problem of that day or later: choose an earlier day"
        )
    return [
        _problem(name_of(name), benchmark, question, row, examples, source, chat)
        for row, question in chosen
    ]


def questions(name: str, hub_mirror: str | Path | None = None) -> list[Question]:
    """The questions of a benchmark without instructions or examples, in the data set's order.

    Args:
        name: of `BENCHMARKS`, or the path of a file that defines a benchmark.
        hub_mirror: folder that is read in place of the Hub.

    Raises:
        UserError: the data set is not found, or a row cannot be read.
    """
    benchmark = benchmark_of(name)
    read = _read_split(benchmark, benchmark.split, hub_mirror)
    return [question for _, question in read]


def worked_examples(
    name: str, hub_mirror: str | Path | None = None, shots: int | None = None
) -> tuple[list[Question], str | None]:
    """The worked examples of a benchmark, and where they come from; None if there are none.

    Args:
        name: of `BENCHMARKS`, or the path of a file that defines a benchmark.
        hub_mirror: folder that is read in place of the Hub.
        shots: how many; None for the benchmark's own number.

    Raises:
        UserError: there are fewer than `shots`, or their rows cannot be read.
    """
    benchmark = benchmark_of(name)
    shots = benchmark.shots if shots is None else shots
    if not shots:
        return [], None
    examples, source = list(benchmark.examples), SOURCE
    if benchmark.shots_from is not None:
        examples, source = benchmark.shots_from(hub_mirror, shots)
    if benchmark.shots_split is not None:
        reading = replace(benchmark, read=benchmark.read_example or benchmark.read)
        read = _read_split(reading, benchmark.shots_split, hub_mirror, shots)
        examples = [question for _, question in read]
        source = f"{_source(benchmark, benchmark.shots_split)}, first rows"
    if shots > len(examples):
        raise UserError(
            f"shots={shots}, but {name_of(name)} has {len(examples)} worked examples: "
            "use at most that many"
        )
    return examples[:shots], source


def _source(benchmark: Benchmark, split: str) -> str:
    """The rows in words; of a file its name alone, since run folders are published."""
    if is_file_of_rows(split):
        return Path(split).name
    return f"{benchmark.dataset_id}, config {benchmark.config}, split {split}"


def split_rows(
    benchmark: Benchmark, split: str, hub_mirror: str | Path | None
) -> list[dict[str, Any]]:
    """The rows of a split: of a file of rows, of the mirror, or of the Hub.

    Args:
        benchmark: names the data set.
        split: name of a split, or the path of a .jsonl file.
        hub_mirror: folder that is read in place of the Hub.

    Raises:
        UserError: there is no such split or file, or the file cannot be read.
    """
    return list(_rows(benchmark, split, hub_mirror))


def _rows(
    benchmark: Benchmark, split: str, hub_mirror: str | Path | None
) -> Iterator[dict[str, Any]]:
    for name in (split, benchmark.dataset_id):
        if is_file_of_rows(name):
            return iter_file_rows(name)
    return iter_rows(benchmark.dataset_id, benchmark.config, split, hub_mirror)


def _read_split(
    benchmark: Benchmark,
    split: str,
    hub_mirror: str | Path | None,
    limit: int | None = None,
    since: str | None = None,
) -> list[tuple[int, Question]]:
    """The questions of a split with the indices of their rows; at most `limit` since that day."""
    source = f"data set {split if is_file_of_rows(split) else benchmark.dataset_id!r}"
    rows = _rows(benchmark, split, hub_mirror)
    for first in rows:
        columns_read(benchmark, list(first), source)
        rows = chain([first], rows)
        break
    placed = ((index, row, f"{source}, row {index}") for index, row in enumerate(rows))
    if since is not None and benchmark.date_of is not None:
        placed = (each for each in placed if day_of(benchmark, each[1], each[2]) >= since)
    return [(index, read_question(benchmark, row, at)) for index, row, at in islice(placed, limit)]


def _problem(
    name: str,
    benchmark: Benchmark,
    question: Question,
    row: int,
    examples: Sequence[Question],
    source: str | None,
    chat: bool,
) -> Problem:
    style = benchmark.style
    if chat:
        prompt = _one_message(benchmark, question, f"{name}, row {row}")
    else:
        prompt = base_prompt(style, question.text, examples)
    own_id = str(row) if question.own_id is None else question.own_id
    meta: dict[str, Any] = {"row": row, "stop": [] if chat else list(style.stop), **question.meta}
    if examples:
        meta |= {"shots": len(examples), "shots_source": source}
    return Problem(f"{name}/{own_id}", name, prompt, question.gold, benchmark.grader, meta)


def _one_message(benchmark: Benchmark, question: Question, where: str) -> str:
    messages = chat_messages(benchmark.style, question)
    if [message["role"] for message in messages] != ["user"]:
        raise UserError(
            f"{where}: the prompt has {len(messages)} messages: "
            "a chat of the evaluation is one message of the user"
        )
    return messages[0]["content"]
