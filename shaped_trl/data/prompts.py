"""Prompts for RLVR: rows with ``prompt`` (a text, or the messages of a chat) and ``gold``.

The rows of a data set go through these steps, and `Prompts.counts` says what each of them removed:

1. A prompt and a gold answer are made of each row (`shaped_eval.benchmarks.rows`).
2. Of equal prompts the first one stays.
3. Prompts that share 13 words in a row with a benchmark are dropped.
4. Prompts that are too long are dropped.
5. Held-out prompts are set aside.
6. The first `num_prompts` of the others are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, Features, List, Value
from shaped_eval.benchmarks.loading import split_rows, worked_examples
from shaped_eval.benchmarks.own import is_file_of_rows, read_own
from shaped_eval.benchmarks.prompts import Question
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.rows import PromptReader
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.grader import gold_of, task_dataset

from shaped_trl.data.corpora import load_split
from shaped_trl.data.decontamination import Overlap, split_marked
from shaped_trl.data.prompt_filters import (
    draw,
    drop_prompts_of,
    each,
    first_of_equal,
    short_enough,
)
from shaped_trl.data.prompt_options import (
    REASONING_GYM,
    PromptArguments,
    check_prompts,
    reading_benchmark,
)

logger = logging.getLogger(__name__)
GYM_PROMPTS = 1000
MESSAGES = List({"role": Value("string"), "content": Value("string")})
# The rows of a data set, or those of a benchmark of one's own. The latter are read as evaluation
# reads them: `datasets` would make a date of a text such as "2024-05-01".
Rows: TypeAlias = Dataset | list[dict[str, Any]]


@dataclass
class Prompts:
    """What a run trains on.

    Args:
        train: columns ``prompt`` and ``gold``, no prompt twice.
        heldout: the same columns, no prompt of `train`; None if none are held out.
        grader: of the evaluation suite.
        counts: number of prompts ``read``; dropped as ``duplicates``, ``contaminated``,
            ``too_long`` or ``also_heldout`` (in the held-out split as well); ``heldout``; and
            ``used`` for training.
        overlap: for `decontamination.ReportCallback`; None without `decontaminate`.
        dropped: for the same; empty without `decontaminate`.
    """

    train: Dataset
    heldout: Dataset | None
    grader: str
    counts: dict[str, int]
    overlap: Overlap | None
    dropped: list[dict[str, Any]]


def rl_prompts(
    args: PromptArguments,
    seed: int,
    tokenizer: Any = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Prompts:
    """Read, build and filter the prompts.

    Args:
        args: which prompts.
        seed: draws the held-out prompts, and makes those of reasoning_gym.
        tokenizer: counts tokens; needed for max_prompt_length alone.
        chat_template_kwargs: the trainer's, for the same count.

    Raises:
        UserError: options that do not go together, a row without prompt or gold, or no prompt left.
    """
    check_prompts(args)
    args = _with_own_data(args)
    if args.chat and tokenizer is not None and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"chat=True, but the tokenizer of {tokenizer.name_or_path!r} has no chat template: "
            "leave chat out"
        )

    def fitting(prompts: Dataset) -> tuple[Dataset, int]:
        limit = args.max_prompt_length
        return short_enough(prompts, limit, tokenizer, args.chat, chat_template_kwargs)

    overlap = Overlap(args.decontaminate, args.hub_mirror) if args.decontaminate else None
    rows, other_rows = _rows(args, seed)
    counts = dict.fromkeys(
        ("read", "duplicates", "contaminated", "too_long", "also_heldout", "heldout", "used"), 0
    )
    counts["read"] = len(rows)
    train = _read(args, rows)
    dropped: list[dict[str, Any]] = []
    counts["duplicates"] = len(rows) - len(train)
    if overlap is not None:
        train, dropped = split_marked(args.dataset_name, train.map(overlap.bind(["prompt"])))
        counts["contaminated"] = len(dropped)
    train, counts["too_long"] = fitting(train)
    heldout = None
    if other_rows is not None:
        heldout = _heldout(args, other_rows, fitting)
        train, counts["also_heldout"] = drop_prompts_of(train, heldout)
    elif args.num_heldout is not None:
        train, heldout = draw(train, args.num_heldout, seed)
    if len(train) == 0:
        raise UserError(_nothing_left(args, counts))
    train = train.select(range(min(args.num_prompts or len(train), len(train))))
    counts |= {"heldout": len(heldout) if heldout is not None else 0, "used": len(train)}
    logger.info(
        "prompts of %s: %s",
        args.dataset_name,
        ", ".join(f"{n} {name}" for name, n in counts.items()),
    )
    return Prompts(train, heldout, reading_benchmark(args).grader, counts, overlap, dropped)


def _heldout(
    args: PromptArguments, rows: Rows, fitting: Callable[[Dataset], tuple[Dataset, int]]
) -> Dataset:
    heldout, _ = fitting(_read(args, rows))
    if len(heldout) == 0:
        raise UserError(
            f"max_prompt_length={args.max_prompt_length}: "
            "none of the held-out prompts is that short"
        )
    return heldout


def _with_own_data(args: PromptArguments) -> PromptArguments:
    """Fill in the data set of benchmark_format, and warn if a benchmark evaluates the rows."""
    if args.benchmark_format in BENCHMARKS and not args.dataset_name:
        own = BENCHMARKS[args.benchmark_format]
        args = replace(
            args,
            dataset_name=own.dataset_id,
            dataset_config=own.config,
            dataset_train_split=own.split,
        )
    evaluated = dict(BENCHMARKS)
    if args.own_benchmark is not None:
        evaluated[args.own_benchmark] = read_own(args.own_benchmark)
    trained = _place(args.dataset_name, args.dataset_config, args.dataset_train_split)
    if args.is_own_data:
        own = evaluated[args.dataset_name]
        trained = _place(own.dataset_id, own.config, args.dataset_train_split)
    for name, benchmark in evaluated.items():
        if trained == _place(benchmark.dataset_id, benchmark.config, benchmark.split):
            logger.warning(
                "SMOKE TEST ONLY: dataset_name=%r, split %r, is what benchmark %s evaluates on. "
                "This run trains on a benchmark: its numbers there mean nothing",
                *(args.dataset_name, args.dataset_train_split, name),
            )
    return args


def _place(dataset_id: str, config: str | None, split: str) -> tuple[str, ...]:
    """Where rows are: equal for two data sets whose rows are the same."""
    if is_file_of_rows(dataset_id):
        return (str(Path(dataset_id).resolve()),)
    return dataset_id, config or "default", split


def _rows(args: PromptArguments, seed: int) -> tuple[Rows, Rows | None]:
    """Rows to train on, and the held-out ones if they come from elsewhere."""
    if args.dataset_name.startswith(REASONING_GYM):
        return _gym_rows(args, seed)

    def read(split: str) -> Rows:
        if args.is_own_data:
            return split_rows(read_own(args.dataset_name), split, args.hub_mirror)
        return load_split(args, split)

    test = args.dataset_test_split
    return read(args.dataset_train_split), None if test is None else read(test)


def _gym_rows(args: PromptArguments, seed: int) -> tuple[Dataset, Dataset | None]:
    """Entries of a procedural task.

    The held-out ones are later entries of the same seed, because those of another seed may be the
    same ones, shifted.
    """
    task = args.dataset_name.removeprefix(REASONING_GYM)
    count, heldout = args.num_prompts or GYM_PROMPTS, args.num_heldout or 0
    size = count + heldout
    assert not isinstance(args.task_config, str)  # parsed
    entries = task_dataset(task, size, seed, args.task_config)
    where = {"task": task, "size": size, "seed": seed, "config": args.task_config}
    questions = [entries[index]["question"] for index in range(size)]
    golds = [gold_of(question, **where, index=index) for index, question in enumerate(questions)]
    made = Dataset.from_dict({"question": questions, "gold": golds})
    return made.select(range(count)), made.select(range(count, size)) if heldout else None


def _read(args: PromptArguments, rows: Rows) -> Dataset:
    """Columns ``prompt`` and ``gold`` of the rows; of equal prompts the first one."""
    examples: list[Question] = []
    if args.own_benchmark is not None and not args.chat:
        examples, _ = worked_examples(args.own_benchmark, args.hub_mirror)
    source = f"dataset_name={args.dataset_name!r}"
    if args.benchmark_format is not None:
        source += f" (benchmark_format={args.benchmark_format!r})"
    reader = PromptReader(
        reading_benchmark(args),
        list(rows[0] if rows else {}) if isinstance(rows, list) else rows.column_names,
        source=source,
        examples=examples,
        chat=args.chat,
        system_prompt=args.system_prompt,
    )
    features = Features(prompt=MESSAGES if args.chat else Value("string"), gold=Value("string"))
    if isinstance(rows, list):
        read = [reader(row, index) for index, row in enumerate(rows)]
        kept = first_of_equal(row["prompt"] for row in read)
        return Dataset.from_list([read[index] for index in kept], features=features)
    rows = rows.select_columns(reader.columns)
    kept = first_of_equal(reader(row, index)["prompt"] for index, row in enumerate(each(rows)))
    return rows.select(kept).map(
        reader, with_indices=True, remove_columns=reader.columns, features=features
    )


def _nothing_left(args: PromptArguments, counts: dict[str, int]) -> str:
    reasons = {
        "duplicates": "have the prompt of another",
        "contaminated": f"share 13 words with decontaminate={args.decontaminate}",
        "too_long": f"are longer than max_prompt_length={args.max_prompt_length}",
        "also_heldout": "are held out as well",
    }
    why = ", ".join(f"{counts[name]} {reason}" for name, reason in reasons.items() if counts[name])
    return (
        f"dataset_name={args.dataset_name!r}: none of the {counts['read']} prompts is left; "
        f"{why or 'the data is empty'}"
    )
