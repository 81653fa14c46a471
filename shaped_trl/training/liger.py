"""Liger's layer kernels beside the shaped loss: the Trainer applies them when training starts,
after our patch."""

from __future__ import annotations

import inspect

from transformers import PreTrainedModel, TrainerCallback


class ShapedForwardCheck(TrainerCallback):
    """At train begin, raise RuntimeError unless the model's forward is still the one that
    `shape_lm_head` put there.

    Liger's fused cross-entropy, or anything else that assigns `model.forward` after us, would
    otherwise train another loss. Wrappers around our forward (autocast, accelerate's conversion to
    fp32) are fine.

    Args:
        model: the causal language model itself (under PEFT the base model), just patched by
            `shape_lm_head`.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.shaped_forward = _function(model.forward)

    def on_train_begin(self, args, state, control, **kwargs):
        # the wrappers' chain goes on to the class's own forward: stop at ours
        found = inspect.unwrap(
            self.model.forward, stop=lambda forward: _function(forward) is self.shaped_forward
        )
        if _function(found) is not self.shaped_forward:
            raise RuntimeError(
                f"the forward of {type(self.model).__name__} was replaced after ShapedTrainer had patched it, so the "
                "shaped loss would not be trained: with Liger keep liger_kernel_config "
                "{'fused_linear_cross_entropy': False}; patch the model before it is given to the trainer"
            )


def _function(forward):
    return getattr(forward, "__func__", forward)
