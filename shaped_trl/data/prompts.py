"""Prompts for RLVR: rows with `prompt` (a text, or a chat's messages) and `gold`, and the grader
that reads them.

A row goes this way: read → prompt and gold built → exact duplicates dropped → those that share 13
words with a benchmark dropped → too long ones dropped → held-out ones set aside → the first
`num_prompts` used. What each step took is counted (`Prompts.counts`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.rows import PromptReader
from shaped_eval.errors import UserError
from shaped_eval.grading import grader_spec
from shaped_eval.grading.gym.grader import MARK, gold_of, task_dataset

from shaped_trl.data.corpora import LOADERS, SourceArguments, load_split, parse_names, parse_yaml
from shaped_trl.data.decontamination import Overlap, split_marked

logger = logging.getLogger(__name__)
REASONING_GYM = "reasoning_gym/"
GYM_TEMPLATE = "{question}\nEnd with a line that starts with " + MARK + "\n"
GYM_PROMPTS = 1000
MESSAGES = List({"role": Value("string"), "content": Value("string")})


@dataclass
class PromptArguments(SourceArguments):
    """Prompts and verifier of `shaped-trl rlvr`. `dataset_name: reasoning_gym/<task>` makes its
    prompts itself."""

    benchmark_format: str | None = field(
        default=None,
        metadata={
            "help": "Read the rows as this benchmark does: its prompt without worked examples, its gold, its grader. "
            "Without dataset_name its own data set, which trains on the benchmark: a smoke test."
        },
    )
    chat: bool = field(
        default=False,
        metadata={
            "help": "Prompts are user messages. Without it, data that has messages becomes their texts."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message before each; needs chat."}
    )
    gold_template: str | None = field(
        default=None,
        metadata={
            "help": "Gold answer built from columns: '{answer}', '{reward_model[ground_truth]}'. None: the column "
            "gold. Of a whole solution the grader math takes the last boxed answer."
        },
    )
    grader: str | None = field(
        default=None,
        metadata={
            "help": "Grader of the evaluation suite; none: benchmark_format's, reasoning_gym, or else math."
        },
    )
    task_config: dict | str | None = field(
        default=None,
        metadata={"help": "Configuration of a reasoning_gym task: '{min_terms: 2, max_terms: 3}'."},
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Drop prompts of more tokens, those of the chat template among them."},
    )
    decontaminate: list | str | None = field(
        default=None,
        metadata={
            "help": "Drop prompts that share 13 words in a row with these benchmarks: [gsm8k, math500]."
        },
    )
    num_prompts: int | None = field(
        default=None,
        metadata={
            "help": "Use the first of the prompts that are left; for reasoning_gym, how many to make (1000)."
        },
    )
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split, or local file, of held-out prompts to evaluate on."}
    )
    num_heldout: int | None = field(
        default=None,
        metadata={
            "help": "In place of a split: so many prompts, drawn with the seed, are held out."
        },
    )

    def __post_init__(self):
        self.task_config = parse_yaml("task_config", self.task_config)
        if self.task_config is not None and not isinstance(self.task_config, dict):
            raise ValueError(
                f"task_config={self.task_config!r} is no mapping of option names to values"
            )
        self.decontaminate = parse_names(self.decontaminate)


@dataclass
class Prompts:
    """What a run trains on: columns `prompt` and `gold`.

    train, heldout: no prompt twice, none in both.
    grader: of the evaluation suite.
    counts: prompts ``read``, dropped as ``duplicates``, ``contaminated``, ``too_long`` or
        ``also_heldout`` (read for training as well as from dataset_test_split), ``heldout``, and
        ``used`` for training.
    overlap, dropped: for `decontamination.ReportCallback`; None and empty without decontaminate.
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
        args: which.
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
            f"chat: the tokenizer of {tokenizer.name_or_path!r} has no chat template; leave chat out"
        )
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
    train, counts["too_long"] = _short_enough(args, train, tokenizer, chat_template_kwargs)
    heldout = None
    if other_rows is not None:
        heldout, _ = _short_enough(args, _read(args, other_rows), tokenizer, chat_template_kwargs)
        if len(heldout) == 0:
            raise UserError(
                f"max_prompt_length={args.max_prompt_length}: none of the held-out prompts is that short"
            )
        train, counts["also_heldout"] = _without(train, heldout)
    elif args.num_heldout is not None:
        train, heldout = _draw(train, args.num_heldout, seed)
    if len(train) == 0:
        raise UserError(_nothing_left(args, counts))
    train = train.select(range(min(args.num_prompts or len(train), len(train))))
    counts |= {"heldout": len(heldout) if heldout is not None else 0, "used": len(train)}
    logger.info(
        "prompts of %s: %s",
        args.dataset_name,
        ", ".join(f"{n} {name}" for name, n in counts.items()),
    )
    return Prompts(train, heldout, _grader(args), counts, overlap, dropped)


def check_prompts(args: PromptArguments) -> None:
    """Raise UserError for options that are out of range or do not go together."""
    for name in ("num_prompts", "num_heldout", "max_prompt_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1, or left out")
    if args.system_prompt is not None and not args.chat:
        raise UserError(
            f"system_prompt={args.system_prompt!r} needs chat: true; a text to continue has none"
        )
    if args.dataset_test_split is not None and args.num_heldout is not None:
        raise UserError(
            f"dataset_test_split={args.dataset_test_split!r} and num_heldout={args.num_heldout}: give one"
        )
    if args.dataset_name.startswith(REASONING_GYM):
        foreign = [
            "gold_template",
            "grader",
            "benchmark_format",
            "dataset_config",
            "dataset_test_split",
        ]
        _refuse(
            args,
            foreign,
            f"dataset_name={args.dataset_name!r}, which makes prompts and golds itself",
        )
    elif args.task_config is not None:
        raise UserError(
            f"task_config={args.task_config!r} needs dataset_name: reasoning_gym/<task>"
        )
    if args.benchmark_format is not None:
        if args.benchmark_format not in BENCHMARKS:
            raise UserError(
                f"benchmark_format={args.benchmark_format!r} is unknown: choose from {', '.join(sorted(BENCHMARKS))}"
            )
        foreign = ["prompt_template", "gold_template", "grader"]
        _refuse(args, foreign, f"benchmark_format={args.benchmark_format!r}, which has its own")
        if not args.dataset_name and (
            args.dataset_config is not None or args.dataset_train_split != "train"
        ):
            raise UserError(
                f"dataset_config={args.dataset_config!r}, dataset_train_split={args.dataset_train_split!r} need a "
                f"dataset_name beside benchmark_format={args.benchmark_format!r}, such as the benchmark's own"
            )
    local = Path(args.dataset_name).suffix in LOADERS
    if (
        local
        and args.dataset_test_split is not None
        and Path(args.dataset_test_split).suffix not in LOADERS
    ):
        raise UserError(
            f"dataset_test_split={args.dataset_test_split!r}: the local file {args.dataset_name!r} has no splits; "
            "name another file, or give num_heldout"
        )
    grader_spec(_grader(args))


def _refuse(args: PromptArguments, names: list[str], beside: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(
                f"{name}={getattr(args, name)!r} does not go with {beside}: leave it out"
            )


def _grader(args: PromptArguments) -> str:
    if args.dataset_name.startswith(REASONING_GYM):
        return "reasoning_gym"
    if args.benchmark_format is not None:
        return BENCHMARKS[args.benchmark_format].grader
    return args.grader or "math"


def _with_own_data(args: PromptArguments) -> PromptArguments:
    """Fill in a benchmark's own data set; warn where the rows are those that a benchmark
    evaluates."""
    if args.benchmark_format is not None and not args.dataset_name:
        own = BENCHMARKS[args.benchmark_format]
        args = replace(
            args,
            dataset_name=own.dataset_id,
            dataset_config=own.config,
            dataset_train_split=own.split,
        )
    source = (args.dataset_name, args.dataset_config or "default", args.dataset_train_split)
    for name, benchmark in BENCHMARKS.items():
        if source == (benchmark.dataset_id, benchmark.config or "default", benchmark.split):
            logger.warning(
                "SMOKE TEST ONLY: dataset_name=%r, split %r, is what benchmark %s evaluates on. This run trains on "
                "a benchmark: its numbers there mean nothing",
                *(args.dataset_name, args.dataset_train_split, name),
            )
    return args


def _rows(args: PromptArguments, seed: int) -> tuple[Dataset, Dataset | None]:
    """Rows to train on, and those held out where they come from elsewhere."""
    if args.dataset_name.startswith(REASONING_GYM):
        return _gym_rows(args, seed)
    rows = load_split(args, args.dataset_train_split)
    return rows, load_split(
        args, args.dataset_test_split
    ) if args.dataset_test_split is not None else None


def _gym_rows(args: PromptArguments, seed: int) -> tuple[Dataset, Dataset | None]:
    """Entries of a procedural task. Held-out ones are later entries: another seed may give the same
    ones, shifted."""
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


def _read(args: PromptArguments, rows: Dataset) -> Dataset:
    """Columns `prompt` and `gold` of the rows, those with the prompt of an earlier one left out.

    Rows are looked at one after another and only their numbers are kept: sources that repeat each
    prompt 100 times are large.
    """
    if args.dataset_name.startswith(REASONING_GYM):
        args = replace(args, prompt_template=args.prompt_template or GYM_TEMPLATE)
    reader = PromptReader(
        rows.column_names,
        source=args.dataset_name,
        prompt_template=args.prompt_template,
        gold_template=args.gold_template,
        benchmark_format=args.benchmark_format,
        chat=args.chat,
        system_prompt=args.system_prompt,
        boxed_golds=_grader(args) == "math",
    )
    rows = rows.select_columns(reader.columns)
    seen: set[bytes] = set()
    kept = []
    for index, row in enumerate(_each(rows)):
        digest = _digest(reader(row, index)["prompt"])
        if digest not in seen:
            seen.add(digest)
            kept.append(index)
    features = Features(prompt=MESSAGES if args.chat else Value("string"), gold=Value("string"))
    return rows.select(kept).map(
        reader, with_indices=True, remove_columns=reader.columns, features=features
    )


def _each(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows one by one, read by the thousand, about three times as fast."""
    for batch in rows.iter(1000):
        yield from (
            dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
        )


def _digest(prompt: str | list[dict[str, str]]) -> bytes:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()[:16]


def _digests(rows: Dataset) -> Iterator[bytes]:
    return (_digest(prompt) for batch in rows.iter(1000) for prompt in batch["prompt"])


def _short_enough(
    args: PromptArguments,
    rows: Dataset,
    tokenizer: Any,
    chat_template_kwargs: dict[str, Any] | None,
) -> tuple[Dataset, int]:
    """The rows of at most max_prompt_length tokens, and the number of the others."""
    if args.max_prompt_length is None:
        return rows, 0
    if tokenizer is None:
        raise UserError(
            f"max_prompt_length={args.max_prompt_length} needs a tokenizer to count with"
        )
    lengths: list[int] = []
    for batch in rows.iter(1000):
        if args.chat:  # as TRL's trainer does
            encoded = tokenizer.apply_chat_template(
                batch["prompt"],
                add_generation_prompt=True,
                return_dict=True,
                **(chat_template_kwargs or {}),
            )
        else:
            encoded = tokenizer(batch["prompt"])
        lengths.extend(map(len, encoded["input_ids"]))
    kept = [index for index, length in enumerate(lengths) if length <= args.max_prompt_length]
    return rows.select(kept), len(rows) - len(kept)


def _without(rows: Dataset, others: Dataset) -> tuple[Dataset, int]:
    """The rows whose prompt is not among `others`, and the number of the rest."""
    taken = set(_digests(others))
    kept = [index for index, digest in enumerate(_digests(rows)) if digest not in taken]
    return rows.select(kept), len(rows) - len(kept)


def _draw(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """The rows without `count` of them, in their order, and these."""
    if count >= len(rows):
        raise UserError(
            f"num_heldout={count} leaves none of the {len(rows)} prompts to train on: hold out fewer"
        )
    drawn = set(random.Random(seed).sample(range(len(rows)), count))
    return rows.select([i for i in range(len(rows)) if i not in drawn]), rows.select(sorted(drawn))


def _nothing_left(args: PromptArguments, counts: dict[str, int]) -> str:
    reasons = {
        "duplicates": "have the prompt of another",
        "contaminated": f"share 13 words with decontaminate={args.decontaminate}",
        "too_long": f"are longer than max_prompt_length={args.max_prompt_length}",
        "also_heldout": "are held out as well",
    }
    why = ", ".join(f"{counts[name]} {reason}" for name, reason in reasons.items() if counts[name])
    return f"dataset_name={args.dataset_name!r}: none of the {counts['read']} prompts is left; {why or 'it is empty'}"
