"""lm-eval's documents as problems: prompt, gold answer, and the options to score."""

from __future__ import annotations

import logging
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from shaped_eval.benchmarks.harness.tasks import HARNESS, HarnessTask, Row
from shaped_eval.errors import UserError
from shaped_eval.records import Problem
from shaped_eval.sources import load_rows

LETTERS = string.ascii_uppercase
Rows = list[dict[str, Any]]
_ROWS = "rows"  # what we call the split towards lm-eval, whatever its name on the Hub is


class _Part(NamedTuple):
    """Rows of a benchmark with their indices in the data set, read by one of lm-eval's tasks."""

    name: str
    lm_eval_task: str
    rows: list[tuple[int, dict[str, Any]]]


def problems(
    name: str,
    *,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
    chat: bool = False,
    shots: int | None = None,
) -> list[Problem]:
    """The problems of a benchmark of `HARNESS`.

    The `meta` of a problem holds ``row`` (its index in the data set), ``n`` (1, which is the number
    of samples whatever the run's n), ``metric``, ``decoding``, ``shots``, ``part`` and ``stop``. If
    its options are scored by likelihood, it also holds ``options`` and ``continuations``, the texts
    that are scored behind the prompt; or behind each of ``contexts``, if these contain the options.

    Args:
        name: of the benchmark.
        hub_mirror: folder that is read in place of the Hub.
        limit: keep so many problems, the first ones; of a benchmark in parts (MMLU, MMLU-Pro, BBH)
            the first ones of each part in turn. None for all.
        chat: the prompts are messages of a user. They have no stop strings, but keep the worked
            examples, which show how to answer.
        shots: number of worked examples; None for the benchmark's own number.

    Raises:
        UserError: a data set is not found, a row lacks a column, or there are fewer worked examples
            than `shots`.
    """
    spec = HARNESS[name]
    count = spec.shots if shots is None else shots
    if count and not spec.shots:
        raise UserError(
            f"shots={count}, but {name} is scored by likelihood without worked examples: "
            "leave --shots out"
        )
    with _quiet():
        manager = _task_manager(spec)
        parts = _parts(spec, _lm_eval_tasks(spec, manager), hub_mirror, limit)
        tasks = _build_tasks(name, spec, manager, parts, hub_mirror, count)
        made = [
            _problem(name, spec, tasks[part.lm_eval_task], doc, part, place, chat, count)
            for part in parts
            for place, doc in zip(part.rows, tasks[part.lm_eval_task].eval_docs, strict=True)
        ]
    return _unique_ids(made)


def configs_of(name: str) -> list[str | None]:
    """The configurations that a benchmark of `HARNESS` reads: one for each part, or one in all."""
    spec = HARNESS[name]
    if spec.config is None or "*" not in spec.config:
        return [spec.config]
    with _quiet():
        parts = _lm_eval_tasks(spec, _task_manager(spec))
    return [spec.config.replace("*", part) for part in parts]


def _task_manager(spec: HarnessTask) -> Any:
    """lm-eval's index of one folder of its tasks. To index all of them takes 15 seconds."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / spec.folder
    return lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)


def _lm_eval_tasks(spec: HarnessTask, manager: Any) -> dict[str, str]:
    """Part of the benchmark → lm-eval's task, in alphabetical order.

    A benchmark without parts has one, whose name is empty.
    """
    prefix, star, _ = spec.task.partition("*")
    if not star:
        return {"": spec.task}
    return {
        task.removeprefix(prefix): task
        for task in sorted(manager.all_subtasks)
        if task.startswith(prefix)
    }


def _parts(
    spec: HarnessTask, tasks: Mapping[str, str], hub_mirror: str | Path | None, limit: int | None
) -> list[_Part]:
    names = list(tasks)
    by_part: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    if spec.part_column is not None:
        by_part = {part: [] for part in names}
        for index, row in enumerate(
            load_rows(spec.dataset_id, spec.config, spec.split, hub_mirror)
        ):
            part = _part_name(spec, row)
            if part not in by_part:
                raise UserError(
                    f"data set {spec.dataset_id!r}, row {index}: {spec.part_column}={part!r} "
                    f"is none of {', '.join(names)}: "
                    "check that the mirror holds the rows as the Hub has them"
                )
            by_part[part].append((index, row))
    else:
        for part in names[:limit]:
            config = spec.config and spec.config.replace("*", part)
            by_part[part] = list(
                enumerate(load_rows(spec.dataset_id, config, spec.split, hub_mirror, limit))
            )
    counts = _spread({part: len(rows) for part, rows in by_part.items()}, limit)
    return [
        _Part(part, tasks[part], rows[: counts[part]])
        for part, rows in by_part.items()
        if counts[part]
    ]


def _part_name(spec: HarnessTask, row: Row) -> str:
    return str(row.get(spec.part_column or "")).replace(" ", "_")


def _spread(sizes: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """How many rows of each part to take, so that the parts take turns until there are `limit`."""
    if limit is None:
        return dict(sizes)
    counts = dict.fromkeys(sizes, 0)
    left = min(limit, sum(sizes.values()))
    while left:
        for part, size in sizes.items():
            if left and counts[part] < size:
                counts[part] += 1
                left -= 1
    return counts


def _build_tasks(
    name: str,
    spec: HarnessTask,
    manager: Any,
    parts: list[_Part],
    hub_mirror: str | Path | None,
    shots: int,
) -> dict[str, Any]:
    """lm-eval's tasks over our rows, which replace what they would download."""
    examples: Rows = []
    if spec.shots_split is not None and shots:
        first = None if spec.part_column else shots
        examples = load_rows(spec.dataset_id, spec.config, spec.shots_split, hub_mirror, first)
    members = []
    for part in parts:
        own = [
            row for row in examples if not spec.part_column or _part_name(spec, row) == part.name
        ]
        changes = _changes(name, spec, part, own[:shots], shots)
        members.append({"task": part.lm_eval_task, **changes})
    try:
        tasks = manager.load({"group": name, "task": members})["tasks"]
    except _row_faults() as fault:
        raise _bad_row(spec, parts[0].rows[0], fault) from fault
    for task in tasks.values():
        _mend(task)
        available = task.sampler.df if shots else []
        if len(available) < shots:
            raise UserError(
                f"shots={shots}, but {name} has {len(available)} worked examples: "
                "use at most that many"
            )
    return tasks


def _mend(task: Any) -> None:
    """Mend MMLU's definitions.

    Nothing ends the description, and a form feed stands for the ``\\f`` of ``\\frac``.
    """
    description = task.config.description
    if description and not description.endswith("\n"):
        task.set_config("description", f"{description}\n\n")
    escapes = str.maketrans({"\f": "\\f", "\r": "\\r"})
    if task.fewshot_cfg.samples:
        mended = [
            {key: text.translate(escapes) for key, text in one.items()}
            for one in task.fewshot_cfg.samples
        ]
        task.sampler.replace_df(mended)


def _changes(
    name: str, spec: HarnessTask, part: _Part, examples: Rows, shots: int
) -> dict[str, Any]:
    """The keys of lm-eval's definition that are replaced, with their new values."""
    from datasets import Dataset

    splits = {_ROWS: Dataset.from_list([row for _, row in part.rows])}
    changes: dict[str, Any] = {
        "custom_dataset": lambda **_: splits,
        "training_split": None,
        "validation_split": None,
        "test_split": _ROWS,
        "fewshot_split": None,
        "num_fewshot": shots,
        **spec.changes,
    }
    if spec.part_column:
        changes["process_docs"] = None  # it would pick the part's rows, which is done already
    if spec.shots_split is not None and shots:
        if not examples:
            raise UserError(
                f"data set {spec.dataset_id!r}, split {spec.shots_split!r} has no row for "
                f"worked examples of {name} {part.name}".rstrip()
                + ": check that the mirror holds the rows as the Hub has them"
            )
        splits[spec.shots_split] = Dataset.from_list(examples)
        changes["fewshot_split"] = spec.shots_split
    elif spec.shots_split is not None or not spec.shots:
        changes["fewshot_config"] = {"sampler": "first_n", "samples": []}
    return changes


def _problem(
    name: str,
    spec: HarnessTask,
    task: Any,
    doc: Row,
    part: _Part,
    place: tuple[int, Row],
    chat: bool,
    shots: int,
) -> Problem:
    index, row = place
    meta: dict[str, Any] = {"row": index, "n": 1, "metric": spec.metric, "shots": shots}
    if part.name:
        meta["part"] = part.name
    try:
        own_id = str(index if spec.own_id is None else row[spec.own_id])
        context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
        if spec.gold is not None:
            meta |= {"decoding": "greedy", "stop": [] if chat else list(spec.stop)}
            prompt, gold = context, spec.gold(row)
        else:
            prompt, gold, scored = _options(spec, task, doc, row, context)
            meta |= {"decoding": "likelihood", "stop": [], **scored}
    except _row_faults() as fault:
        raise _bad_row(spec, place, fault) from fault
    inside = f"{part.name}/" if "*" in (spec.config or "") else ""
    return Problem(
        f"{name}/{inside}{own_id}".replace(" ", "_"), name, prompt, gold, spec.grader, meta
    )


def _options(
    spec: HarnessTask, task: Any, doc: Row, row: Row, context: str | list[str]
) -> tuple[str, str, dict[str, Any]]:
    """Prompt and gold of a problem whose options are scored, and the texts to score."""
    requests = task.construct_requests(doc=doc, ctx=context, metadata=(None, 0, 1))
    options = task.doc_to_choice(doc)
    scored: dict[str, Any]
    if isinstance(context, str):
        target = task.doc_to_target(doc)
        gold_index = target if isinstance(target, int) else options.index(target)
        prompt, scored = context, {}
    else:  # each context contains an option, and the same text follows all of them
        gold_index = task.doc_to_text(doc)
        assert spec.options is not None
        assert spec.prompt_column is not None
        prompt, options = row[spec.prompt_column], spec.options(row)
        scored = {"contexts": context}
    gold = f"({LETTERS[gold_index]}) {options[gold_index]}"
    return (
        prompt,
        gold,
        {"options": options, **scored, "continuations": [request.args[1] for request in requests]},
    )


def _row_faults() -> tuple[type[Exception], ...]:
    """What lm-eval raises if a row lacks the columns that a definition reads."""
    from jinja2 import UndefinedError

    return KeyError, IndexError, ValueError, TypeError, UndefinedError


def _bad_row(spec: HarnessTask, place: tuple[int, Row], fault: Exception) -> UserError:
    index, row = place
    reason = " ".join(str(fault).split())[:200]
    return UserError(
        f"data set {spec.dataset_id!r}, config {spec.config!r}: lm-eval's {spec.task} cannot read "
        f"its rows ({type(fault).__name__}: {reason}); row {index} has {', '.join(row)}: "
        "check that the mirror holds the rows as the Hub has them"
    )


def _unique_ids(made: list[Problem]) -> list[Problem]:
    """The problems with the row appended to an id that stands twice, as some in TriviaQA do."""
    times = Counter(problem.problem_id for problem in made)
    return [
        replace(problem, problem_id=f"{problem.problem_id}-{problem.meta['row']}")
        if times[problem.problem_id] > 1
        else problem
        for problem in made
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's remarks and the progress bars of `datasets`, and cache templates.

    lm-eval compiles the templates of every worked example anew for each document, which takes
    minutes for MMLU in place of seconds.
    """
    import datasets
    from lm_eval.utils import env as templates

    logger, bars = logging.getLogger("lm_eval"), datasets.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    templates.from_string = cache(templates.from_string)
    try:
        yield
    finally:
        del templates.from_string
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
