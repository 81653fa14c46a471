"""What both trainers keep beside the training itself: the ledger, the detector of runs that do not
learn, the log, the card's numbers, and their part of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from shaped_trl.modeling.noted_shape import shape_in_words
from shaped_trl.rlvr.auditing.audit import audit_before_training
from shaped_trl.rlvr.card import procedure
from shaped_trl.rlvr.ledger import RL_RENAMED, Ledger
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.signals import SignalDetector
from shaped_trl.training.log import JsonlLogCallback, LogPlotCallback
from shaped_trl.training.log_reading import RL_LOG, read_log


class Bookkeeping:
    """Mixin for a trainer of TRL with `RLVRArguments`, before `WatchedLoss` and
    `ContinuedInterval`.

    A subclass gives the trainer a `BooksCallback`, calls `keep_books` once it is built, has its
    prompts in `stream`, adds counts to `ledger` and tells `signals` about rollouts.
    """

    stream: PromptStream | None
    args: Any
    model: Any

    def keep_books(self) -> None:
        """Start with empty books."""
        trainer: Any = self
        self.ledger = Ledger()  # since the last row of the log
        self.signals = SignalDetector(self.args.on_no_signal, self.args.no_signal_patience)
        trainer.add_callback(JsonlLogCallback(RL_LOG, RL_RENAMED))
        trainer.add_callback(LogPlotCallback(RL_LOG))
        trainer.watch_loss()
        trainer.continue_interval()
        self._last_row: dict[str, Any] = {}  # what TRL added to the last row of the log
        self.audited = False
        self.exported: dict[str, Any] = {}

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        trainer: Any = self
        if not (resume_from_checkpoint or self.audited):
            audit_before_training(trainer.reward_funcs[0], trainer.train_dataset, self.args)
            self.audited = True
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    # the log

    def counts(self) -> dict[str, float]:
        """Columns for a row of the log, over the interval that it sums up."""
        return self.ledger.metrics()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL adds the means of `_metrics` to the row and empties them.
        if self.model.training and "loss" in logs:
            logs.update(self.counts())
            if self.stream is not None:
                logs["prompt_epoch"] = self.stream.epoch
                logs["prompts_retired"] = len(self.stream.retired)
            self.ledger = Ledger()
        # The row that sums up the run has, in TRL, whatever was not logged yet. Here the last row
        # has logged everything, so its values are repeated.
        if "train_loss" in logs:
            logs |= self._last_row
        before = set(logs)
        super().log(logs, start_time)  # type: ignore[misc]
        if self.model.training and "loss" in logs:
            self._last_row = {name: value for name, value in logs.items() if name not in before}

    def interval_state(self) -> dict[str, Any]:
        # `_metrics` are the values that TRL averages in the next row: lists by name.
        trainer: Any = self
        own = {"metrics": dict(trainer._metrics["train"])}
        return super().interval_state() | own  # type: ignore[misc]

    def restore_interval(self, saved: dict[str, Any]) -> None:
        super().restore_interval(saved)  # type: ignore[misc]
        trainer: Any = self
        trainer._metrics["train"].update(saved["metrics"])

    def settings_in_words(self) -> str:
        """The paragraph of the model card on what was run."""
        raise NotImplementedError

    def card_procedure(self) -> str:
        rows = read_log(Path(self.args.output_dir) / RL_LOG)
        return procedure(self.settings_in_words(), rows, shape_in_words(self.model.config))

    # checkpoints

    def prompts_state(self) -> dict[str, Any]:
        """The part of a checkpoint that concerns prompts, as JSON; all processes call it."""
        raise NotImplementedError

    def restore_prompts(self, saved: dict[str, Any]) -> None:
        """Go on with the prompts of a checkpoint."""
        raise NotImplementedError

    def _save_checkpoint(self, model, trial):
        # TRL writes the model card and then the whole checkpoint; trainer_state.json has what
        # `BooksCallback.state` returns. The state of all processes is gathered first, since the
        # callback's method runs on the first one alone.
        self.exported = {"ledger": vars(self.ledger), "signals": self.signals.state_dict()}
        self.exported |= self.prompts_state()
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on with the counts, the detector and the prompts of a checkpoint."""
        self.ledger = Ledger(**saved["ledger"])
        self.signals.load_state_dict(saved["signals"])
        self.restore_prompts(saved)


class BooksCallback(TrainerCallback, ExportableState):
    """Keeps the trainer's own state in trainer_state.json of its checkpoints, and tells the
    detector of each step.

    The state stands there under the name of the class.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        return getattr(self.trainer, "exported", {})

    def on_train_begin(self, args, state, control, **kwargs):
        saved = (state.stateful_callbacks or {}).get(type(self).__name__)
        if state.global_step > 0 and saved:
            self.trainer.restore(saved)

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        # TRL appends an entropy for each micro-batch.
        entropies = trainer._metrics["train"]["entropy"][-args.gradient_accumulation_steps :]
        if any(entropies):  # it is logged as 0 where every completion is masked
            trainer.signals.step(sum(entropies) / len(entropies))
        if state.global_step >= state.max_steps:
            control.should_log = True  # the rest of the ledger
