"""`shaped-trl rlvr`: one resolved recipe → prompts, rewards, model → RLVRTrainer → a checkpoint."""

from __future__ import annotations

from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import is_adapter, refuse_adapter
from shaped_eval.untrusted.weights import check_weights
from trl import ModelConfig

from shaped_trl.data.decontamination import ReportCallback
from shaped_trl.data.prompt_options import PromptArguments, check_prompts
from shaped_trl.data.prompts import Prompts, rl_prompts
from shaped_trl.hub.cards import example_prompt
from shaped_trl.hub.facts import prompt_facts
from shaped_trl.rlvr.auditing.audit import audit_before_training
from shaped_trl.rlvr.checks import check_lengths, check_number, check_weights_of_rewards
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.rewards import (
    RewardArguments,
    VerdictReward,
    check_rewards,
    reward_functions,
)
from shaped_trl.rlvr.trainer import RLVRTrainer
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.resuming import (
    already_finished,
    continue_training,
    full_disk_explained,
    last_checkpoint,
    save_for_good,
)
from shaped_trl.training.starting_point import (
    checkpoint_config,
    load_tokenizer,
    model_init_kwargs,
    model_or_name,
    model_source,
    new_adapter,
    trusts_code,
)


def rlvr(
    prompts: PromptArguments,
    args: Any,
    model_args: ModelConfig,
    rewards: RewardArguments | None = None,
    benchmarks: BenchmarkArguments | None = None,
) -> None:
    """Train with verifiable rewards and save the model to `output_dir`.

    `args` is an `RLVRConfig`, or an `AsyncRLVRConfig` for the asynchronous trainer.

    If `output_dir` holds a checkpoint of this run, training continues from it. With ``audit_reward:
    only`` nothing is trained, and no model is loaded.
    """
    if args.audit_reward == "only":
        audit_only(prompts, args, model_args, rewards or RewardArguments())
        return
    if already_finished(args):
        return
    trainer = build_trainer(prompts, args, model_args, rewards or RewardArguments())
    facts = prompt_facts(prompts, ask_hub=args.push_to_hub)
    trainer.data_facts = facts
    trainer.example_prompt = example_prompt(trainer.train_dataset[0]["prompt"], facts)
    add_benchmarks(trainer, benchmarks, prompts.hub_mirror)
    with full_disk_explained(args.output_dir):
        continue_training(trainer)
        save_for_good(trainer)


def build_trainer(
    prompts: PromptArguments, args: Any, model_args: ModelConfig, rewards: RewardArguments
) -> Any:
    """Check the options, then load prompts, tokenizer and model.

    Args:
        args: an `RLVRConfig`, or an `AsyncRLVRConfig` for the asynchronous trainer.

    Raises:
        UserError: the cheapest check first: options, prompts, the model's configuration, its
            tokenizer, blind answers.
    """
    source = model_source(model_args)
    check_prompts(prompts)
    check_rewards(rewards, args.length_schedule())
    if isinstance(args, RLVRConfig):
        check_weights_of_rewards(args, rewards.names())
        _check_evaluation(prompts, args)
    else:
        _refuse_heldout(prompts)
        if is_adapter(source):
            refuse_adapter(source, "model_name_or_path", "asynchronous")
    data = None if _needs_tokenizer(prompts) else rl_prompts(prompts, args.seed)
    kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
    config = checkpoint_config(model_args, trusts_code(args), **kwargs)
    args.save_as(config)
    check_weights(source, "model_name_or_path")
    check_lengths(args, config, prompts.max_prompt_length)
    tokenizer = _tokenizer(model_args, args)
    if data is None:
        data = rl_prompts(prompts, args.seed, tokenizer, args.chat_template_kwargs)
    _print_counts(data, prompts, args, rewards)
    if isinstance(args, RLVRConfig):
        check_number(args, len(data.train))
    functions = reward_functions(rewards, data.grader, args.length_schedule())
    if not (args.resume_from_checkpoint or last_checkpoint(args.output_dir)):
        audit_before_training(functions[0], data.train, args)
    common = {
        "train_dataset": data.train,
        "processing_class": tokenizer,
        "peft_config": new_adapter(model_args),
        "callbacks": None if data.overlap is None else [ReportCallback(data.overlap, data.dropped)],
    }
    trainer: Any
    if isinstance(args, RLVRConfig):
        args.model_init_kwargs = kwargs
        model = model_or_name(source, args, model_args)
        trainer = RLVRTrainer(model, functions, args, eval_dataset=data.heldout, **common)
    else:
        from shaped_trl.rlvr.asynchronous.trainer import AsyncRLVRTrainer

        # the type is an option of this trainer
        args.model_init_kwargs = {"dtype": args.dtype, **(args.model_init_kwargs or {})}
        if model_args.model_revision is not None:
            args.model_init_kwargs["revision"] = model_args.model_revision
        trainer = AsyncRLVRTrainer(source, functions, args, **common)
    trainer.audited = True
    return trainer


def audit_only(
    prompts: PromptArguments, args: Any, model_args: ModelConfig, rewards: RewardArguments
) -> None:
    """Grade blind answers to the prompts that a run would train on, and train nothing.

    Raises:
        UserError: as `build_trainer` does, about options, prompts and blind answers; or the
            accuracy reward is a function of the user's own, whose numbers may mean anything.
    """
    check_prompts(prompts)
    check_rewards(rewards, args.length_schedule())
    if rewards.names()[0] != "accuracy":
        raise UserError(
            "audit_reward='only' audits the built-in reward accuracy, and reward_funcs begins "
            f"with {rewards.names()[0]!r}: call shaped_trl.rlvr.audit_reward on that function "
            "instead"
        )
    tokenizer = _tokenizer(model_args, args) if _needs_tokenizer(prompts) else None
    data = rl_prompts(prompts, args.seed, tokenizer, args.chat_template_kwargs)
    _print_counts(data, prompts, args, rewards)
    audit_before_training(VerdictReward(data.grader, rewards.reward_workers), data.train, args)


def _check_evaluation(prompts: PromptArguments, args: RLVRConfig) -> None:
    if args.eval_strategy == "no":
        return
    if prompts.dataset_test_split is None and prompts.num_heldout is None:
        raise UserError(
            f"eval_strategy={args.eval_strategy.value!r} needs num_heldout or dataset_test_split"
        )


def _refuse_heldout(prompts: PromptArguments) -> None:
    for name in ("dataset_test_split", "num_heldout"):
        if (value := getattr(prompts, name)) is not None:
            raise UserError(
                f"{name}={value!r}: the asynchronous trainer does not evaluate on held-out rows; "
                "leave it out, or evaluate with eval_benchmarks"
            )


def _tokenizer(model_args: ModelConfig, args: RLVRConfig) -> Any:
    return load_tokenizer(
        model_source(model_args),
        "model_name_or_path",
        trust_remote_code=trusts_code(args),
        revision=model_args.model_revision,
        truncation_side="left",
        padding_side="left",
    )


def _needs_tokenizer(prompts: PromptArguments) -> bool:
    return prompts.max_prompt_length is not None or prompts.chat


def _print_counts(
    data: Prompts, prompts: PromptArguments, args: RLVRConfig, rewards: RewardArguments
) -> None:
    """One line on how many prompts were read, dropped and used, by the first process."""
    if args.process_index:
        return
    counts = [f"{n:,} {name.replace('_', ' ')}" for name, n in data.counts.items() if n]
    source = prompts.dataset_name or prompts.benchmark_format
    graded = f"; graded by {data.grader}" if "accuracy" in rewards.names() else ""
    print(f"prompts of {source}: {', '.join(counts)}{graded}")
