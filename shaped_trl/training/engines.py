"""Checks and settings for engines that shard the model, which would otherwise fail silently."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType
from shaped_eval.errors import UserError
from transformers import PreTrainedModel, Trainer, TrainingArguments


def keep_outputs_exact(accelerator: Accelerator) -> None:
    """Keep FSDP2 from rounding the loss and the metrics to the dtype of the parameters.

    accelerate sets this dtype for all outputs, since they are usually logits. Call this before the
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
    """Refuse gradient accumulation under tensor parallelism for models where it is wrong.

    Once per micro-batch, transformers 5.23 sums the gradient of norms over heads (`q_norm`,
    `k_norm`) over the processes, including what it has already summed for earlier micro-batches.

    Raises:
        ValueError: `gradient_accumulation_steps` is above 1 for such a model.
    """
    summed = [
        name for name, style in model.tp_plan.items() if style == "replicated_with_grad_allreduce"
    ]
    if tp_size > 1 and gradient_accumulation_steps > 1 and summed:
        raise ValueError(
            f"gradient_accumulation_steps={gradient_accumulation_steps} is not supported with "
            f"tensor parallelism for {type(model).__name__}: transformers would sum the gradients "
            f"of {', '.join(summed)} once per micro-batch; set it to 1 and raise "
            "per_device_train_batch_size"
        )


def parallel_size(args: TrainingArguments, name: str) -> int:
    """The size of one dimension ("tp", "cp", "sp") of accelerate's parallelism.

    It comes from the recipe or else from the launcher's environment.
    """
    if args.parallelism_config is not None:
        return getattr(args.parallelism_config, f"{name}_size", None) or 1
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() != "true":
        return 1
    return int(os.environ.get(f"PARALLELISM_CONFIG_{name.upper()}_SIZE", "1"))


def division(args: TrainingArguments) -> dict[str, int]:
    """How a run is divided, as `run_record.record` takes it.

    These are the sequences of an optimizer step, the completions of a generation batch in GRPO, the
    rank and the world size.
    """
    replicas = max(1, args.world_size // parallel_size(args, "tp"))
    sequences = args.train_batch_size * args.gradient_accumulation_steps * replicas
    found = {"sequences": sequences, "rank": args.process_index, "world": args.world_size}
    if completions := getattr(args, "generation_batch_size", None):
        found["completions"] = completions
    return found


def check_parallelism(args: TrainingArguments, tp_size: int) -> None:
    """Refuse to divide sequences among processes, and checkpoints that cannot be continued.

    torch's ring attention has no mask to keep packed documents apart, and it runs only on GPUs, so
    that the tests could not cover it. transformers 5.23 does not save the optimizer of a model that
    it divided while loading.

    Raises:
        UserError: the options ask for context or sequence parallelism, or for checkpoints with an
            optimizer under tensor parallelism.
    """
    if tp_size > 1 and args.save_strategy != "no" and not args.save_only_model:
        raise UserError(
            f"save_strategy={args.save_strategy.value!r}: a run under tensor parallelism cannot be "
            "continued, since transformers does not save its optimizer; set save_only_model: true, "
            "or save_strategy: no"
        )
    for name, field in {
        "cp": "parallelism_config_cp_size",
        "sp": "parallelism_config_sp_size",
    }.items():
        if (size := parallel_size(args, name)) > 1:
            raise UserError(
                f"{field}={size} is not supported: a sequence has to stay on one device; set it "
                "to 1, and for long sequences shard the model (accelerate_config: fsdp2) and use "
                "gradient checkpointing"
            )


def let_cpus_shard(args: TrainingArguments, sharded: bool) -> None:
    """Let accelerate shard a model on CPUs as it does on GPUs.

    On CPUs it would otherwise leave out FSDP2 and refuse tensor parallelism. Call this before the
    Trainer creates its accelerator.
    """
    state = getattr(args.distributed_state, "_shared_state", {})
    shards = (
        sharded
        or args.fsdp_plugin_args is not None
        or os.environ.get("ACCELERATE_USE_FSDP", "") == "true"
    )
    if shards and state.get("distributed_type") == DistributedType.MULTI_CPU:
        state["distributed_type"] = DistributedType.MULTI_GPU


def saved_under(checkpoint: str | Path) -> str:
    """The engine (a name in recipes/accelerate) that saved a checkpoint's optimizer; "" if none."""
    names = [path.name for path in Path(checkpoint).iterdir()]
    if any(name.startswith("pytorch_model_fsdp") for name in names):
        return "fsdp2"
    if "latest" in names:
        return "zero3"
    return "ddp" if "optimizer.pt" in names else ""


def check_engine(trainer: Trainer, checkpoint: str) -> None:
    """Check that the run can restore its optimizer from `checkpoint`.

    Raises:
        UserError: the checkpoint was saved under another engine, or has no optimizer.
    """
    if trainer.get_tp_size() > 1:
        raise UserError(
            f"checkpoint {checkpoint!r} cannot be continued under tensor parallelism, since it has "
            "no optimizer: give it as --model_name_or_path, with another --output_dir"
        )
    own = "fsdp2" if trainer.is_fsdp_enabled else "zero3" if trainer.is_deepspeed_enabled else "ddp"
    saved = saved_under(checkpoint)
    if saved not in ("", own):
        raise UserError(
            f"checkpoint {checkpoint!r} was saved under accelerate_config {saved}, but this run "
            "uses "
            f"{own}: continue the run under {saved}, "
            f"{'with the same' if saved == 'zero3' else 'with any'} number of processes"
        )


def save_whole_model(trainer: Trainer) -> None:
    """Save the model to `output_dir` in one piece for `from_pretrained`, also if it is sharded."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(_internal_call=True)  # an internal call does not push
