"""Watch for a loss or gradient that is not finite, and for a loss that jumps.

In such a case, the run stops before the update (with DeepSpeed, after it) and names the place, or
skips the update. Once per optimizer step, before the optimizer, the watch reads the loss of every
micro-batch of every process and the norm of the gradient. The batch of a bad micro-batch is saved
as `output_dir/_bad_batches/step-<n>-process-<rank>.safetensors`.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save_file
from shaped_eval.errors import UserError
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from shaped_trl.run_record import MAY_CHANGE

logger = logging.getLogger(__name__)

CHOICES = ("stop", "skip", "ignore")
FOLDER = "_bad_batches"  # the Trainer's push leaves out names that begin with an underscore
HISTORY = 100  # optimizer steps over which the median is taken
LEAST_HISTORY = 20


class BadLoss(UserError):
    """Training was stopped because of a bad loss or gradient, before the weights were updated."""


@dataclass
class WatchArguments:
    """What to do about a loss or gradient that is not finite, or a loss that jumps."""

    on_bad_loss: Annotated[str, MAY_CHANGE] = field(
        default="stop",
        metadata={
            "help": "What to do if the loss or the gradient is not finite, or if the loss "
            "spikes: stop (before the update, naming step, process and micro-batch), "
            "skip (leave the update out) or ignore.",
        },
    )
    loss_spike: Annotated[float | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Stop if a loss is more than this many robust standard deviations above the "
            "median of the last 100 steps. Off by default; 10 is a common value. With "
            "on_bad_loss=skip, the update is left out instead.",
        },
    )

    def check_watch(self) -> None:
        """Raises ValueError if a value is out of range."""
        if self.on_bad_loss not in CHOICES:
            raise ValueError(f"on_bad_loss={self.on_bad_loss!r}: choose from {', '.join(CHOICES)}")
        if self.loss_spike is not None and self.on_bad_loss == "ignore":
            raise ValueError(
                f"loss_spike={self.loss_spike} has no effect with on_bad_loss='ignore': leave one "
                "of them out"
            )
        if self.loss_spike is not None and not self.loss_spike > 0:
            raise ValueError(
                f"loss_spike={self.loss_spike} must be above 0; leave it out to turn it off"
            )


class WatchedLoss:
    """Mixin for a Trainer with `WatchArguments`; call `watch_loss` once the trainer is built."""

    watch: LossWatch | None = None
    _prepared: Any = None

    def watch_loss(self) -> None:
        """Start watching unless `on_bad_loss` is "ignore".

        Raises:
            ValueError: the engine cannot skip an update.
        """
        args = self.args  # type: ignore[attr-defined]
        if args.on_bad_loss == "ignore":
            return
        if args.on_bad_loss == "skip" and self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            raise ValueError(
                "on_bad_loss='skip' is not supported with DeepSpeed, which updates the weights "
                "itself: use stop"
            )
        self.watch = LossWatch(self, args.on_bad_loss, args.loss_spike)
        self.add_callback(self.watch)  # type: ignore[attr-defined]

    def _prepare_inputs(self, inputs):
        # The Trainer takes what the model gets from here. In RL these are not the given rows, but
        # completions of them.
        self._prepared = super()._prepare_inputs(inputs)  # type: ignore[misc]
        return self._prepared

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self.watch is not None:
            self.watch.add_micro_batch(loss, self._prepared)
        self._prepared = None
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        # The Trainer takes the gradient's norm here, between clipping and the update, for its log.
        # No callback is told the norm, and the watch decides by it before the update.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if self.watch is not None:
            self.watch.grad_norm = norm
        return norm


class LossWatch(TrainerCallback):
    """Decides about each update. All processes use all losses, and so decide the same.

    With fp16 a gradient that is not finite is a part of the scaling of the loss, which leaves the
    update out and goes on with a smaller scale.
    """

    def __init__(self, trainer: Trainer, choice: str, spike: float | None):
        self.trainer = trainer
        self.choice = choice
        self.spike = spike
        self.history: deque[float] = deque(maxlen=HISTORY)
        # loss and batch of each micro-batch of the current update
        self.micro_batches: list[tuple[torch.Tensor, Any]] = []
        self.grad_norm: Any = None
        self.skipped = 0

    def add_micro_batch(self, loss: torch.Tensor, inputs: Any) -> None:
        """Remember a micro-batch, without synchronising the device."""
        self.micro_batches.append((_whole(loss).detach().float(), inputs))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        losses = torch.stack([loss for loss, _ in self.micro_batches])
        scaled = args.fp16 or self.grad_norm is None
        norm = torch.as_tensor(
            1.0 if scaled else _whole(self.grad_norm), device=losses.device
        ).float()
        bad = ~losses.isfinite()
        first = torch.where(bad.any(), bad.int().argmax(), -1).float()
        row = torch.stack([losses.sum(), first, norm.isfinite().float()])
        rows = self.trainer.accelerator.gather(row.unsqueeze(0)).tolist()
        reason = self._reason(rows, state.global_step + 1)
        if reason is not None:
            self._keep_batch(args.output_dir, state.global_step + 1, int(first.item()))
        self.micro_batches.clear()
        if reason is None:
            self.history.append(_mean(rows))
        elif self.choice == "stop":
            # DeepSpeed updates the weights within the backward pass.
            when = "after" if self.trainer.is_deepspeed_enabled else "before"
            raise BadLoss(
                f"{reason}; stopped {when} the update. {FOLDER}/ has the batch; "
                "--on_bad_loss skip would continue without the update"
            )
        else:
            self.skipped += 1
            logger.warning(f"{reason}; skipped this update, {self.skipped} so far")
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def _reason(self, rows: list[list[float]], step: int) -> str | None:
        """Why the update is bad, in words, or None.

        Each process contributes a row: the sum of its losses, the index of its first micro-batch
        whose loss is not finite (or -1), and whether its gradient is finite.
        """
        for rank, (loss, first, _) in enumerate(rows):
            if first >= 0:
                where = f"process {rank}, micro-batch {int(first) + 1} of {len(self.micro_batches)}"
                return f"step {step}: the loss is not finite on {where}"
            if not math.isfinite(loss):  # each loss is finite, but their sum overflows
                return f"step {step}: the loss is not finite on process {rank}"
        if not all(finite for *_, finite in rows):
            return (
                f"step {step}: the gradient is not finite, though the loss is ({_mean(rows):.4g})"
            )
        if self.spike is None or len(self.history) < LEAST_HISTORY:
            return None
        middle = statistics.median(self.history)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.history)
        if _mean(rows) <= middle + self.spike * max(spread, 1e-12):
            return None
        worst = max(range(len(rows)), key=lambda rank: rows[rank][0])
        return (
            f"step {step}: the loss jumps to {_mean(rows):.4g} from a median of {middle:.4g} over "
            f"the last {len(self.history)} steps, most on process {worst}"
        )

    def _keep_batch(self, output_dir: str, step: int, index: int) -> None:
        """Save this process's micro-batch `index`, or the one with the largest loss if it is -1."""
        if index < 0:
            index = max(
                range(len(self.micro_batches)), key=lambda i: float(self.micro_batches[i][0])
            )
        batch = self.micro_batches[index][1]
        if not isinstance(batch, dict):
            return
        tensors = {
            name: value.contiguous()
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        path = (
            Path(output_dir)
            / FOLDER
            / f"step-{step}-process-{self.trainer.args.process_index}.safetensors"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


def _whole(value: Any) -> Any:
    """The full tensor of a DTensor, which sharded engines return; other values as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _mean(rows: list[list[float]]) -> float:
    return sum(loss for loss, *_ in rows) / len(rows)
