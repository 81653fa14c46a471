"""Tokens per second and memory of `ShapedTrainer`, with all metrics, against TRL's `SFTTrainer`.

    python -m speed.training                      # both sizes, 12 pairs, rows to speed/training.csv
    python -m speed.training --sizes demo --pairs 3 --out ""

Both trainers get the same model, rows of random tokens without padding, optimizer and logging, on a
GPU if there is one. Each run is a separate training, timed after its first steps, and runs
alternate (A B, B A, ...). A ratio is formed within a pair; the result is the median with its 95%
interval from order statistics. Memory is the largest resident set (on a GPU, the largest
allocation) of a separate process.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from scipy import stats
from shaped_eval.provenance import source_commit
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.trainer import ShapedTrainer

FULL_SHAPE: dict[str, Any] = {
    "beta": -0.25,
    "lambda_head": 0.1,
    "lambda_tail": -0.1,
    "top_k": 100,
    "positive": "product",
}
WARM_UP_STEPS = 3
OURS, THEIRS = "ShapedTrainer", "SFTTrainer"
RESULTS = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class Size:
    """A model and a batch: V vocabulary, D hidden, L layers; `rows` of `length` tokens a step."""

    vocabulary: int
    hidden: int
    layers: int
    rows: int
    length: int
    steps: int


SIZES = {
    "demo": Size(512, 64, 2, rows=128, length=40, steps=60),
    "32k": Size(32_768, 256, 4, rows=8, length=256, steps=6),
}


class _Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP_STEPS:
            self.began = now()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = now() - self.began


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def tokens_per_second(trainer_name: str, size: Size, folder: str) -> float:
    """Tokens per second of one training, after its first `WARM_UP_STEPS` steps."""
    steps = WARM_UP_STEPS + size.steps
    settings: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": size.rows,
        "max_length": size.length,
        "gradient_checkpointing": False,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 10,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    rows = np.random.default_rng(0).integers(3, size.vocabulary, (size.rows * steps, size.length))
    torch.manual_seed(0)
    given = {
        "train_dataset": Dataset.from_dict({"input_ids": rows.tolist()}),
        "processing_class": _tokenizer(),
    }
    model, clock = random_model(size), _Clock()
    if trainer_name == OURS:
        trainer = ShapedTrainer(model, ShapedConfig(**settings, **FULL_SHAPE), **given)
    else:
        trainer = SFTTrainer(model, SFTConfig(**settings), **given)
    trainer.add_callback(clock)
    trainer.train()
    return size.rows * size.length * size.steps / clock.seconds


def random_model(size: Size) -> Qwen3ForCausalLM:
    heads = max(1, size.hidden // 32)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=3 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=32,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["a b"], "word", 8)  # it is not used, since the rows are tokens already


def peak_of_process(module: str, *words: str) -> float:
    """MiB of a process that trains once, including its imports, and calls `print_peak`."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split("peak MiB:")[1].split()[0])


def print_peak() -> None:
    """Print the peak MiB of the GPU's memory, or without one of this process's."""
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_resident_mb()
    print("peak MiB:", peak)


def peak_resident_mb() -> float:
    """Peak MiB of this process alone; getrusage also counts memory of the parent."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def median_ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The median of the pairs' ratios, with its 95% interval from order statistics."""
    ratios = np.array(ours) / np.array(theirs)
    low, high = stats.quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return float(np.median(ratios)), float(low), float(high)


def origin(command: str) -> dict[str, str]:
    """The provenance of a row of results."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "commit": source_commit() or "unknown",
        "device": f"{device}, {platform.machine()}",
        **{name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "command": command,
    }


def append_row(path: str, row: dict[str, Any]) -> None:
    """Append a row to a csv, after the names of the columns if the file is new."""
    is_new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def measure(size_name: str, pairs: int) -> dict[str, Any]:
    """A row of results for one size."""
    size = SIZES[size_name]
    speeds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            for name in (OURS, THEIRS) if pair % 2 == 0 else (THEIRS, OURS):
                speeds[name].append(tokens_per_second(name, size, folder))
            print(
                f"{size_name}: pair {pair + 1} of {pairs}, ratio "
                f"{speeds[OURS][-1] / speeds[THEIRS][-1]:.3f}",
                flush=True,
            )
    ratio, low, high = median_ratio(speeds[OURS], speeds[THEIRS])
    peaks = {name: peak_of_process("speed.training", "--alone", name, size_name) for name in speeds}
    return {
        "size": size_name,
        "model": json.dumps(size.__dict__),
        "pairs": pairs,
        "ours_tokens_per_second": f"{np.median(speeds[OURS]):.0f}",
        "sft_tokens_per_second": f"{np.median(speeds[THEIRS]):.0f}",
        "speed_ratio": f"{ratio:.3f}",
        "speed_ratio_low": f"{low:.3f}",
        "speed_ratio_high": f"{high:.3f}",
        "ours_peak_mb": f"{peaks[OURS]:.0f}",
        "sft_peak_mb": f"{peaks[THEIRS]:.0f}",
        "memory_ratio": f"{peaks[OURS] / peaks[THEIRS]:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument(
        "--out", default=str(RESULTS), help=f"csv to append to, or an empty word [{RESULTS.name}]"
    )
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    if chosen.alone:
        trainer_name, size_name = chosen.alone
        with tempfile.TemporaryDirectory() as folder:
            tokens_per_second(trainer_name, SIZES[size_name], folder)
        print_peak()
        return
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs}: at least 1")
    command = f"python -m speed.training --sizes {' '.join(chosen.sizes)} --pairs {chosen.pairs}"
    for size_name in chosen.sizes:
        row = measure(size_name, chosen.pairs) | origin(command)
        print(
            "{size}: {ours_tokens_per_second} against {sft_tokens_per_second} tokens/s, ratio "
            "{speed_ratio} [{speed_ratio_low}, {speed_ratio_high}]; peak {ours_peak_mb} against "
            "{sft_peak_mb} MiB, ratio {memory_ratio}".format(**row)
        )
        if chosen.out:
            append_row(chosen.out, row)


if __name__ == "__main__":
    main()
