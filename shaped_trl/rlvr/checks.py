"""What `shaped-trl rlvr` and `RLVRTrainer` refuse before training begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from shaped_eval.errors import UserError
from transformers import PreTrainedConfig
from trl import GRPOTrainer

from shaped_trl.rlvr.config import RLVRArguments, RLVRConfig
from shaped_trl.rlvr.lengths import check_context


def check_run(trainer: GRPOTrainer) -> None:
    """Refuse what a trainer that is built cannot train.

    Raises:
        UserError: completions beyond the model's context, or fewer prompts than a generation batch
            has.
        ValueError: the arguments ask for no training.
    """
    args = trainer.args
    if args.audit_reward == "only":
        raise ValueError(
            "audit_reward='only' trains nothing: call shaped_trl.rlvr.audit_reward instead"
        )
    check_lengths(args, trainer.accelerator.unwrap_model(trainer.model).config)
    if isinstance(trainer.train_dataset, Dataset):
        check_number(args, len(trainer.train_dataset))


def check_lengths(
    args: RLVRArguments, config: PreTrainedConfig, max_prompt_length: int | None = None
) -> None:
    """Raise UserError where prompt and longest completion do not fit the model's context.

    Args:
        args: lengths, and the engine that generates.
        config: the model's.
        max_prompt_length: tokens of the longest prompt; None where it is not known.
    """
    engine_limit = None
    if isinstance(args, RLVRConfig) and args.use_vllm and args.vllm_mode == "colocate":
        engine_limit = args.vllm_max_model_length or getattr(
            config.get_text_config(), "max_position_embeddings", None
        )
    check_context(args.length_schedule().longest, max_prompt_length, config, engine_limit)


def check_number(args: RLVRConfig, num_prompts: int) -> None:
    """Raise UserError for fewer prompts than a generation batch has: TRL's sampler would give
    none."""
    batch = args.generation_batch_size // args.num_generations
    if num_prompts < batch:
        raise UserError(
            f"{num_prompts} prompts are fewer than the {batch} of a generation batch: give more "
            "prompts, or lower generation_batch_size"
        )


def check_weights_of_rewards(args: RLVRConfig, names: Sequence[str]) -> None:
    """Raise UserError unless `reward_weights` has a weight for each of the rewards `names`."""
    if args.reward_weights is not None and len(args.reward_weights) != len(names):
        raise UserError(
            f"reward_weights={args.reward_weights} must have a weight for each of "
            f"{', '.join(names)}"
        )


def refuse_unsupported(kwargs: dict[str, Any]) -> None:
    """Raise ValueError for arguments of the trainer that dynamic sampling does not support."""
    for name in ("tools", "rollout_func", "environment_factory"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{name} is not supported with dynamic_sampling: set dynamic_sampling=False"
            )
    dataset = kwargs.get("train_dataset")
    if dataset is None:
        return  # TRL raises, and names what is missing
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "dynamic_sampling needs a train_dataset of known length: set dynamic_sampling=False"
        )
    if {"image", "images"} & set(dataset.column_names):
        raise ValueError("dynamic_sampling does not support images: set dynamic_sampling=False")
