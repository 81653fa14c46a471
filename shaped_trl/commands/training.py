"""`shaped-trl train`, `shaped-trl rlvr` and `shaped-trl merge`."""

from __future__ import annotations

from functools import partial

from shaped_eval.errors import UserError

from shaped_trl.commands.help import print_help, wants_help
from shaped_trl.launch import is_on, launch
from shaped_trl.usage import argparser, take_config

NO = ("no", "False")  # YAML reads a plain no as false


def train_command(argv: list[str]) -> int:
    if wants_help(argv):
        return print_help("train", argv)
    config, rest = take_config(argv)
    if (code := launch("train", argv, config)) is not None:
        return code
    from shaped_eval.untrusted.texts import visible

    from shaped_trl.options import train_options
    from shaped_trl.recipes import Parser
    from shaped_trl.run_record import record
    from shaped_trl.training.dry_run import dry_run

    options = train_options()
    resolved, settings = Parser("train", options).resolve(config, rest)
    corpus, args, model_args, benchmarks, look, processes = resolved
    if look.dry_run:
        devices = look.devices or processes.num_processes
        for line in dry_run(corpus, args, model_args, devices):
            print(visible(line))
        return 0
    from shaped_trl.training.engines import division
    from shaped_trl.training.resuming import own_output_dir
    from shaped_trl.training.run import check_files, train
    from shaped_trl.training.starting_point import trusts_code

    check_files(corpus, model_args, trusts_code(args))
    # The form of β is recorded by name, because its default has changed once.
    settings = {**settings, "positive": args.positive}
    with own_output_dir(args):
        record(settings, args.output_dir, options, **division(args))
        # A run that says nothing about evaluations is evaluated once, at its end.
        at_end = str(settings.get("eval_strategy", "")) not in NO
        train(corpus, args, model_args, benchmarks, evaluate_at_end=at_end)
    return 0


def rlvr_command(argv: list[str]) -> int:
    if wants_help(argv):
        return print_help("rlvr-async" if is_on("asynchronous", None, argv) else "rlvr", argv)
    config, rest = take_config(argv)
    if is_on("serve", config, rest):
        return serve_command(config, rest)
    if (code := launch("rlvr", argv, config)) is not None:
        return code
    from shaped_trl.options import rlvr_options, rlvr_options_elsewhere
    from shaped_trl.recipes import Parser

    asynchronous = is_on("asynchronous", config, rest)
    options = rlvr_options(asynchronous)
    elsewhere = partial(rlvr_options_elsewhere, asynchronous)
    resolved, settings = Parser("rlvr", options, elsewhere).resolve(config, rest)
    prompts, args, model_args, rewards, benchmarks, _, look, _ = resolved
    if look.dry_run:
        if asynchronous:
            raise UserError("dry_run=True is not available with asynchronous: true")
        from shaped_eval.untrusted.texts import visible

        from shaped_trl.rlvr.dry_run import dry_run

        for line in dry_run(prompts, args, model_args, rewards):
            print(visible(line), flush=True)
        return 0
    from shaped_trl.rlvr.run import rlvr
    from shaped_trl.run_record import record
    from shaped_trl.training.engines import division
    from shaped_trl.training.resuming import own_output_dir
    from shaped_trl.training.starting_point import model_source

    if args.audit_reward == "only":  # needs no model, and writes nothing
        rlvr(prompts, args, model_args, rewards, benchmarks)
        return 0
    model_source(model_args)
    with own_output_dir(args):
        record(settings, args.output_dir, options, **division(args))
        rlvr(prompts, args, model_args, rewards, benchmarks)
    return 0


def serve_command(config: str | None, words: list[str]) -> int:
    """`shaped-trl rlvr --serve true`: become the vLLM server of an asynchronous run."""
    if not is_on("asynchronous", config, words):
        raise UserError("serve=True needs asynchronous: true")
    from shaped_trl.options import rlvr_options
    from shaped_trl.recipes import Parser
    from shaped_trl.rlvr.asynchronous.server import serve
    from shaped_trl.training.starting_point import model_source

    resolved, _ = Parser("rlvr", rlvr_options(True)).resolve(config, words)
    prompts, args, model_args, *_ = resolved
    serve(model_source(model_args), args, prompts.max_prompt_length)
    return 0


def merge_command(argv: list[str]) -> int:
    parser = argparser(
        "merge",
        "Merge a LoRA adapter into its base model, and save a whole model with its tokenizer. The "
        "base model is the one that the adapter's adapter_config.json names. Its weights keep "
        "their type.\n"
        "\n"
        "  shaped-trl merge outputs/lora --out outputs/merged\n"
        "\n"
        "eval, sample, train and rlvr also take the folder of an adapter as it is.",
    )
    parser.add_argument(
        "adapter",
        metavar="ADAPTER",
        help="Folder of the adapter, such as the output_dir of a run with --use_peft.",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="Folder of the new model, which must be empty."
    )
    args = parser.parse_args(argv)
    from shaped_eval.untrusted.locks import locked_folders

    from shaped_trl.modeling.merging import merge

    with locked_folders([args.out]):
        merge(args.adapter, args.out)
    print(args.out)
    return 0
