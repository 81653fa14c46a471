"""What would go wrong silently where an engine shards the model: set right or refused before
training."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType
from shaped_eval.errors import UserError
from transformers import PreTrainedModel, Trainer, TrainingArguments


def keep_outputs_exact(accelerator: Accelerator) -> None:
    """Keep FSDP2 from rounding what the forward returns, loss and metrics, to the dtype of the
    parameters.

    accelerate sets that dtype for outputs too, where outputs are logits. To be called before the
    model is prepared.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if (
        plugin is not None
        and plugin.fsdp_version == 2
        and plugin.mixed_precision_policy is not None
    ):
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None
        )


def check_accumulation(
    model: PreTrainedModel, tp_size: int, gradient_accumulation_steps: int
) -> None:
    """Refuse gradient accumulation under tensor parallelism for a model where transformers adds
    gradients up wrongly.

    transformers 5.23 sums the accumulated gradient of norms over heads (`q_norm`, `k_norm`) over
    the processes once per micro-batch, what was summed before included.

    Raises:
        ValueError: such a model is to accumulate.
    """
    summed = [
        name for name, style in model.tp_plan.items() if style == "replicated_with_grad_allreduce"
    ]
    if tp_size > 1 and gradient_accumulation_steps > 1 and summed:
        raise ValueError(
            f"gradient_accumulation_steps={gradient_accumulation_steps} is not supported with tensor parallelism for "
            f"{type(model).__name__}: transformers would sum the gradients of {', '.join(summed)} once per "
            "micro-batch; set it to 1 and raise per_device_train_batch_size"
        )


def parallel_size(args: TrainingArguments, name: str) -> int:
    """Size `name` ("tp", "cp", "sp") of accelerate's parallelism: the recipe's, or the
    launcher's."""
    if args.parallelism_config is not None:
        return getattr(args.parallelism_config, f"{name}_size", None) or 1
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() != "true":
        return 1
    return int(os.environ.get(f"PARALLELISM_CONFIG_{name.upper()}_SIZE", "1"))


def division(args: TrainingArguments) -> dict[str, int]:
    """What `run_record.record` is told of the processes: the sequences of an optimizer step, rank and
    world."""
    replicas = max(1, args.world_size // parallel_size(args, "tp"))
    sequences = args.train_batch_size * args.gradient_accumulation_steps * replicas
    return {"sequences": sequences, "rank": args.process_index, "world": args.world_size}


def check_parallelism(args: TrainingArguments, tp_size: int) -> None:
    """Refuse to divide sequences among processes, and checkpoints that could not be continued.

    torch's ring attention has no mask that keeps packed documents apart, and runs on GPUs only, so
    that nothing here tests it. transformers 5.23 saves no optimizer of a model that it divided
    while loading.

    Raises:
        UserError: context or sequence parallelism is asked for, or whole checkpoints under tensor
            parallelism.
    """
    if tp_size > 1 and args.save_strategy != "no" and not args.save_only_model:
        raise UserError(
            f"save_strategy={args.save_strategy.value!r}: a run under tensor parallelism cannot be continued, since "
            "transformers saves no optimizer there; set save_only_model: true, or save_strategy: no"
        )
    for name, field in {
        "cp": "parallelism_config_cp_size",
        "sp": "parallelism_config_sp_size",
    }.items():
        if (size := parallel_size(args, name)) > 1:
            raise UserError(
                f"{field}={size} is not supported: a sequence stays on one device here; set it to 1, and shard the "
                "model (accelerate_config: fsdp2) with gradient checkpointing for long sequences"
            )


def let_cpus_shard(args: TrainingArguments, sharded: bool) -> None:
    """Have accelerate shard on CPUs as it does on GPUs, where it would leave FSDP2 out, or refuse
    tensor parallelism.

    To be called before the Trainer makes its accelerator.
    """
    state = getattr(args.distributed_state, "_shared_state", {})
    wanted = (
        sharded
        or args.fsdp_plugin_args is not None
        or os.environ.get("ACCELERATE_USE_FSDP", "") == "true"
    )
    if wanted and state.get("distributed_type") == DistributedType.MULTI_CPU:
        state["distributed_type"] = DistributedType.MULTI_GPU


def saved_under(checkpoint: str | Path) -> str:
    """The configuration (of recipes/accelerate) that a checkpoint's optimizer was saved under; ""
    where none was."""
    names = [path.name for path in Path(checkpoint).iterdir()]
    if any(name.startswith("pytorch_model_fsdp") for name in names):
        return "fsdp2"
    if "latest" in names:
        return "zero3"
    return "ddp" if "optimizer.pt" in names else ""


def check_engine(trainer: Trainer, checkpoint: str) -> None:
    """Raise UserError where the run could not go on from `checkpoint` with the state of its
    optimizer."""
    if trainer.get_tp_size() > 1:
        raise UserError(
            f"checkpoint {checkpoint!r} cannot be continued under tensor parallelism, since it has no optimizer: give "
            "it as --model_name_or_path, with another --output_dir"
        )
    own = "fsdp2" if trainer.is_fsdp_enabled else "zero3" if trainer.is_deepspeed_enabled else "ddp"
    saved = saved_under(checkpoint)
    if saved not in ("", own):
        raise UserError(
            f"checkpoint {checkpoint!r} was saved under accelerate_config {saved}, this run is under {own}: a run is "
            f"continued under the same, on any number of processes{' (zero3: the same)' * (saved == 'zero3')}"
        )


def save_whole_model(trainer: Trainer) -> None:
    """Save the model to `output_dir` as `from_pretrained` loads it, where checkpoints are sharded
    as well."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(_internal_call=True)  # which pushes nothing
