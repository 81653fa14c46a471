"""Tokens per second, model FLOP/s utilisation (MFU) and remaining time in the training log.

Training on a token takes 6·N + 12·L·A·T floating-point operations (arXiv 2204.02311, appendix B).
N is the number of parameters that multiply: the input embedding is only looked up and does not
count, unless it is also the head; of the experts, only the active ones count. L is the number of
layers, A attention heads × head size, T `max_length`. Attention is counted over the whole sequence,
neither causally nor by document. What gradient checkpointing recomputes is not counted.
"""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel, TrainerCallback

# FLOP/s in dense bfloat16 without sparsity, from NVIDIA's data sheets. The first name counts that
# is part of the device's name.
PEAK_FLOPS = {"B200": 2.25e15, "H200": 989e12, "H100": 989e12, "A100": 312e12}


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Floating-point operations of forward and backward per token of a sequence of `length`."""
    config = model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    active = config.num_experts_per_tok / experts if experts else 1.0
    parameters = sum(
        # ZeRO-3 leaves an empty tensor with the size as an attribute.
        getattr(parameter, "ds_numel", parameter.numel()) * (active if ".experts." in name else 1.0)
        for name, parameter in model.named_parameters()
    )
    if not config.tie_word_embeddings:
        table = model.get_input_embeddings().weight
        parameters -= getattr(table, "ds_numel", table.numel())
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return (
        6 * parameters
        + 12 * config.num_hidden_layers * config.num_attention_heads * head_size * length
    )


def peak_flops() -> float | None:
    """Peak FLOP/s of one device; None if it is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


class ThroughputCallback(TrainerCallback):
    """Log `tokens_per_second` (over all processes), `mfu` and `remaining_runtime` (seconds).

    All are measured over the interval since the last log, without evaluation and saving. `mfu` is
    left out if the device's peak is unknown. Pass it as one of the trainer's `callbacks`, so that
    it runs before the log is written.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.flops = (
            flops_per_token(model, args.max_length) if args.max_length and peak_flops() else None
        )
        self.mark = time.perf_counter()
        self.seconds = 0.0
        self.paused = False
        self.tokens = state.num_input_tokens_seen
        self.step = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is None or "loss" not in logs:  # an evaluation, or the summary at the end
            self.paused = True
            return
        steps = state.global_step - self.step
        if steps == 0:
            return
        if not self.paused:
            self._count()
        tokens = state.num_input_tokens_seen - self.tokens
        logs["tokens_per_second"] = tokens / self.seconds
        if self.flops is not None:
            logs["mfu"] = self.flops * logs["tokens_per_second"] / (peak_flops() * args.world_size)
        logs["remaining_runtime"] = self.seconds / steps * (state.max_steps - state.global_step)
        self.seconds = 0.0
        self.tokens = state.num_input_tokens_seen
        self.step = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        self._count()
        self.paused = False

    def on_save(self, args, state, control, **kwargs):
        self.paused = True

    on_evaluate = on_save

    def on_step_begin(self, args, state, control, **kwargs):
        if self.paused:
            self.mark = time.perf_counter()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now
