"""`shaped-trl study`, `demo` and `recipes`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from shaped_eval.errors import UserError

from shaped_trl import recipes
from shaped_trl.usage import argparser


def study_command(argv: list[str]) -> int:
    parser = argparser(
        "study",
        "Run a study: every combination of regime (a kind of data), arm (a shape), seed and stage "
        "(train, rlvr or eval) is a run of its own, and one report compares the arms.\n"
        "\n"
        "  shaped-trl study studies/tiny --out outputs/study\n"
        "  shaped-trl study studies/tiny --dry_run\n"
        "\n"
        "Runs that are finished with the present settings are kept. After Ctrl-C or a kill, the "
        "same command continues the study. Arms are compared within a seed, so a seed that another "
        "machine has begun and not completed is run again.",
    )
    parser.add_argument(
        "study", metavar="STUDY", help="A study's YAML file, or the name of a shipped study."
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="Folder of the results. An unfinished study there is continued. By default it has "
        "the name of the study.",
    )
    parser.add_argument(
        "--max_parallel",
        type=int,
        metavar="N",
        help="Number of runs at the same time. They share the cores and the GPUs. By default it "
        "is the study's own number.",
    )
    parser.add_argument(
        "--share",
        default="1/1",
        metavar="I/N",
        help="Run part I of N only, and leave the others to other machines or to a Slurm array. "
        "By default 1/1, which is all.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the runs with their estimated cost and the power of the study's contrasts, and "
        "start nothing.",
    )
    args = parser.parse_args(argv)
    return _run_study(args.study, args.out, args.dry_run, args.max_parallel, args.share)


def demo_command(argv: list[str]) -> int:
    parser = argparser(
        "demo",
        "Run the whole workflow on a CPU, without a network: pre-train a small model with each of "
        "three shapes, run RL on each, measure pass@k before and after, and write one report. It "
        "takes minutes on two cores. After Ctrl-C, the same command continues.",
    )
    parser.add_argument(
        "--out",
        default="demo-out",
        metavar="DIR",
        help="Folder of the results. By default demo-out.",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="Print the commands of the runs, and start nothing."
    )
    args = parser.parse_args(argv)
    return _run_study("studies/tiny", args.out, args.dry_run)


def _run_study(
    name: str, out: str | None, dry_run: bool, max_parallel: int | None = None, share: str = "1/1"
) -> int:
    from shaped_trl.study.loading import load_study
    from shaped_trl.study.runner import run_study

    study = load_study(name, out)
    if max_parallel is not None:
        if max_parallel < 1:
            raise UserError(f"--max_parallel {max_parallel}: give a whole number of at least 1")
        study = dataclasses.replace(study, max_parallel=max_parallel)
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--share {share}: give I/N with 1 <= I <= N, such as 1/4")
    file = recipes.find(name, "study")
    return run_study(study, file=file, dry_run=dry_run, share=(int(part), int(parts)))


def recipes_command(argv: list[str]) -> int:
    parser = argparser(
        "recipes",
        "List the shipped recipes with one line on each, or copy one to edit it.\n"
        "\n"
        "  shaped-trl recipes\n"
        "  shaped-trl recipes copy gsm8k/train",
    )
    commands = parser.add_subparsers(dest="action", metavar="ACTION")
    commands.add_parser("list", help="Print the name of each shipped recipe and what it does.")
    copy = commands.add_parser("copy", help="Copy a recipe into the current folder.")
    copy.add_argument("name", metavar="NAME", help="Name of a shipped recipe.")
    args = parser.parse_args(argv)
    if args.action == "copy":
        print(recipes.copy(args.name, Path.cwd()))
        return 0
    width = max(len(name) for name in recipes.names())
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.contract(name)}")
    return 0
