"""What `RLVRTrainer` settles and refuses before it trains."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from shaped_eval.errors import UserError
from trl import GRPOTrainer

from shaped_trl.rlvr.lengths import check_context
from shaped_trl.rlvr.printing import watch_terminal


def check_run(trainer: GRPOTrainer) -> None:
    """Raise UserError for completions beyond the context, or fewer prompts than TRL's sampler needs
    for a batch.

    Raise ValueError where the arguments ask for no training. What TRL prints from here on is safe
    for a terminal.
    """
    watch_terminal()
    args, limit = trainer.args, None
    if args.audit_reward == "only":
        raise ValueError(
            "audit_reward='only' trains nothing: call shaped_trl.rlvr.audit_reward instead"
        )
    config = trainer.accelerator.unwrap_model(trainer.model).config
    if args.use_vllm and args.vllm_mode == "colocate":
        limit = args.vllm_max_model_length or getattr(
            config.get_text_config(), "max_position_embeddings", None
        )
    check_context(args.length_schedule().longest, None, config, limit)
    batch = args.generation_batch_size // args.num_generations
    if isinstance(trainer.train_dataset, Dataset) and len(trainer.train_dataset) < batch:
        raise UserError(
            f"{len(trainer.train_dataset)} prompts are fewer than the {batch} of a generation batch"
        )


def refuse_unsupported(kwargs: dict[str, Any]) -> None:
    """Raise ValueError for what dynamic sampling cannot do, of the trainer's arguments."""
    for name in ("tools", "rollout_func", "environment_factory"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{name} is not supported with dynamic_sampling: set dynamic_sampling=False"
            )
    dataset = kwargs.get("train_dataset")
    if dataset is None:
        return  # TRL says what is missing
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "dynamic_sampling needs a train_dataset of known length: set dynamic_sampling=False"
        )
    if {"image", "images"} & set(dataset.column_names):
        raise ValueError("dynamic_sampling does not support images: set dynamic_sampling=False")
