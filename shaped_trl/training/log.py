"""The run's log: one JSON row per logging step, a picture of it, and what of it is printed."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from shaped_eval.records import append_jsonl, drop_truncated_line, read_jsonl, write_atomic
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from shaped_trl.training.log_reading import with_step

logger = logging.getLogger(__name__)

# The Trainer's name -> ours; None drops the key.
RENAMED = {
    "num_input_tokens_seen": "tokens",
    "eval_num_input_tokens_seen": None,
    "num_tokens": None,
    "eval_num_tokens": None,
}
# What is printed of a row, in this order, where it has a loss. The file has everything.
PRINTED = (
    "loss",
    "nll",
    "perplexity",
    "entropy",
    "target_prob",
    "head_mass",
    "tail_mass",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
)
DRAWING_SHARE = 0.02  # of the time, at most, between two saves with a drawing


class JsonlLogCallback(TrainerCallback):
    """Append every log of the Trainer to `output_dir/<name>`, on the main process.

    When a run is resumed, the rows of steps after the checkpoint are dropped first. The run repeats
    these steps, so that the file ends up the same as that of an uninterrupted run.
    """

    def __init__(self, name: str, renamed: Mapping[str, str | None] = RENAMED):
        self.name = name
        self.renamed = renamed

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            drop_truncated_line(path)
            kept = [
                row
                for row in read_jsonl(path, with_step)
                if row["step"] <= state.global_step and state.global_step > 0
            ]
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        # A row with train_loss is the Trainer's summary at the end.
        if not state.is_world_process_zero or not logs or "train_loss" in logs:
            return
        row = {"step": state.global_step}
        for key, value in logs.items():
            name = self.renamed.get(key, key)
            if name is not None and not key.startswith("train_"):
                row[name] = _finite(value)
        append_jsonl(Path(args.output_dir) / self.name, [row])


class _ShortProgress(ProgressCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=printed(logs, state.global_step), **kwargs)


class _ShortPrinter(PrinterCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=printed(logs, state.global_step), **kwargs)


def print_briefly(trainer: Trainer) -> None:
    """Have the trainer's own callbacks print no more of a row than `PRINTED`."""
    for full, short in ((ProgressCallback, _ShortProgress), (PrinterCallback, _ShortPrinter)):
        if trainer.pop_callback(full) is not None:
            trainer.add_callback(short)


def printed(logs: Mapping[str, float] | None, step: int) -> dict[str, float]:
    """The step and the entries of `PRINTED`, also of an evaluation, whose names have a prefix.

    A row without a loss is printed whole.
    """
    logs = logs or {}
    prefix = next((key[: -len("loss")] for key in logs if key.endswith("loss")), None)
    if prefix is None or prefix == "train_":
        return dict(logs)
    names = (prefix + name for name in PRINTED)
    return {"step": step, **{name: logs[name] for name in names if name in logs}}


class LogPlotCallback(TrainerCallback):
    """Draw the log `output_dir/<name>` as a .png beside it, at saves and at the end.

    A drawing takes about a second. Runs that save more often than that pays for draw less often.
    """

    def __init__(self, name: str):
        self.name = name
        self._next = 0.0

    def on_save(self, args, state, control, **kwargs):
        start = time.monotonic()
        if start >= self._next:
            self._draw(args, state)
            self._next = time.monotonic() + (time.monotonic() - start) / DRAWING_SHARE

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(args, state)

    on_push_begin = on_train_end

    def _draw(self, args, state):
        if not state.is_world_process_zero:
            return
        try:
            # Imported here, so that a matplotlib that cannot be loaded does not end a run either.
            from shaped_trl.training.plots import plot_log

            plot_log(Path(args.output_dir) / self.name)
        # A picture is not worth a run: the disk may be full, or a font unreadable.
        except Exception as error:
            logger.warning("no plot of %s: %s: %s", self.name, type(error).__name__, error)


def _finite(value):
    """The value, or None for NaN and infinity, which JSON does not have."""
    return value if not isinstance(value, float) or math.isfinite(value) else None
