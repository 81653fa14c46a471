"""`shaped-trl sample`, `eval`, `grade`, `report` and `compare`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line

from shaped_trl.commands.help import print_help, wants_help
from shaped_trl.options import GradeOptions
from shaped_trl.usage import argparser, take_config

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

GRADE_HELP = {option.name: option.metadata["help"] for option in fields(GradeOptions)}


def sample_command(argv: list[str]) -> int:
    if wants_help(argv):
        return print_help("sample", argv)
    from shaped_eval.sample import sample
    from shaped_eval.sampling.show import show
    from shaped_eval.untrusted.locks import locked_folders

    from shaped_trl.options import sample_options
    from shaped_trl.recipes import Parser

    config, rest = take_config(argv)
    settings = Parser("sample", sample_options()).settings(config, rest)
    if settings.get("show"):
        show(settings)
        return 0
    from shaped_eval.sampling.processes import from_environment

    options = Parser("sample", sample_options()).resolve(config, rest)[0][0]
    processes = from_environment()
    with locked_folders([options.out] if processes.first else []):
        folder = sample(options, processes=processes)
    if processes.first:
        print(folder)
    return 0


def eval_command(argv: list[str]) -> int:
    if wants_help(argv):
        return print_help("eval", argv)
    from shaped_eval.checkpoints import evaluate_checkpoints
    from shaped_eval.publish import publish
    from shaped_eval.sample import sample
    from shaped_eval.untrusted.locks import locked_folders

    from shaped_trl.options import eval_options
    from shaped_trl.recipes import Parser

    recipe, rest = take_config(argv)
    resolved, _ = Parser("eval", eval_options()).resolve(recipe, rest)
    config, options, checkpoints, publishing, look = resolved
    if look.dry_run:
        return _dry_run(config, checkpoints.every_checkpoint)
    from shaped_eval.grade import grade_run
    from shaped_eval.report import parse_pass_at, report
    from shaped_eval.sampling.processes import from_environment

    _allow_weak_sandbox(options.allow_weak_sandbox)
    pass_at = parse_pass_at(options.pass_at, config.n)
    processes = from_environment()
    if checkpoints.every_checkpoint:
        publishing.refuse_with("every_checkpoint=True")
    grading = {"num_workers": options.num_workers, "keep_reasoning": options.keep_reasoning}
    with locked_folders([config.out] if processes.first else []):
        if checkpoints.every_checkpoint:
            evaluate_checkpoints(config, pass_at, **grading, processes=processes)
            return 0
        folder = sample(config, processes=processes)
        if processes.first:
            grade_run(folder, **grading)
            report([folder], pass_at)
            publish([folder], publishing)
    return 0


def _dry_run(config: SampleConfig, every_checkpoint: bool) -> int:
    from shaped_eval.checkpoints import find_checkpoints
    from shaped_eval.sampling.dry_run import dry_run
    from shaped_eval.untrusted.texts import visible

    runs = 1
    if every_checkpoint:
        found = find_checkpoints(config.model)
        config, runs = replace(config, model=str(next(iter(found.values())))), len(found)
    for line in dry_run(config, runs):
        print(visible(line), flush=True)
    return 0


def _allow_weak_sandbox(allowed: bool) -> None:
    """Allow it in this process and in the grading processes that it starts."""
    if allowed:
        from shaped_eval.grading.sandbox.server import ALLOW_WEAK_VARIABLE

        os.environ[ALLOW_WEAK_VARIABLE] = "1"


def grade_command(argv: list[str]) -> int:
    parser = argparser(
        "grade",
        "Grade the samples of a run, or answers from elsewhere, into verdicts.jsonl.\n"
        "\n"
        "  shaped-trl grade outputs/eval\n"
        "  shaped-trl grade --answers FILE --benchmark gsm8k --out DIR\n"
        "\n"
        "FILE has one line of JSON for each problem:\n"
        '  {"problem_id": "gsm8k/0", "completions": ["...", "..."], "gold": "72"}\n'
        "\n"
        "The gold answer may be left out if the benchmark has that problem.",
    )
    parser.add_argument(
        "folder", nargs="?", metavar="RUN", help="Folder that `shaped-trl sample` has written."
    )
    elsewhere = parser.add_argument_group("answers from elsewhere")
    elsewhere.add_argument("--answers", metavar="FILE", help="JSONL file of answers.")
    elsewhere.add_argument(
        "--benchmark",
        metavar="NAME",
        help="Benchmark that they answer: a name, or the path of your own file. For questions of "
        "no benchmark give a grader here, math, choice, exact_match or text. Each row then needs "
        "its gold answer.",
    )
    elsewhere.add_argument("--out", metavar="DIR", help="Folder of the new run.")
    elsewhere.add_argument(
        "--hub_mirror",
        metavar="DIR",
        help="Folder of data sets, which is read before the Hub. It holds files "
        "<id>/<config>/<split>.jsonl.",
    )
    grading = parser.add_argument_group("grading")
    grading.add_argument(
        "--grader",
        action="append",
        default=[],
        metavar="NAME",
        help="With --answers: grade with this grader in place of the benchmark's, by name or as "
        "package.module:name. With RUN: allow your own grader package.module:name, which the "
        "problems of the run name. It can be given several times.",
    )
    grading.add_argument("--num_workers", type=int, metavar="N", help=GRADE_HELP["num_workers"])
    for name in ("keep_reasoning", "allow_weak_sandbox"):
        grading.add_argument(f"--{name}", action="store_true", help=GRADE_HELP[name])
    args = parser.parse_args(argv)
    _allow_weak_sandbox(args.allow_weak_sandbox)
    from shaped_eval.grade import grade_answers, grade_run
    from shaped_eval.untrusted.locks import locked_folders

    options = {"num_workers": args.num_workers, "keep_reasoning": args.keep_reasoning}
    if bool(args.folder) == bool(args.answers):
        raise UserError(
            "grade: give either a run's folder, or --answers FILE with --benchmark and --out"
        )
    if args.folder:
        for name in ("benchmark", "out", "hub_mirror"):
            if (value := getattr(args, name)) is not None:
                raise UserError(
                    f"{name}={value!r} goes with --answers: a run is graded in its own folder, by "
                    "the graders of its problems"
                )
        with locked_folders([args.folder] if Path(args.folder).is_dir() else [], "folder"):
            return _print_counts(grade_run(args.folder, graders=args.grader, **options))
    if not args.benchmark or not args.out:
        raise UserError("grade: --answers needs --benchmark NAME and --out DIR")
    if len(args.grader) > 1:
        raise UserError(f"grader={args.grader}: give one grader for --answers")
    options |= {"hub_mirror": args.hub_mirror, "grader": next(iter(args.grader), None)}
    with locked_folders([args.out]):
        return _print_counts(grade_answers(args.answers, args.benchmark, args.out, **options))


def _print_counts(folder: Path) -> int:
    """Print how many verdicts of each kind there are, and the command that comes next."""
    from shaped_eval.records import read_jsonl

    counts = Counter(row["status"] for row in read_jsonl(folder / "verdicts.jsonl"))
    kinds = one_line(", ".join(f"{count:,} {status}" for status, count in counts.most_common()))
    print(f"{folder}: {counts.total():,} verdicts: {kinds}; next: shaped-trl report {folder}")
    return 0


def report_command(argv: list[str]) -> int:
    from shaped_eval.publish import PublishOptions, publish
    from shaped_eval.report import parse_pass_at, places, report
    from shaped_eval.untrusted.locks import locked_folders

    parser = argparser(
        "report",
        "Turn the verdicts of graded runs into results.json, report.md, report.html and pictures, "
        "and print the tables.\n"
        "\n"
        "  shaped-trl report outputs/eval\n"
        "  shaped-trl report outputs/before outputs/after\n"
        "\n"
        "The report of a run is written into its folder. For several runs there is also a report "
        "that shows them side by side, with their differences from the first run. It is written "
        "into the folder `comparison` beside the first run. The report of a study is written into "
        "the study's folder; of the options, only --pass_at applies to it.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="RUN",
        help="Folder of a graded run. There can be several, or one folder of a study.",
    )
    parser.add_argument("--pass_at", metavar="K,K", help=GRADE_HELP["pass_at"])
    parser.add_argument(
        "--out", metavar="DIR", help="Write the report into this folder, in place of those above."
    )
    parser.add_argument(
        "--interrupted",
        action="store_true",
        help="Report runs that were not finished. Problems that lack samples or verdicts are left "
        "out, and the report says how many.",
    )
    PublishOptions.add_to(parser.add_argument_group("hub"))
    args = parser.parse_args(argv)
    publishing = PublishOptions(args.publish_to, args.push_to_hub, args.private)
    if args.interrupted:
        publishing.refuse_with("interrupted=True")
    if any((Path(folder) / "study.yaml").is_file() for folder in args.folders):
        publishing.refuse_with("a study's report")
        if args.interrupted:
            raise UserError("interrupted=True is for runs of the suite: leave it out for a study")
        return _report_study(args.folders, args.out, args.pass_at)
    pass_at = parse_pass_at(args.pass_at)
    with locked_folders(places(args.folders, args.out), "out" if args.out else "folder"):
        report(args.folders, pass_at, args.out, args.interrupted)
        publish(args.folders, publishing)
    return 0


def _report_study(folders: list[str], out: str | None, pass_at: str | None) -> int:
    from shaped_eval.report import parse_pass_at

    from shaped_trl.study.report import report_study
    from shaped_trl.study.runner import folder_lock

    if len(folders) > 1 or out:
        raise UserError(
            "report: the report of a study is about that study alone, and is written into its "
            "folder: give that folder only"
        )
    with folder_lock(Path(folders[0])):
        print(report_study(folders[0], parse_pass_at(pass_at)))
    return 0


def compare_command(argv: list[str]) -> int:
    parser = argparser(
        "compare",
        "Compare run B with run A on the problems that they share: values, paired differences with "
        "intervals and p-values, the problems that changed, and the settings that differ.\n"
        "\n"
        "  shaped-trl compare outputs/before outputs/after --out outputs/comparison\n"
        "\n"
        "Several runs are each compared with A, and their p-values are corrected for the number of "
        "runs (Holm). With --plan, the command says how many problems and samples would show a "
        "difference, from A alone or from A and B:\n"
        "\n"
        "  shaped-trl compare outputs/before --plan 2",
    )
    parser.add_argument("a", metavar="A", help="Folder of a graded run: the baseline.")
    parser.add_argument(
        "others", nargs="*", metavar="B", help="Folder of a graded run to compare with it."
    )
    parser.add_argument("--pass_at", metavar="K,K", help=GRADE_HELP["pass_at"])
    parser.add_argument(
        "--plan",
        type=float,
        metavar="POINTS",
        help="Plan a comparison that would show a difference of so many percentage points.",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="Folder to write results.json, report.md, report.html and pictures into. It may not "
        "be the folder of a run. By default the comparison is only printed.",
    )
    args = parser.parse_args(argv)
    if args.plan is None and not args.others:
        raise UserError("compare: give the folder of a second run, B, or --plan POINTS")
    if args.plan is not None and args.pass_at is not None:
        raise UserError(f"pass_at={args.pass_at!r} has no meaning with --plan: leave it out")
    from shaped_eval.report import compare_with_baseline, parse_pass_at, plan_comparison
    from shaped_eval.untrusted.locks import locked_folders

    with locked_folders([args.out] if args.out else []):
        if args.plan is not None:
            plan_comparison([args.a, *args.others], args.plan, args.out)
        else:
            folders = [args.a, *args.others]
            compare_with_baseline(folders, parse_pass_at(args.pass_at), args.out)
    return 0
