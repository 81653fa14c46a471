"""Rows of the log that a kill cuts in two: a checkpoint has the sums since the last row, and a
resumed run goes on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

# beside the callbacks' states in trainer_state.json, which the Trainer writes and reads
KEY = "shaped_trl_interval"


class ContinuedInterval:
    """Mixin of a Trainer; `continue_interval` once it is built.

    Without it the first row after a resume has the means over the steps since the resume, not since
    the row before.
    """

    def continue_interval(self) -> None:
        """Go on with the sums of a checkpoint when training begins from it."""
        self.add_callback(_Continue(self))  # type: ignore[attr-defined]

    def interval_state(self) -> dict[str, Any]:
        """JSON of the sums since the last row, over all processes; called by all."""
        # The Trainer adds up the loss since the last row of the log in `_tr_loss`, on the device,
        # and divides it by the steps since `_globalstep_last_logged`. It saves neither.
        loss = self.accelerator.gather(self._tr_loss.detach().reshape(1))  # type: ignore[attr-defined]
        return {"since": self._globalstep_last_logged, "loss": loss.mean().item()}

    def restore_interval(self, saved: dict[str, Any]) -> None:
        """Take over what `interval_state` gave in another process."""
        self._globalstep_last_logged = saved["since"]
        self._tr_loss: torch.Tensor = self._tr_loss + saved["loss"]
        # Each row moves `_tr_loss` into `_total_loss_scalar`, whose mean is `train_loss` in the
        # summary. That is of the steps of the present call alone, so the part before it is taken
        # out again.
        self._total_loss_scalar: float = self._total_loss_scalar - saved["loss"]

    def _save_checkpoint(self, model, trial):
        # The Trainer writes weights, optimizer and trainer_state.json here. What stands in
        # `stateful_callbacks` by then is written with the state, and read when a run continues.
        self.state.stateful_callbacks[KEY] = self.interval_state()  # type: ignore[attr-defined]
        super()._save_checkpoint(model, trial)  # type: ignore[misc]


class _Continue(TrainerCallback):
    def __init__(self, trainer: ContinuedInterval):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(KEY)
        if state.global_step > 0 and saved is not None:
            self.trainer.restore_interval(saved)
