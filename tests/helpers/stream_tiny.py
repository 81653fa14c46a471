"""A tiny `StreamingTrainer` run, also as a script that is killed.

It has a mixture of a stream and a memory-mapped source, a mixture of experts whose router biases
move, and a schedule of the reward shape.

    stream_tiny.py OUTPUT_DIR FOLDER KILL_AFTER_STEP WORKERS

Rows of the stream begin with their own word, `r<number>`. Each row that is read adds a line to
FOLDER/reads.txt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from tiny import WORDS, text_rows, tiny_tokenizer
from transformers import MiniMaxM2ForCausalLM, TrainerCallback

from shaped_trl.data.mixtures import Source
from shaped_trl.modeling.architectures import paper_config, scaled_down
from shaped_trl.training import ShapedConfig
from shaped_trl.training.resuming import continue_training
from shaped_trl.training.streaming import StreamingTrainer


def write_rows(folder: Path, files: int = 2, rows: int = 250) -> None:
    """`files` JSONL files of `rows` rows `text` each, all different."""
    rng = random.Random(0)
    for number in range(files):
        texts = [
            f"r{number * rows + i} " + " ".join(rng.choices(WORDS, k=rng.randint(2, 19)))
            for i in range(rows)
        ]
        (folder / f"{number}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in texts)
        )


class _Recorded:
    def __init__(self, folder: Path):
        self.path = folder / "reads.txt"

    def __call__(self, row: dict) -> dict:
        with open(self.path, "a") as file:
            file.write(row["text"].split()[0] + "\n")
        return row


def stream(folder: Path):
    """The rows of `write_rows` as a stream that records what is read."""
    files = sorted(str(path) for path in folder.glob("[0-9]*.jsonl"))
    return load_dataset("json", data_files=files, split="train", streaming=True).map(
        _Recorded(folder)
    )


class _Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def build(output_dir: Path, folder: Path, workers: int = 0, **changes) -> StreamingTrainer:
    """60 steps of 2 × 2 sequences of 32 tokens, a checkpoint every 7, dropout, β to −0.25."""
    settings = {
        "max_steps": 60,
        "save_steps": 7,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    settings |= {
        "max_length": 32,
        "packing": True,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_total_limit": 2,
    }
    settings |= {
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "router_bias_rate": 0.01,
    }
    settings |= {
        "shape_schedule": {"beta": {"kind": "linear", "start": 0.0, "end": -0.25, "from_step": 10}}
    }
    args = ShapedConfig(str(output_dir), dataloader_num_workers=workers, **settings | changes)
    sources = [Source("stream", 0.7, stream(folder)), Source("mapped", 0.3, text_rows(40))]
    return StreamingTrainer(
        tiny_mixture_of_experts(), args, sources=sources, processing_class=tiny_tokenizer()
    )


def tiny_mixture_of_experts() -> MiniMaxM2ForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(WORDS) + 3,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "hidden_size": 16,
    }
    settings |= {
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "num_local_experts": 8,
        "attention_dropout": 0.1,
    }
    return MiniMaxM2ForCausalLM(scaled_down(paper_config("5b-a0.3b"), **settings))


if __name__ == "__main__":
    trainer = build(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]))
    trainer.add_callback(_Kill(int(sys.argv[3])))
    continue_training(trainer)
