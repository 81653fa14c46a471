"""An asynchronous RLVR run of a tiny model: a program of its own.

    python rlvr_async.py FOLDER SERVER SEED [NAME=VALUE ...]

The model must be in FOLDER/model, where the server reads it as well. What every call of the reward
saw is in ``FOLDER/calls.jsonl``.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig
from rlvr_tiny import G, even_length, scripted_prompts
from tiny import tiny_model, tiny_tokenizer
from trl.experimental.async_grpo import async_rollout_worker

from shaped_trl.rlvr.asynchronous import AsyncRLVRConfig, AsyncRLVRTrainer
from shaped_trl.training.resuming import continue_training


def save_model(folder: Path, *, tied: bool = False) -> Path:
    """vLLM reads the model from a folder; it has no smaller heads on a CPU."""
    tiny_model(head_dim=32, tie_word_embeddings=tied).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def async_arguments(folder: Path, server: str, **changes: Any) -> AsyncRLVRConfig:
    """On the CPU, two groups of four a step."""
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": G,
        "max_completion_length": 6,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "learning_rate": 1e-2,
        "token_budget": 0,
        "weight_transfer": "folder",
        "vllm_server_base_url": server,
        "vllm_server_timeout": 60.0,
        "max_inflight_tasks": 16,
        "on_no_signal": "ignore",
    }
    return AsyncRLVRConfig(**settings | changes)


class Recorded:
    """The reward `even_length`; writes down which prompts it saw, and at which step."""

    def __init__(self, path: Path):
        self.path = path
        self.__name__ = "accuracy"

    def __call__(self, prompts, completions, completion_ids, trainer_state, **kwargs):
        row = {"step": trainer_state.global_step, "prompt": prompts[0], "completions": completions}
        row["longest"] = max(map(len, completion_ids))
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return even_length(completions)


def without_vllm_here() -> None:
    """TRL's worker asks for vLLM in the trainer's environment, and uses only the server's."""
    async_rollout_worker.is_vllm_available = lambda *args: True


def async_trainer(
    folder: Path, server: str, *, lora: bool = False, **changes: Any
) -> AsyncRLVRTrainer:
    """A trainer of the model in `folder`/model, or of an adapter to it."""
    without_vllm_here()
    torch.set_num_threads(1)
    return AsyncRLVRTrainer(
        str(folder / "model"),
        Recorded(folder / "calls.jsonl"),
        async_arguments(folder, server, **changes),
        train_dataset=scripted_prompts(),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
    )


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[4:])
    given = {name: yaml.safe_load(value) for name, value in options.items()}
    one = async_trainer(Path(sys.argv[1]), sys.argv[2], seed=int(sys.argv[3]), **given)
    continue_training(one)
    one.save_model()
