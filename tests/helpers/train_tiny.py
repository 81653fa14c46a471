"""A tiny ShapedTrainer run as a script, for 1 or 2 processes.

    train_tiny.py OUT.pt PER_DEVICE ACCUMULATION DTYPE OPTIM

Saves the parameters after 4 optimizer steps of 8 rows each, and the logged losses.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl.training import ShapedConfig, ShapedTrainer


def run(per_device: int, accumulation: int, dtype: str, optim: str, **settings):
    """Train 4 steps and return (parameters, logged losses)."""
    with tempfile.TemporaryDirectory() as folder:
        args = ShapedConfig(
            folder,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
            learning_rate=1e-1 if optim == "sgd" else 1e-3,
            optim=optim,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            gradient_checkpointing=False,
            use_cpu=True,
            disable_tqdm=True,
            **{"beta": -0.25, "lambda_tail": -0.1, "lambda_head": 0.05, "top_k": 5} | settings,
        )
        trainer = ShapedTrainer(
            tiny_model(dtype=getattr(torch, dtype)),
            args,
            train_dataset=text_rows(32),
            processing_class=tiny_tokenizer(),
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        name: p.detach().clone()
        for name, p in trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    }, losses


if __name__ == "__main__":
    out, per_device, accumulation, dtype, optim = sys.argv[1:6]
    parameters, losses = run(int(per_device), int(accumulation), dtype, optim)
    if torch.distributed.get_rank() == 0:
        torch.save({"parameters": parameters, "losses": losses}, out)
    torch.distributed.destroy_process_group()
