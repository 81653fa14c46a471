"""An RLVR run with vLLM's CPU build in the same process: a program of its own.

    python rlvr_vllm.py FOLDER SEED [KILL_AT]

`KILL_AT` is the call of the reward in which the process ends as by SIGKILL. What every call saw is
in ``FOLDER/calls.jsonl``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import torch
from rlvr_tiny import G, even_length, rlvr_arguments, scripted_prompts
from tiny import tiny_model, tiny_tokenizer

from shaped_trl.rlvr import RLVRTrainer
from shaped_trl.training.resuming import continue_training

OPTIONS = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "max_steps": 4,
    "steps_per_generation": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "completion_length_schedule": {0: 4, 2: 9},
    "num_generations": G,
}


def save_model(folder: Path) -> Path:
    """vLLM reads the model from a folder; it has no smaller heads on a CPU."""
    tiny_model(head_dim=32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def take_weights_on_cpu() -> None:
    """vLLM packs the weights of linear layers on a CPU, and cannot load others into them then."""
    from vllm.model_executor.layers import utils

    def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


def main(folder: Path, seed: int, kill_at: int | None) -> None:
    calls = 0

    def accuracy(completions, completion_ids, trainer_state, **columns) -> list[float]:
        nonlocal calls
        calls += 1
        row = {"step": trainer_state.global_step, "completions": completions}
        row["longest"] = max(map(len, completion_ids))
        with open(folder / "calls.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if calls == kill_at:
            below = [child.pid for child in psutil.Process().children(recursive=True)]
            (folder / "below.json").write_text(json.dumps(below))
            os.kill(os.getpid(), signal.SIGKILL)
        return even_length(completions)

    take_weights_on_cpu()
    folder.mkdir(exist_ok=True)
    trainer = RLVRTrainer(
        str(save_model(folder / "start")),
        accuracy,
        rlvr_arguments(folder, seed=seed, **OPTIONS),
        train_dataset=scripted_prompts(),
        processing_class=tiny_tokenizer(),
    )
    config = trainer.vllm_generation.llm.llm_engine.model_config
    (folder / "engine.json").write_text(json.dumps({"dtype": str(config.dtype)}))
    continue_training(trainer)
    trainer.save_model()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
