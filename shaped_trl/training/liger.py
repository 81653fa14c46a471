"""A check that Liger, which the Trainer applies after our patch, did not replace the loss."""

from __future__ import annotations

import inspect

from transformers import PreTrainedModel, TrainerCallback


class ShapedForwardCheck(TrainerCallback):
    """When training begins, check that the model's forward is still that of `shape_lm_head`.

    Liger's fused cross-entropy, or any other code that assigns `model.forward` after us, would
    otherwise train another loss. Wrappers around our forward (autocast, accelerate's conversion to
    fp32) are accepted.

    Raises:
        RuntimeError: at the beginning of training, if the forward is another one.

    Args:
        model: the causal language model itself (under PEFT the base model), just patched by
            `shape_lm_head`.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.shaped_forward = _function(model.forward)

    def on_train_begin(self, args, state, control, **kwargs):
        # The chain of wrappers continues to the class's own forward, so stop at ours.
        found = inspect.unwrap(
            self.model.forward, stop=lambda forward: _function(forward) is self.shaped_forward
        )
        if _function(found) is not self.shaped_forward:
            raise RuntimeError(
                f"the forward of {type(self.model).__name__} was replaced after ShapedTrainer had "
                "patched it, so the shaped loss would not be trained: with Liger keep "
                "liger_kernel_config {'fused_linear_cross_entropy': False}; patch the model before "
                "it is given to the trainer"
            )


def _function(forward):
    return getattr(forward, "__func__", forward)
