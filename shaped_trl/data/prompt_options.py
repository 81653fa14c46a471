"""The options that say which prompts `shaped-trl rlvr` trains on, and how their rows are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shaped_eval.benchmarks.own import DEFINITION, ROWS, chat_of, read_own
from shaped_eval.benchmarks.prompts import PLAIN
from shaped_eval.benchmarks.registry import BENCHMARKS, benchmark_of
from shaped_eval.benchmarks.rows import Benchmark, ColumnReader
from shaped_eval.errors import UserError
from shaped_eval.grading import grader_spec
from shaped_eval.grading.gym.grader import MARK

from shaped_trl.data.corpora import LOADERS, SourceArguments, parse_names, parse_yaml

REASONING_GYM = "reasoning_gym/"
GYM_TEMPLATE = "{question}\nEnd with a line that starts with " + MARK + "\n"


@dataclass
class PromptArguments(SourceArguments):
    """Prompts and grader of `shaped-trl rlvr`.

    Besides a data set, `dataset_name` can be ``reasoning_gym/<task>``, which makes its prompts
    itself, or the .yaml file of a benchmark of one's own (`shaped_eval.benchmarks.own`).
    """

    dataset_name: str = field(
        default="",
        metadata={
            "help": "Prompts: the id of a data set on the Hub; a local .jsonl, .json, .txt, .csv "
            "or .parquet file; reasoning_gym/TASK, which generates them; or the .yaml file of your "
            "own benchmark."
        },
    )
    benchmark_format: str | None = field(
        default=None,
        metadata={
            "help": "Read the rows as this benchmark of the evaluation suite does: its prompt, its "
            "gold answer and its grader. Give its name, whose prompts then have no worked "
            "examples, or the path of your own .yaml file, whose prompts keep theirs. Without "
            "dataset_name, the benchmark's own data set is trained on, which makes sense only "
            "as a smoke test."
        },
    )
    chat: bool = field(
        default=False,
        metadata={
            "help": "Send each prompt as a user message through the chat template. If this is "
            "off, prompts that are chats become plain text."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message before each prompt. It needs --chat true."}
    )
    gold_template: str | None = field(
        default=None,
        metadata={
            "help": "Gold answer, built from columns: '{answer}' or "
            "'{reward_model[ground_truth]}'. By default it is the column gold. If it is "
            "a whole solution, the grader math takes the last boxed answer in it."
        },
    )
    grader: str | None = field(
        default=None,
        metadata={
            "help": "Grader of the answers: math, gsm8k, choice, exact_match, text or code, or "
            "your own as package.module:name. By default it is the one of benchmark_format, "
            "the task's own for reasoning_gym, and math for everything else."
        },
    )
    task_config: dict | str | None = field(
        default=None,
        metadata={"help": "Configuration of a reasoning_gym task: '{min_terms: 2, max_terms: 3}'."},
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Drop prompts with more tokens than this, counted with the chat template."
        },
    )
    decontaminate: list | str | None = field(
        default=None,
        metadata={
            "help": "Drop prompts that share 13 consecutive words with one of these benchmarks: "
            "[gsm8k, math500]."
        },
    )
    num_prompts: int | None = field(
        default=None,
        metadata={
            "help": "Train on the first prompts only, at most this many. By default all are used. "
            "For reasoning_gym it is the number of prompts to generate, by default 1000."
        },
    )
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split, or local file, of held-out prompts to evaluate on."}
    )
    num_heldout: int | None = field(
        default=None,
        metadata={
            "help": "Number of prompts to hold out for evaluation, in place of "
            "dataset_test_split. They are drawn with the seed."
        },
    )

    def __post_init__(self):
        self.task_config = parse_yaml("task_config", self.task_config)
        if self.task_config is not None and not isinstance(self.task_config, dict):
            raise ValueError(
                f"task_config={self.task_config!r} must be a mapping of option names to values"
            )
        self.decontaminate = parse_names(self.decontaminate)
        own = self.own_benchmark
        if own is not None:
            self.chat = chat_of([own], self.chat, "chat")

    @property
    def own_benchmark(self) -> str | None:
        """The .yaml file of the benchmark that reads the rows; None if no file does."""
        names = (self.dataset_name, self.benchmark_format or "")
        return next((name for name in names if Path(name).suffix == DEFINITION), None)

    @property
    def is_own_data(self) -> bool:
        """Whether `dataset_name` is the file of a benchmark of one's own, whose rows are read."""
        return bool(self.dataset_name) and self.dataset_name == self.own_benchmark


def check_prompts(args: PromptArguments) -> None:
    """Raise UserError for options that are out of range or do not go together."""
    for name in ("num_prompts", "num_heldout", "max_prompt_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1, or left out")
    if args.system_prompt is not None and not args.chat:
        raise UserError(
            f"system_prompt={args.system_prompt!r} needs chat: true, "
            "because a text to continue has no system message"
        )
    if args.dataset_test_split is not None and args.num_heldout is not None:
        raise UserError(
            f"dataset_test_split={args.dataset_test_split!r} and "
            f"num_heldout={args.num_heldout}: give one"
        )
    _check_reading(args)
    _check_splits(args)
    grader_spec(reading_benchmark(args).grader, typed=True)


def _check_reading(args: PromptArguments) -> None:
    """Whatever reads the rows says itself what others are told by options."""
    templates = ["prompt_template", "gold_template", "grader"]
    if args.dataset_name.startswith(REASONING_GYM):
        foreign = [*templates[1:], "benchmark_format", "dataset_config", "dataset_test_split"]
        _refuse(args, foreign, "which makes prompts and golds itself")
    elif args.task_config is not None:
        raise UserError(
            f"task_config={args.task_config!r} needs dataset_name: reasoning_gym/<task>"
        )
    if args.is_own_data:
        foreign = [*templates, "benchmark_format", "dataset_config"]
        _refuse(args, foreign, "which says itself how its rows are read")
    if args.benchmark_format is None:
        return
    if args.benchmark_format not in BENCHMARKS and not args.own_benchmark:
        raise UserError(
            f"benchmark_format={args.benchmark_format!r} is unknown: "
            f"choose from {', '.join(sorted(BENCHMARKS))}, or give the path of a .yaml file"
        )
    _refuse(args, templates, "which has its own", "benchmark_format")
    if args.dataset_name:
        return
    if args.own_benchmark:
        raise UserError(
            f"benchmark_format={args.benchmark_format!r} needs a dataset_name, whose rows it "
            "reads; to train on the benchmark's own data, give this file as dataset_name"
        )
    if args.dataset_config is not None or args.dataset_train_split != "train":
        raise UserError(
            f"dataset_config={args.dataset_config!r} and "
            f"dataset_train_split={args.dataset_train_split!r} need a dataset_name beside "
            f"benchmark_format={args.benchmark_format!r}, such as the benchmark's own"
        )


def _refuse(
    args: PromptArguments, names: list[str], why: str, beside: str = "dataset_name"
) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(
                f"{name}={getattr(args, name)!r} does not go with "
                f"{beside}={getattr(args, beside)!r}, {why}: leave it out"
            )


def _check_splits(args: PromptArguments) -> None:
    test, file = args.dataset_test_split, args.dataset_name
    kinds = list(LOADERS)
    if args.is_own_data:
        file, kinds = read_own(args.dataset_name).dataset_id, [ROWS]
    if test is None or Path(test).suffix in kinds:
        return
    if Path(file).suffix in LOADERS:
        raise UserError(
            f"dataset_test_split={test!r}: the local file {file!r} has no splits; "
            f"name another file ({', '.join(kinds)}), or give num_heldout"
        )


def reading_benchmark(args: PromptArguments) -> Benchmark:
    """How the rows are read, and who grades the answers."""
    if args.own_benchmark is not None:
        return benchmark_of(args.own_benchmark)
    if args.benchmark_format is not None:
        return BENCHMARKS[args.benchmark_format]
    template, grader = args.prompt_template, args.grader or "math"
    if args.dataset_name.startswith(REASONING_GYM):
        template, grader = template or GYM_TEMPLATE, "reasoning_gym"
    read = ColumnReader(template, args.gold_template, boxed_golds=grader == "math")
    place = args.dataset_name, args.dataset_config, args.dataset_train_split
    return Benchmark(*place, read, PLAIN, grader)
