"""A loss that is no number, or jumps: the run stops before the update and says where, or leaves the
update out.

Looked at once an optimizer step, before the optimizer: the loss of every micro-batch of every
process, and the norm of the gradient. The batch of a micro-batch that went wrong is kept, as
`output_dir/_bad_batches/step-<n>-process-<rank>.safetensors`.
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
FOLDER = "_bad_batches"  # a Trainer that pushes its output_dir leaves such names out
HISTORY = 100  # optimizer steps that a jump is measured against
LEAST_HISTORY = 20


class BadLoss(UserError):
    """Training was stopped because of its loss or gradient; the weights are those before the
    step."""


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
        """Raise ValueError for a value out of range."""
        if self.on_bad_loss not in CHOICES:
            raise ValueError(f"on_bad_loss={self.on_bad_loss!r}: choose from {', '.join(CHOICES)}")
        if self.loss_spike is not None and not self.loss_spike > 0:
            raise ValueError(f"loss_spike={self.loss_spike} must be above 0, or left out")


class WatchedLoss:
    """Mixin of a Trainer whose arguments are `WatchArguments` as well; `watch_loss` once it is
    built."""

    watch: LossWatch | None = None

    def watch_loss(self) -> None:
        """Begin to watch, where the arguments ask for it. Raises ValueError for what the engine
        cannot skip."""
        args = self.args  # type: ignore[attr-defined]
        if args.on_bad_loss == "ignore":
            return
        if args.on_bad_loss == "skip" and self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            raise ValueError(
                "on_bad_loss='skip' is not supported with DeepSpeed, which updates on its own: use stop"
            )
        self.watch = LossWatch(self, args.on_bad_loss, args.loss_spike)
        self.add_callback(self.watch)  # type: ignore[attr-defined]

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self.watch is not None:
            self.watch.saw(loss, inputs)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        # The Trainer takes the gradient's norm here, between clipping and the update, for its log. No
        # callback is told the norm, and the watch decides by it before the update.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if self.watch is not None:
            self.watch.grad_norm = norm
        return norm


class LossWatch(TrainerCallback):
    """Decides about each update; all processes decide the same, from the losses of all."""

    def __init__(self, trainer: Trainer, choice: str, spike: float | None):
        self.trainer, self.choice, self.spike = trainer, choice, spike
        self.history: deque[float] = deque(maxlen=HISTORY)
        self.seen: list[tuple[torch.Tensor, Any]] = []  # of the update under way: loss and batch
        self.grad_norm: Any = None
        self.skipped = 0

    def saw(self, loss: torch.Tensor, inputs: Any) -> None:
        """Take in a micro-batch; nothing is synchronised."""
        self.seen.append((_whole(loss).detach().float(), inputs))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        losses = torch.stack([loss for loss, _ in self.seen])
        norm = torch.as_tensor(
            1.0 if self.grad_norm is None else _whole(self.grad_norm), device=losses.device
        ).float()
        bad = ~losses.isfinite()
        first = torch.where(bad.any(), bad.int().argmax(), -1).float()
        row = torch.stack([losses.sum(), first, norm.isfinite().float()])
        rows = self.trainer.accelerator.gather(row.unsqueeze(0)).tolist()
        reason = self._reason(rows, state.global_step + 1)
        if reason is not None:
            self._keep_batch(args.output_dir, state.global_step + 1, int(first.item()))
        self.seen.clear()
        if reason is None:
            self.history.append(_mean(rows))
        elif self.choice == "stop":
            raise BadLoss(
                f"{reason}; stopped before the update. {FOLDER}/ has the batch; --on_bad_loss skip goes on"
            )
        else:
            self.skipped += 1
            logger.warning(f"{reason}; update left out, {self.skipped} so far")
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def _reason(self, rows: list[list[float]], step: int) -> str | None:
        """Why the update is bad, in words, from (loss, first bad micro-batch or -1, gradient is
        finite) a process."""
        for rank, (loss, first, _) in enumerate(rows):
            if first >= 0:
                where = f"process {rank}, micro-batch {int(first) + 1} of {len(self.seen)}"
                return f"step {step}: the loss is not finite on {where}"
            if not math.isfinite(loss):  # each is finite, their sum is not
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
            f"step {step}: the loss jumps to {_mean(rows):.4g} from a median of {middle:.4g} over the last "
            f"{len(self.history)} steps, most on process {worst}"
        )

    def _keep_batch(self, output_dir: str, step: int, index: int) -> None:
        """Save this process's micro-batch number `index`, or the worst one where none is named."""
        if index < 0:
            index = max(range(len(self.seen)), key=lambda i: float(self.seen[i][0]))
        batch = self.seen[index][1]
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
    """What a sharded engine gives as a DTensor, as the tensor that all its processes have."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _mean(rows: list[list[float]]) -> float:
    return sum(loss for loss, *_ in rows) / len(rows)
