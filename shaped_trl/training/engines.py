"""What would go wrong silently where an engine shards the model: set right or refused before training."""

from __future__ import annotations

import dataclasses

from accelerate import Accelerator
from transformers import PreTrainedModel


def keep_outputs_exact(accelerator: Accelerator) -> None:
    """Keep FSDP2 from rounding what the forward returns, loss and metrics, to the dtype of the parameters.

    accelerate sets that dtype for outputs too, where outputs are logits. To be called before the model is prepared.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None)


def check_accumulation(model: PreTrainedModel, tp_size: int, gradient_accumulation_steps: int) -> None:
    """Refuse gradient accumulation under tensor parallelism for a model where transformers adds gradients up wrongly.

    transformers 5.23 sums the accumulated gradient of norms over heads (`q_norm`, `k_norm`) over the processes once
    per micro-batch, what was summed before included.

    Raises:
        ValueError: such a model is to accumulate.
    """
    summed = [name for name, style in model.tp_plan.items() if style == "replicated_with_grad_allreduce"]
    if tp_size > 1 and gradient_accumulation_steps > 1 and summed:
        raise ValueError(
            f"gradient_accumulation_steps={gradient_accumulation_steps} is not supported with tensor parallelism for "
            f"{type(model).__name__}: transformers would sum the gradients of {', '.join(summed)} once per "
            "micro-batch; set it to 1 and raise per_device_train_batch_size"
        )
