"""Time per step of `RLVRTrainer` without dynamic sampling against TRL's `GRPOTrainer`.

    python -m speed.rlvr                       # 40 pairs, a row to speed/rlvr.csv: about 3 minutes
    python -m speed.rlvr --size 49k --pairs 10

Both trainers get the same model, prompts, seed and generation, and a reward that costs nothing, so
that they do the same work (a test compares their parameters). They train in one process, in turns
step by step, so that other load on the machine affects both. A pair is some steps of each. The
result is the median of the pairs' ratios with its 95% interval from order statistics, for wall time
and CPU time. Memory is the largest resident set of a separate process with one of the trainers. The
size 49k has about the dimensions of SmolLM2-135M, where `RLVRTrainer` on a CPU takes
`linear_log_probs` in place of TRL's head.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.trainer import RLVRTrainer
from speed.training import (
    Size,
    append_row,
    median_ratio,
    now,
    origin,
    peak_of_process,
    print_peak,
    random_model,
)


class Batch(NamedTuple):
    """A model and what it samples: `prompts` groups of `generations` completions a step.

    `size.rows` counts all completions of a step, `size.length` the tokens of each, and `size.steps`
    the steps of each trainer in a pair.
    """

    size: Size
    prompts: int
    generations: int

    def __str__(self) -> str:
        return f"{self.prompts} prompts x {self.generations} x {self.size.length} tokens"


WARM_UP_STEPS = 3
BATCHES = {
    "demo": Batch(Size(512, 64, 2, rows=8 * 16, length=20, steps=8), 8, 16),
    "49k": Batch(Size(49_152, 576, 30, rows=4 * 4, length=64, steps=1), 4, 4),
}
OURS, THEIRS = "RLVRTrainer", "GRPOTrainer"
RESULTS = Path(__file__).with_suffix(".csv")


class _Turns(TrainerCallback):
    """Passes the turn to the other trainer after each step, and keeps its own random state."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore):
        self.mine = mine
        self.other = other
        self.steps: list[tuple[float, float]] = []  # wall and CPU seconds of each step

    def wait(self) -> None:
        self.mine.acquire()
        self.began = now(), time.process_time()

    def on_train_begin(self, args, state, control, **kwargs):
        self.wait()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append((now() - self.began[0], time.process_time() - self.began[1]))
        random_state = torch.get_rng_state()
        self.other.release()
        if state.global_step < args.max_steps:
            self.wait()
            torch.set_rng_state(random_state)


def even_length(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that varies between completions and costs nothing."""
    return [float(len(completion) % 2 == 0) for completion in completions]


def make_trainer(name: str, batch: Batch, steps: int, folder: str) -> GRPOTrainer:
    """One of the two trainers, for `steps` steps of a random model."""
    names = [f"w{number}" for number in range(508)]
    tokenizer = train_tokenizer([" ".join(names)], "word", 512)
    settings: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": batch.size.rows,
        "num_generations": batch.generations,
        "max_completion_length": batch.size.length,
        "epsilon_high": 0.28,
        "gradient_checkpointing": False,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "learning_rate": 1e-4,
        "use_transformers_continuous_batching": False,
    }
    words = [f"w{number}" for number in range(64)]
    rows = Dataset.from_dict({"prompt": [f"{a} {b} {a}" for a in words for b in words[:4]]})
    torch.manual_seed(0)
    given = {"train_dataset": rows, "processing_class": tokenizer}
    model = random_model(batch.size)
    if name == OURS:
        return RLVRTrainer(
            model, even_length, RLVRConfig(**settings, dynamic_sampling=False), **given
        )
    return GRPOTrainer(model, even_length, GRPOConfig(**settings), **given)


def _train(trainer: GRPOTrainer, turns: _Turns) -> None:
    trainer.add_callback(turns)
    try:
        trainer.train()
    finally:
        turns.other.release(1_000_000)  # if this trainer fails, the other must not wait for it


def step_seconds(batch: Batch, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each step of both trainers, without the first steps."""
    turns = threading.Semaphore(1), threading.Semaphore(0)
    callbacks = {OURS: _Turns(*turns), THEIRS: _Turns(*reversed(turns))}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: make_trainer(name, batch, WARM_UP_STEPS + steps, folder) for name in callbacks
        }
        with ThreadPoolExecutor() as pool:
            runs = [
                pool.submit(_train, trainer, callbacks[name]) for name, trainer in trainers.items()
            ]
            for run in runs:
                run.result()
    return {name: callback.steps[WARM_UP_STEPS:] for name, callback in callbacks.items()}


def measure(size: str, pairs: int) -> dict[str, Any]:
    """Measure, and return the row of results."""
    batch = BATCHES[size]
    steps = batch.size.steps
    peaks = {
        name: peak_of_process("speed.rlvr", "--size", size, "--alone", name)
        for name in (OURS, THEIRS)
    }
    found = step_seconds(batch, steps * pairs)
    row: dict[str, Any] = {"size": size, "batch": str(batch), "pairs": pairs}
    for place, kind in enumerate(("wall", "cpu")):
        ours, theirs = (
            np.array([step[place] for step in found[name]]).reshape(pairs, steps).mean(1).tolist()
            for name in (OURS, THEIRS)
        )
        ratio, low, high = median_ratio(ours, theirs)
        row |= {
            f"ours_{kind}_ms": f"{1e3 * np.median(ours):.1f}",
            f"grpo_{kind}_ms": f"{1e3 * np.median(theirs):.1f}",
            f"{kind}_ratio": f"{ratio:.4f}",
            f"{kind}_ratio_low": f"{low:.4f}",
            f"{kind}_ratio_high": f"{high:.4f}",
        }
    return row | {"ours_peak_mb": f"{peaks[OURS]:.0f}", "grpo_peak_mb": f"{peaks[THEIRS]:.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=BATCHES, default="demo")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument(
        "--out", default=str(RESULTS), help=f"csv to append to, or an empty word [{RESULTS.name}]"
    )
    parser.add_argument("--alone", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs}: at least 1")
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    if chosen.alone:
        with tempfile.TemporaryDirectory() as folder:
            make_trainer(chosen.alone, BATCHES[chosen.size], WARM_UP_STEPS, folder).train()
        print_peak()
        return
    command = f"python -m speed.rlvr --size {chosen.size} --pairs {chosen.pairs}"
    row = measure(chosen.size, chosen.pairs) | origin(command)
    print(
        "{ours_wall_ms} against {grpo_wall_ms} ms a step; ratio of wall time {wall_ratio} "
        "[{wall_ratio_low}, {wall_ratio_high}], of CPU time {cpu_ratio} "
        "[{cpu_ratio_low}, {cpu_ratio_high}]".format(**row)
    )
    if chosen.out:
        append_row(chosen.out, row)


if __name__ == "__main__":
    main()
