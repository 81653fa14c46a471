"""The `shaped-trl` command: argument parsing only; each command imports its stage when it is
called."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from shaped_eval.errors import UserError, said_of
from shaped_eval.untrusted.texts import one_line, visible

from shaped_trl.launch import CAUSES, LaunchArguments, end_with_parent, launch, note, say
from shaped_trl.usage import (
    RLVR,
    SAMPLE,
    TRAIN,
    USAGE,
    argparser,
    print_help,
    take_config,
    wants_help,
)

PASS_AT_HELP = (
    "k of pass@k and maj@k, separated by commas; default: the powers of two up to n, and n"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for the user's errors (one line), 130 for
    Ctrl-C, 141 where nobody reads what it prints any more (`--dry_run | head`).

    Where other processes were started for it, 1 when one of them failed, 128 + N for signal N.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
    if CAUSES in os.environ:
        end_with_parent(signal.SIGKILL)
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    # TRL 1.16 and PEFT use transformers' old name; nothing a user of this command could change
    warnings.filterwarnings(
        "ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning
    )
    try:
        if command not in COMMANDS:
            raise UserError(f"unknown command {command!r}; choose from {', '.join(COMMANDS)}")
        code = COMMANDS[command](argv[1:]) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        say(error)
        return 2
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        if CAUSES not in os.environ and os.environ.get("RANK", "0") == "0":
            print(
                "\nshaped-trl: interrupted; the same command continues from what is saved",
                file=sys.stderr,
            )
        return 130
    except BrokenPipeError as error:
        if _is_read():
            note(error)
            raise
        # the interpreter flushes once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        said = said_of(error) if isinstance(error, OSError) else None
        if said is not None:
            say(UserError(said))
            return 2
        note(error)
        raise


def _is_read() -> bool:
    """Whether somebody still reads what this process prints."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error is reported in any case
    return not poll.poll(0)


def train_command(argv: list[str]) -> int:
    config, rest = take_config(argv)
    if (code := launch("train", argv, config)) is not None:
        return code
    from shaped_trl.data.corpora import CorpusArguments, SourceArguments
    from shaped_trl.options import train_options
    from shaped_trl.recipes import Parser, record
    from shaped_trl.training.config import ShapedConfig
    from shaped_trl.training.dry_run import DryRunArguments, dry_run
    from shaped_trl.training.evaluation import BenchmarkArguments
    from shaped_trl.training.watch import WatchArguments

    inherited = "Every field of TRL's SFTConfig and ModelConfig is an option as well (learning_rate, packing, ...)."
    if wants_help(argv):
        shown = [
            DryRunArguments,
            ShapedConfig,
            WatchArguments,
            SourceArguments,
            CorpusArguments,
            BenchmarkArguments,
            LaunchArguments,
        ]
        return print_help(TRAIN, shown, inherited)
    resolved, settings = Parser("train", train_options()).resolve(config, rest)
    corpus, args, model_args, benchmarks, look, processes = resolved
    if look.dry_run:
        print(visible(dry_run(corpus, args, model_args, look.devices or processes.num_processes)))
        return 0
    from shaped_trl.training.engines import division
    from shaped_trl.training.resuming import own_output_dir
    from shaped_trl.training.run import check_files, train, trusts_code

    check_files(corpus, model_args, trusts_code(args))
    # the form by name, since its default has changed once
    with own_output_dir(args):
        record({**settings, "positive": args.positive}, args.output_dir, **division(args))
        train(corpus, args, model_args, benchmarks)
    return 0


def rlvr_command(argv: list[str]) -> int:
    config, rest = take_config(argv)
    if (code := launch("rlvr", argv, config)) is not None:
        return code
    from shaped_trl.data.corpora import SourceArguments
    from shaped_trl.data.prompts import PromptArguments
    from shaped_trl.options import rlvr_options
    from shaped_trl.recipes import Parser, record
    from shaped_trl.rlvr.config import RLVRConfig
    from shaped_trl.rlvr.rewards import RewardArguments
    from shaped_trl.training.evaluation import BenchmarkArguments
    from shaped_trl.training.watch import WatchArguments

    inherited = (
        "Every field of TRL's GRPOConfig and ModelConfig is an option as well (learning_rate, ...)."
    )
    if wants_help(argv):
        shown = [
            RLVRConfig,
            WatchArguments,
            SourceArguments,
            PromptArguments,
            RewardArguments,
            BenchmarkArguments,
            LaunchArguments,
        ]
        return print_help(RLVR, shown, inherited)
    resolved, settings = Parser("rlvr", rlvr_options()).resolve(config, rest)
    prompts, args, model_args, rewards, benchmarks, _ = resolved
    from shaped_trl.rlvr.run import rlvr
    from shaped_trl.training.engines import division
    from shaped_trl.training.resuming import own_output_dir
    from shaped_trl.training.starting_point import model_source

    if args.audit_reward == "only":  # which needs no model and leaves nothing behind
        rlvr(prompts, args, model_args, rewards, benchmarks)
        return 0
    model_source(model_args)
    with own_output_dir(args):
        record(settings, args.output_dir, **division(args))
        rlvr(prompts, args, model_args, rewards, benchmarks)
    return 0


def sample_command(argv: list[str]) -> int:
    from shaped_eval.locks import locked_folders
    from shaped_eval.sample import SampleConfig, sample
    from shaped_eval.sampling.show import ShowOptions, show

    from shaped_trl.recipes import Parser

    options = [SampleConfig, ShowOptions]
    if wants_help(argv):
        what = "Sample completions of benchmark problems into DIR/samples.jsonl; or --show a benchmark's first prompt."
        return print_help(SAMPLE.format(command="sample", what=what), options)
    config, rest = take_config(argv)
    settings = Parser("sample", options).settings(config, rest)
    if settings.get("show"):
        show(settings)
        return 0
    from shaped_eval.sampling.processes import from_environment

    options_of_sampling = Parser("sample", options).resolve(config, rest)[0][0]
    processes = from_environment()
    with locked_folders([options_of_sampling.out] if processes.first else []):
        folder = sample(options_of_sampling, processes=processes)
    if processes.first:
        print(folder)
    return 0


def eval_command(argv: list[str]) -> int:
    from shaped_eval.checkpoints import evaluate_checkpoints
    from shaped_eval.locks import locked_folders
    from shaped_eval.publish import publish
    from shaped_eval.sample import sample

    from shaped_trl.options import eval_options
    from shaped_trl.recipes import Parser

    if wants_help(argv):
        what = "Sample, grade and report: unbiased pass@k, avg@n and cons@n with intervals."
        return print_help(SAMPLE.format(command="eval", what=what), eval_options())
    recipe, rest = take_config(argv)
    config, options, checkpoints, publishing = Parser("eval", eval_options()).resolve(recipe, rest)[
        0
    ]
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


def _allow_weak_sandbox(allowed: bool) -> None:
    """For this process and the grading processes that it starts."""
    if allowed:
        from shaped_eval.grading.sandbox.server import ALLOW_WEAK_VARIABLE

        os.environ[ALLOW_WEAK_VARIABLE] = "1"


def grade_command(argv: list[str]) -> int:
    parser = argparser(
        "grade",
        "Grade a run's samples into verdicts.jsonl, or foreign answers:\n"
        "  shaped-trl grade --answers FILE --benchmark gsm8k --out DIR\n"
        'Rows of FILE: {"problem_id": .., "completions": [..], "gold": optional}.',
    )
    parser.add_argument("folder", nargs="?", help="folder of a run of `shaped-trl sample`")
    parser.add_argument("--answers", help="JSONL file of foreign answers")
    parser.add_argument(
        "--benchmark",
        help="the benchmark they answer; math, choice, exact_match, text: any row with its gold",
    )
    parser.add_argument("--out", help="folder to write")
    parser.add_argument("--hub_mirror", help="folder read before the Hub")
    parser.add_argument("--num_workers", type=int, help="grading processes (one per core)")
    parser.add_argument(
        "--allow_weak_sandbox", action="store_true", help="run code that cannot be confined here"
    )
    parser.add_argument(
        "--keep_reasoning",
        action="store_true",
        help="grade what stands in <think> tags like the rest of an answer",
    )
    args = parser.parse_args(argv)
    _allow_weak_sandbox(args.allow_weak_sandbox)
    from shaped_eval.grade import grade_answers, grade_run
    from shaped_eval.locks import locked_folders

    options = {"num_workers": args.num_workers, "keep_reasoning": args.keep_reasoning}
    if bool(args.folder) == bool(args.answers):
        raise UserError("grade: give a run's folder, or --answers FILE with --benchmark and --out")
    if args.folder:
        with locked_folders([args.folder] if Path(args.folder).is_dir() else [], "folder"):
            return _graded(grade_run(args.folder, **options))
    if not args.benchmark or not args.out:
        raise UserError("grade: --answers needs --benchmark NAME and --out DIR")
    with locked_folders([args.out]):
        return _graded(
            grade_answers(
                args.answers, args.benchmark, args.out, hub_mirror=args.hub_mirror, **options
            )
        )


def _graded(folder: Path) -> int:
    """Say what came out, and what to do with it."""
    from shaped_eval.records import read_jsonl

    counts = Counter(row["status"] for row in read_jsonl(folder / "verdicts.jsonl"))
    said = one_line(", ".join(f"{count:,} {status}" for status, count in counts.most_common()))
    print(f"{folder}: {counts.total():,} verdicts: {said}; next: shaped-trl report {folder}")
    return 0


def report_command(argv: list[str]) -> int:
    from shaped_eval.locks import locked_folders
    from shaped_eval.publish import PublishOptions, publish
    from shaped_eval.report import parse_pass_at, places, report

    parser = argparser(
        "report",
        "Write results.json, report.md, report.html and its pictures from verdicts, and print the tables.\n"
        "One run: into its folder. Several: into each one's folder, and side by side, with differences to the\n"
        "first, into the folder `comparison` beside the first. With --out only there.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="RUN", help="folders of graded runs, or one folder of a study"
    )
    parser.add_argument("--pass_at", help=PASS_AT_HELP)
    parser.add_argument("--out", help="folder to write, no run's; the runs' own stay as they are")
    PublishOptions.add_to(parser)
    args = parser.parse_args(argv)
    publishing = PublishOptions(args.publish_to, args.push_to_hub, args.private)
    if any((Path(folder) / "study.yaml").is_file() for folder in args.folders):
        from shaped_trl.study.report import report_study
        from shaped_trl.study.runner import folder_lock

        if len(args.folders) > 1 or args.out:
            raise UserError(
                "report: a study's report is of that study alone, in its folder: give its folder only"
            )
        publishing.refuse_with("a study's report")
        with folder_lock(Path(args.folders[0])):
            print(report_study(args.folders[0], parse_pass_at(args.pass_at)))
        return 0
    pass_at = parse_pass_at(args.pass_at)
    with locked_folders(places(args.folders, args.out), "out" if args.out else "folder"):
        report(args.folders, pass_at, args.out)
        publish(args.folders, publishing)
    return 0


def compare_command(argv: list[str]) -> int:
    parser = argparser(
        "compare",
        "Compare run B with run A on the same problems: values, paired differences with intervals and p-values,\n"
        "problems that changed, settings that differ. Printed; with --out also a page with pictures.",
    )
    parser.add_argument("a", metavar="A", help="folder of a graded run, the one compared with")
    parser.add_argument("b", metavar="B", help="folder of the other")
    parser.add_argument("--pass_at", help=PASS_AT_HELP)
    parser.add_argument(
        "--out", help="folder to write results.json, report.md and report.html to, no run's"
    )
    args = parser.parse_args(argv)
    from shaped_eval.locks import locked_folders
    from shaped_eval.report import compare, parse_pass_at

    with locked_folders([args.out] if args.out else []):
        compare(args.a, args.b, parse_pass_at(args.pass_at), args.out)
    return 0


def study_command(argv: list[str]) -> int:
    parser = argparser(
        "study",
        "Run a study: regimes x arms x seeds x stages, each run a command of its own; then report. What is done with\n"
        "the settings it has now is kept; after Ctrl-C or a kill the same command continues.",
    )
    parser.add_argument("study", help="a study file, or the name of a shipped one (studies/tiny)")
    parser.add_argument("--out", help="folder of results; an unfinished study there is continued")
    parser.add_argument(
        "--max_parallel", type=int, help="runs side by side [the study's]; each GPU gets its share"
    )
    parser.add_argument(
        "--share",
        default="1/1",
        help="I/N: the I-th of N parts, for other machines or a Slurm array",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print runs and estimated cost, start nothing"
    )
    args = parser.parse_args(argv)
    return _run_study(args.study, args.out, args.dry_run, args.max_parallel, args.share)


def demo_command(argv: list[str]) -> int:
    parser = argparser(
        "demo",
        "The main job on a CPU, offline, seeded: three shapes in pre-training, RLVR on each, Pass@k before and\n"
        "after, one report. Minutes on 2 cores; after Ctrl-C the same command continues.",
    )
    parser.add_argument("--out", default="demo-out", help="folder of results [demo-out]")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the runs' commands, start nothing"
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
    return run_study(study, dry_run=dry_run, share=(int(part), int(parts)))


def recipes_command(argv: list[str]) -> int:
    from shaped_trl import recipes

    parser = argparser(
        "recipes", "List the shipped recipes with their contract, or copy one to edit it."
    )
    commands = parser.add_subparsers(dest="action")
    commands.add_parser("list", help="name and one-line contract of each shipped recipe")
    copy = commands.add_parser("copy", help="write an editable copy into the current folder")
    copy.add_argument("name")
    args = parser.parse_args(argv)
    if args.action == "copy":
        print(recipes.copy(args.name, Path.cwd()))
        return 0
    width = max(len(name) for name in recipes.names())
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.contract(name)}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo_command,
    "train": train_command,
    "rlvr": rlvr_command,
    "eval": eval_command,
    "sample": sample_command,
    "grade": grade_command,
    "report": report_command,
    "compare": compare_command,
    "study": study_command,
    "recipes": recipes_command,
}

if __name__ == "__main__":
    sys.exit(main())
