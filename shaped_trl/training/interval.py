"""Log intervals that continue across a kill: checkpoints hold the sums since the last row."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

# The key among the callbacks' states in trainer_state.json, which the Trainer writes and reads.
KEY = "shaped_trl_interval"


class ContinuedInterval:
    """Mixin for a Trainer; call `continue_interval` once the trainer is built.

    Without it, the first row after a resume would average over the steps since the resume, instead
    of the steps since the previous row.
    """

    def continue_interval(self) -> None:
        """Restore the sums of a checkpoint when training continues from it."""
        self.add_callback(_Continue(self))  # type: ignore[attr-defined]

    def interval_state(self) -> dict[str, Any]:
        """The sums since the last row over all processes, as JSON. All processes must call it."""
        # The Trainer adds up the loss since the last row of the log in `_tr_loss`, on the device,
        # and divides it by the steps since `_globalstep_last_logged`. It saves neither.
        own_loss: torch.Tensor = self._tr_loss.detach().reshape(1)
        loss = self.accelerator.gather(own_loss)  # type: ignore[attr-defined]
        return {"since": self._globalstep_last_logged, "loss": loss.mean().item()}

    def restore_interval(self, saved: dict[str, Any]) -> None:
        """Restore what `interval_state` returned when the checkpoint was saved."""
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
