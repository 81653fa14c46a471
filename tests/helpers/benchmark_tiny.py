"""A tiny run with or without benchmarks, in one or several processes, or killed as a script.

benchmark_tiny.py OUTPUT_DIR KILL_WHERE KILL_STEP
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from tiny import text_rows, tiny_model, tiny_tokenizer
from torch import Tensor

from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training import evaluation as evaluation_module
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.run import continue_training
from shaped_trl.training.throughput import ThroughputCallback

# every 2 steps, 4 samples, 3 problems, 8 tokens
BENCHMARKS = BenchmarkArguments("running_sums", 2, 4, 3, 8)


def build(
    folder: Path | str, benchmarks: BenchmarkArguments | None = BENCHMARKS, **changes
) -> ShapedTrainer:
    """5 steps with a checkpoint every 3, and with dropout, which shows any extra random number."""
    settings = {
        "max_steps": 5,
        "save_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
    }
    settings |= {
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
    }
    trainer = ShapedTrainer(
        tiny_model(attention_dropout=0.1),
        ShapedConfig(str(folder), disable_tqdm=True, beta=-0.25, **settings | changes),
        train_dataset=text_rows(32),
        processing_class=tiny_tokenizer(),
        callbacks=[ThroughputCallback()],
    )
    add_benchmarks(trainer, benchmarks, None)
    return trainer


def parameters(trainer: ShapedTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def main(folder: str) -> dict[str, tuple[dict[str, Tensor], list[dict]]]:
    """Parameters and log, with and without benchmarks."""
    results = {}
    for name, benchmarks in (("without", None), ("with", BENCHMARKS)):
        trainer = build(Path(folder) / name, benchmarks, save_strategy="no")
        trainer.train()
        results[name] = parameters(trainer), trainer.state.log_history
    return results


def kill_at(where: str, step: int) -> None:
    """SIGKILL when the evaluation of `step` reaches `where`: grade_run or report_run."""
    original = getattr(evaluation_module, where)

    def dies(folder, **given):
        if Path(folder).name == f"step-{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(folder, **given)

    setattr(evaluation_module, where, dies)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_at(sys.argv[2], int(sys.argv[3]))
    continue_training(build(sys.argv[1]))
