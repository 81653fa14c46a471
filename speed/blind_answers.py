"""Blind answers on every task of reasoning-gym, and on the data of RL recipes and benchmarks.

    python -m speed.blind_answers --hub_mirror DIR       # about 20 minutes on 2 cores

It writes README.md and audits.csv to --out. For each set of prompts these name the most successful
of the fixed answers (`shaped_trl.rlvr.auditing.blind_answers`), the share of prompts on which it is
rewarded, and the bar above which `shaped-trl rlvr` refuses to train. It takes 64 prompts with seed
0; tasks of reasoning-gym have their default configuration.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.grader import check_package
from shaped_eval.records import write_atomic

from shaped_trl import recipes
from shaped_trl.data.prompt_options import REASONING_GYM, PromptArguments
from shaped_trl.data.prompts import rl_prompts
from shaped_trl.data.running_sums import write_corpus
from shaped_trl.options import rlvr_options
from shaped_trl.rlvr.auditing.audit import Audit, audit_reward
from shaped_trl.rlvr.auditing.blind_answers import shown
from shaped_trl.rlvr.rewards import VerdictReward
from speed.training import origin

OUT = "recipes/studies/results/blind_answers"
ENTRIES = 100  # entries to draw from a task of reasoning-gym
NEEDS_CONFIGURATION = ("composite",)
TASKS, RECIPES, BENCHMARK_DATA = "tasks of reasoning-gym", "recipes", "benchmarks"
FOUR_OPTIONS = "{question_stem}\n" + "\n".join(
    f"({letter}) {{choices[text][{i}]}}" for i, letter in enumerate("ABCD")
)
# Sets with few different golds, which no recipe uses: four letters, or two words.
OTHERS = {
    "openbookqa": PromptArguments(
        "allenai/openbookqa", dataset_config="main", dataset_train_split="test", grader="choice",
        prompt_template=FOUR_OPTIONS, gold_template="{answerKey}",
    ),
    "BBH boolean_expressions": PromptArguments(
        "SaylorTwift/bbh", dataset_config="boolean_expressions", dataset_train_split="test",
        grader="exact_match",
        prompt_template="{input}", gold_template="{target}",
    ),
}  # fmt: skip

INTRODUCTION = """\
The accuracy reward grades a fixed set of answers that need no solving. Each answer is tried bare
and in the form that the prompt asks for, on 64 prompts (or on all if there are fewer), as
`shaped-trl rlvr --audit_reward only` does. The bar is 30%. If the golds have at most five values
and the most frequent one has a higher share, the bar is that share; answers that depend on the
prompt then get three standard errors more. A reward above the bar is refused. An answer that passed
on none of the first 16 prompts was not tried on more.

The last three columns describe the golds: how many golds of the sample pass when they are given as
answers, how many different golds the sample and a draw from the rest contain, and the share of the
most frequent gold in the sample. They are empty if golds are not answers, as with a program's tests
or a task without one right answer. All numbers are in audits.csv."""


@dataclass
class Line:
    """A row of the table. `problem` says why there is no audit; shares are 0–1."""

    group: str
    name: str
    grader: str = ""
    prompts: int = 0
    golds_passed: int | None = None
    gold_values: int | None = None
    frequent_gold: str = ""
    frequent_share: float | None = None
    answer: str = ""
    form: str = ""
    passed: int = 0
    tried_on: int = 0
    above_bar: int = 0
    bar: float | None = None
    ungraded: int = 0
    problem: str = ""


def sets(mirror: str | None, folder: Path) -> Iterator[tuple[str, str, PromptArguments]]:
    """Group, name and prompts of all sets to audit."""
    check_package()
    from reasoning_gym.factory import DATASETS

    for task in sorted(set(DATASETS) - set(NEEDS_CONFIGURATION)):
        yield TASKS, task, PromptArguments(f"{REASONING_GYM}{task}", num_prompts=ENTRIES)
    write_corpus(folder, train_rows=8)
    for name in (name for name in recipes.names() if "/rlvr" in name):
        asynchronous = name.endswith("-async")
        words = ["--output_dir", str(folder), "--bf16", "false", "--use_cpu", "true"]
        words += [] if asynchronous else ["--use_vllm", "false"]
        prompts = recipes.Parser("rlvr", rlvr_options(asynchronous)).resolve(name, words)[0][0]
        data = prompts.dataset_name.replace("{data}", str(folder))
        prompts = replace(
            prompts,
            dataset_name=data,
            hub_mirror=mirror,
            decontaminate=None,
            max_prompt_length=None,
        )
        yield RECIPES, name, replace(prompts, dataset_test_split=None, num_heldout=None)
    for name in BENCHMARKS:
        yield BENCHMARK_DATA, name, PromptArguments("", benchmark_format=name, hub_mirror=mirror)
    for name, prompts in OTHERS.items():
        yield BENCHMARK_DATA, name, replace(prompts, hub_mirror=mirror)


def line(group: str, name: str, prompts: PromptArguments) -> Line:
    """Audit one set."""
    try:
        data = rl_prompts(prompts, seed=0)
        reward = VerdictReward(data.grader)
    except UserError as error:
        # The rest of the message is about this machine.
        problem = " ".join(str(error).split()).partition(": put it at ")[0]
        return Line(group, name, problem=problem.replace(str(prompts.hub_mirror), "DIR"))
    return _line(group, name, audit_reward(reward, data.train))


def _line(group: str, name: str, found: Audit) -> Line:
    refused = found.refused()
    best = (refused or found.tried)[0]
    golds = found.golds
    known = golds.texts is not None
    return Line(
        group,
        name,
        found.reward,
        found.prompts,
        golds.passed,
        golds.values if known else None,
        shown(golds.frequent[0]) if known else "",
        round(golds.share, 3) if known else None,
        best.answer.name if best.passed else "",
        best.written() if best.passed else "",
        best.passed,
        best.prompts,
        len(refused),
        round(found.bar(best.answer.constant), 3),
        found.ungraded,
    )


def page(lines: list[Line], where: dict[str, str]) -> str:
    """The README of the results."""
    audited = [one for one in lines if not one.problem]
    refused = [one for one in audited if one.above_bar]
    parts = [
        "# Blind answers: which rewards can be had without the answer",
        INTRODUCTION,
        f"Of {len(audited)} rewards **{len(refused)}** are refused.",
    ]
    for group in (TASKS, RECIPES, BENCHMARK_DATA):
        own = [one for one in audited if one.group == group]
        parts.append(f"## {group[0].upper()}{group[1:]}\n\n" + _table(own))
    problems = "\n".join(f"- {one.name}: {one.problem}" for one in lines if one.problem)
    parts.append(f"## Not audited\n\n{problems}" if problems else "")
    parts.append("; ".join(f"{name} {value}" for name, value in where.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(lines: list[Line]) -> str:
    head = [
        "| | most successful blind answer | rewarded | bar | | golds that pass | different | most "
        "frequent |",
        "|---|---|--:|--:|---|--:|--:|---|",
    ]
    rows = []
    for one in sorted(
        lines, key=lambda one: (-bool(one.above_bar), -one.passed / max(one.tried_on, 1), one.name)
    ):
        answer = f"{one.answer}, {one.form}".replace("|", "\\|") if one.passed else "none"
        share = f"{one.passed / max(one.tried_on, 1):.0%}"
        verdict = f"**refused** ({one.above_bar} above)" if one.above_bar else ""
        golds = "" if one.golds_passed is None else f"{one.golds_passed} of {one.prompts}"
        frequent = ""
        if one.frequent_share is not None:
            frequent = f"{one.frequent_gold} {one.frequent_share:.0%}".replace("|", "\\|").replace(
                "`", "'"
            )
        values = "" if one.gold_values is None else str(one.gold_values)
        rows.append(
            f"| {one.name} | {answer} | {share} | {one.bar:.0%} | {verdict} | {golds} | "
            f"{values} | {frequent} |"
        )
    return "\n".join(head + rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=OUT)
    parser.add_argument("--hub_mirror", help="folder read before the Hub")
    parser.add_argument("--only", help="names, separated by commas, in place of all")
    args = parser.parse_args(argv)
    out, lines = Path(args.out), []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for group, name, prompts in sets(args.hub_mirror, Path(folder)):
            if args.only is None or name in args.only.split(","):
                lines.append(line(group, name, prompts))
                print(
                    group, name, lines[-1].answer, lines[-1].passed, lines[-1].problem, flush=True
                )
    with (out / "audits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(lines[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, lines))
    where = origin(
        "python -m speed.blind_answers" + (" --hub_mirror DIR" if args.hub_mirror else "")
    )
    where |= {name: metadata.version(name) for name in ("reasoning-gym", "math-verify")}
    write_atomic(out / "README.md", page(lines, where))
    return 0


if __name__ == "__main__":
    sys.exit(main())
