"""Prompts for RLVR: rows with `prompt` and what the reward needs (`gold`, or the number of an `entry`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset

from eval_suite.errors import UserError
from eval_suite.grading import GRADERS
from shaped_trl.data.corpora import SourceArguments, fill_template, load_split
from shaped_trl.rlvr.rewards import ReasoningGymReward, VerdictReward, reasoning_gym_dataset

REASONING_GYM = "reasoning_gym/"


@dataclass
class PromptArguments(SourceArguments):
    """Prompts and verifier of `shaped-trl rlvr`. `dataset_name: reasoning_gym/<task>` makes its prompts itself."""

    gold_template: str | None = field(
        default=None, metadata={"help": "Gold answer built from columns: '{answer}'. None: the column gold."}
    )
    grader: str = field(
        default="math", metadata={"help": "Grader of the evaluation suite; reasoning-gym brings its own."}
    )
    num_prompts: int | None = field(
        default=None, metadata={"help": "Use the first prompts only; for reasoning-gym, how many to make (1000)."}
    )


def rl_prompts(args: PromptArguments, seed: int) -> tuple[Dataset, VerdictReward | ReasoningGymReward]:
    """The prompt rows and their accuracy reward.

    Raises:
        UserError: unknown grader or task, or no `prompt` and `gold` to be had.
    """
    if args.dataset_name.startswith(REASONING_GYM):
        return _reasoning_gym(args, seed)
    if args.grader not in GRADERS:
        raise UserError(f"grader={args.grader!r} does not exist: choose from {', '.join(sorted(GRADERS))}")
    dataset = load_split(args, args.dataset_train_split)
    templates = {"prompt": args.prompt_template, "gold": args.gold_template}
    given = {name: template for name, template in templates.items() if template is not None}
    dataset = fill_template(dataset, given) if given else dataset
    missing = {"prompt", "gold"} - set(dataset.column_names)
    if missing:
        raise UserError(
            f"dataset_name={args.dataset_name!r} has the columns {dataset.column_names}, not {sorted(missing)}: "
            f"build them with {' and '.join(f'{name}_template' for name in sorted(missing))}"
        )
    dataset = dataset.select_columns(["prompt", "gold"])
    return dataset.select(range(min(args.num_prompts or len(dataset), len(dataset)))), VerdictReward(args.grader)


def _reasoning_gym(args: PromptArguments, seed: int) -> tuple[Dataset, ReasoningGymReward]:
    task = args.dataset_name.removeprefix(REASONING_GYM)
    template = args.prompt_template or "{question}\nEnd with a line that starts with Answer:\n"
    entries = reasoning_gym_dataset(task, size=args.num_prompts or 1000, seed=seed)
    rows = [
        {"prompt": template.format(question=entry["question"]), "entry": index} for index, entry in enumerate(entries)
    ]
    return Dataset.from_list(rows), ReasoningGymReward(entries)
