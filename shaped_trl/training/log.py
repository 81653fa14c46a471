"""The run's own log: one JSON row a logging step, append-only, continued on resume; and a picture
of it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from shaped_eval.records import append_jsonl, drop_truncated_line, read_jsonl, write_atomic
from transformers import TrainerCallback

from shaped_trl.training.log_reading import with_step

logger = logging.getLogger(__name__)

# Trainer's names for what our rows call otherwise; None drops the key
RENAMED = {
    "num_input_tokens_seen": "tokens",
    "eval_num_input_tokens_seen": None,
    "num_tokens": None,
    "eval_num_tokens": None,
}


class JsonlLogCallback(TrainerCallback):
    """Append every log of the Trainer to `output_dir/<name>`, on the main process.

    On resume, rows of steps after the checkpoint are dropped first: the run redoes those steps, and
    the file reads as that of an undisturbed run.
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
        # the summary at the end
        if not state.is_world_process_zero or not logs or "train_loss" in logs:
            return
        row = {"step": state.global_step}
        for key, value in logs.items():
            name = self.renamed.get(key, key)
            if name is not None and not key.startswith("train_"):
                row[name] = _finite(value)
        append_jsonl(Path(args.output_dir) / self.name, [row])


class LogPlotCallback(TrainerCallback):
    """Draw `output_dir/<name>`, a log in JSON lines, as a .png beside it: at a save, a push and the
    end."""

    def __init__(self, name: str):
        self.name = name

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        try:
            # imported here: a matplotlib that does not load must not end a run either
            from shaped_trl.training.plots import plot_log

            plot_log(Path(args.output_dir) / self.name)
        # a picture is not worth a run: a full disk, fonts that cannot be read
        except Exception as error:
            logger.warning("no plot of %s: %s: %s", self.name, type(error).__name__, error)

    on_train_end = on_push_begin = on_save


def _finite(value):
    """JSON has no NaN or infinity: such a number becomes null."""
    return value if not isinstance(value, float) or math.isfinite(value) else None
