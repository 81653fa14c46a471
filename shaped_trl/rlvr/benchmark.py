"""Time of a step of `RLVRTrainer` without dynamic sampling against TRL's `GRPOTrainer`.

    python -m shaped_trl.rlvr.benchmark                       # 12 pairs, a row to benchmark.csv: about 5 minutes

Both trainers get the same model, prompts, seed, generation and a reward that costs nothing, and so do the same work
(a test compares their parameters). Runs alternate (A B, B A, ...), and each is timed after its first steps. A ratio is
formed within a pair; given are the median and its 95% interval from order statistics, of wall time and of CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.trainer import RLVRTrainer
from shaped_trl.training.benchmark import Size, append_row, median_ratio, now, origin, random_model

WARM_UP_STEPS = 2
PROMPTS, GENERATIONS = 8, 16
SIZE = Size(512, 64, 2, rows=PROMPTS * GENERATIONS, length=20, steps=20)
OURS, THEIRS = "RLVRTrainer", "GRPOTrainer"
RESULTS = Path(__file__).with_suffix(".csv")


class _Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP_STEPS:
            self.began = now(), time.process_time()

        if state.global_step == WARM_UP_STEPS + SIZE.steps:  # the last step, which is not counted, ends the log's work
            self.wall_s, self.cpu_s = now() - self.began[0], time.process_time() - self.began[1]


def even_length(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that varies and costs nothing."""
    return [float(len(completion) % 2 == 0) for completion in completions]


def step_seconds(trainer_name: str, folder: str, tokenizer: PreTrainedTokenizerFast) -> tuple[float, float]:
    """Wall and CPU seconds a step, of one training."""
    settings: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": WARM_UP_STEPS + SIZE.steps + 1,
        "per_device_train_batch_size": SIZE.rows,
        "num_generations": GENERATIONS,
        "max_completion_length": SIZE.length,
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
    model, clock = random_model(SIZE), _Clock()
    if trainer_name == OURS:
        trainer = RLVRTrainer(model, even_length, RLVRConfig(**settings, dynamic_sampling=False), **given)
    else:
        trainer = GRPOTrainer(model, even_length, GRPOConfig(**settings), **given)
    trainer.add_callback(clock)
    trainer.train()
    return clock.wall_s / SIZE.steps, clock.cpu_s / SIZE.steps


def measure(pairs: int) -> dict[str, Any]:
    """The row of results."""
    tokenizer = train_tokenizer([" ".join(f"w{number}" for number in range(SIZE.vocabulary - 4))], "word", 512)
    seconds: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as folder:
        step_seconds(THEIRS, folder, tokenizer)  # imports, first allocations
        for pair in range(pairs):
            for name in (OURS, THEIRS) if pair % 2 == 0 else (THEIRS, OURS):
                seconds[name].append(step_seconds(name, folder, tokenizer))
            ratio = seconds[OURS][-1][0] / seconds[THEIRS][-1][0]
            print(f"pair {pair + 1} of {pairs}, ratio {ratio:.3f}", flush=True)
    row: dict[str, Any] = {"batch": f"{PROMPTS} prompts x {GENERATIONS} x {SIZE.length} tokens", "pairs": pairs}
    for place, kind in enumerate(("wall", "cpu")):
        ours, theirs = ([one[place] for one in seconds[name]] for name in (OURS, THEIRS))
        ratio, low, high = median_ratio(ours, theirs)
        row |= {
            f"ours_{kind}_ms": f"{1e3 * np.median(ours):.1f}",
            f"grpo_{kind}_ms": f"{1e3 * np.median(theirs):.1f}",
            f"{kind}_ratio": f"{ratio:.4f}",
            f"{kind}_ratio_low": f"{low:.4f}",
            f"{kind}_ratio_high": f"{high:.4f}",
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--out", default=str(RESULTS), help=f"csv to append to, or an empty word [{RESULTS.name}]")
    chosen = parser.parse_args()
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs}: at least 1")
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    row = measure(chosen.pairs) | origin(f"python -m shaped_trl.rlvr.benchmark --pairs {chosen.pairs}")
    print(
        "{ours_wall_ms} against {grpo_wall_ms} ms a step; ratio of wall time {wall_ratio} [{wall_ratio_low}, "
        "{wall_ratio_high}], of CPU time {cpu_ratio} [{cpu_ratio_low}, {cpu_ratio_high}]".format(**row)
    )
    if chosen.out:
        append_row(chosen.out, row)


if __name__ == "__main__":
    main()
