"""`shaped-trl rlvr`: one resolved recipe → prompts, rewards, model → RLVRTrainer → a checkpoint."""

from __future__ import annotations

from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.weights import check_weights
from trl import ModelConfig, get_peft_config

from shaped_trl.data.decontamination import ReportCallback
from shaped_trl.data.prompts import PromptArguments, Prompts, check_prompts, rl_prompts
from shaped_trl.hub.facts import prompt_facts
from shaped_trl.rlvr.audit import audit_before_training
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.lengths import check_context
from shaped_trl.rlvr.rewards import RewardArguments, VerdictReward, reward_functions
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
    model_source,
    trusts_code,
)


def rlvr(
    prompts: PromptArguments,
    args: RLVRConfig,
    model_args: ModelConfig,
    rewards: RewardArguments | None = None,
    benchmarks: BenchmarkArguments | None = None,
) -> None:
    """Train with verifiable rewards and save the model to `output_dir`.

    A run that finds its own checkpoint in `output_dir` continues from it. With ``audit_reward:
    only`` nothing is trained, and no model is loaded.
    """
    if args.audit_reward == "only":
        audit_only(prompts, args, model_args, rewards or RewardArguments())
        return
    if already_finished(args):
        return
    trainer = build_trainer(prompts, args, model_args, rewards or RewardArguments())
    trainer.data_facts = prompt_facts(prompts, ask_hub=args.push_to_hub)
    add_benchmarks(trainer, benchmarks, prompts.hub_mirror)
    with full_disk_explained(args.output_dir):
        continue_training(trainer)
        save_for_good(trainer)


def build_trainer(
    prompts: PromptArguments, args: RLVRConfig, model_args: ModelConfig, rewards: RewardArguments
) -> RLVRTrainer:
    """Check what is asked for, then load prompts, tokenizer and model.

    Raises:
        UserError: in the order of its cost: options, prompts, the model's configuration, its
            tokenizer, blind answers.
    """
    source = model_source(model_args)
    check_prompts(prompts)
    check_rewards(rewards, args)
    if (
        args.eval_strategy != "no"
        and prompts.dataset_test_split is None
        and prompts.num_heldout is None
    ):
        raise UserError(
            f"eval_strategy={args.eval_strategy.value!r} needs num_heldout or dataset_test_split"
        )
    data = None if _needs_tokenizer(prompts) else rl_prompts(prompts, args.seed)
    kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
    config = checkpoint_config(model_args, trusts_code(args), **kwargs)
    check_weights(source, "model_name_or_path")
    limit = None
    if args.use_vllm and args.vllm_mode == "colocate":
        limit = args.vllm_max_model_length or getattr(
            config.get_text_config(), "max_position_embeddings", None
        )
    check_context(args.length_schedule().longest, prompts.max_prompt_length, config, limit)
    tokenizer = _tokenizer(model_args, args)
    if data is None:
        data = rl_prompts(prompts, args.seed, tokenizer, args.chat_template_kwargs)
    _say(data, prompts, args)
    batch = args.generation_batch_size // args.num_generations
    if len(data.train) < batch:
        raise UserError(
            f"{len(data.train)} prompts are fewer than the {batch} of a generation batch: lower its size"
        )
    functions = reward_functions(rewards, data.grader, args.length_schedule())
    if not (args.resume_from_checkpoint or last_checkpoint(args.output_dir)):
        audit_before_training(functions[0], data.train, args)
    args.model_init_kwargs = kwargs
    trainer = RLVRTrainer(
        source,
        functions,
        args,
        train_dataset=data.train,
        eval_dataset=data.heldout,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=[ReportCallback(data.overlap, data.dropped)]
        if data.overlap is not None
        else None,
    )
    trainer.audited = True
    return trainer


def audit_only(
    prompts: PromptArguments, args: RLVRConfig, model_args: ModelConfig, rewards: RewardArguments
) -> None:
    """Try blind answers on the prompts that a run would train on.

    Raises:
        UserError: as `build_trainer` does, of options, prompts and blind answers.
    """
    check_prompts(prompts)
    tokenizer = _tokenizer(model_args, args) if _needs_tokenizer(prompts) else None
    data = rl_prompts(prompts, args.seed, tokenizer, args.chat_template_kwargs)
    _say(data, prompts, args)
    audit_before_training(VerdictReward(data.grader, rewards.reward_workers), data.train, args)


def check_rewards(rewards: RewardArguments, args: RLVRConfig) -> None:
    """Raise UserError for rewards that do not fit the lengths or their weights."""
    shortest = min(args.length_schedule().lengths)
    if rewards.overlong_buffer is not None and rewards.overlong_buffer >= shortest:
        raise UserError(
            f"overlong_buffer={rewards.overlong_buffer} must be below the longest completion, which is {shortest} "
            "tokens at its shortest"
        )
    extra = {"format": rewards.format_pattern, "overlong": rewards.overlong_buffer}
    names = ["accuracy", *(name for name, value in extra.items() if value is not None)]
    if args.reward_weights is not None and len(args.reward_weights) != len(names):
        raise UserError(
            f"reward_weights={args.reward_weights} must have a weight for each of {', '.join(names)}"
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


def _say(data: Prompts, prompts: PromptArguments, args: RLVRConfig) -> None:
    """What became of the prompts, once."""
    if args.process_index:
        return
    counts: dict[str, Any] = {name: count for name, count in data.counts.items() if count}
    said = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    print(
        f"prompts of {prompts.dataset_name or prompts.benchmark_format}: {said}; graded by {data.grader}"
    )
