"""A packed mixture whose tokens have weights, trained by one process or by two.

Two processes read different sequences. One process reads the same ones if its micro-batch is made
of theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tiny import pair_rows, text_rows, tiny_model, tiny_tokenizer

from shaped_trl.data.mixtures import Source
from shaped_trl.data.packing import STREAM
from shaped_trl.training import ShapedConfig
from shaped_trl.training.streaming import StreamingTrainer

PROCESSES, STEPS = 2, 3
SETTINGS: dict[str, Any] = {
    "beta": -0.25,
    "lambda_tail": -0.1,
    "top_k": 5,
    "z_loss": 0.01,
    "prompt_loss_weight": 0.25,
}


def tokenised_rows(count: int) -> Dataset:
    """Rows with weights of their own, which tell the token: id/10 − 2."""
    tokenizer = tiny_tokenizer()
    ids = [tokenizer(text).input_ids for text in text_rows(count, seed=3)["text"]]
    weights = [[token / 10 - 2 for token in row] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "loss_weights": weights})


def build(
    folder: str | Path,
    per_device: int,
    trainer: type[StreamingTrainer] = StreamingTrainer,
    **changes,
) -> StreamingTrainer:
    """Three sources: texts with a weight, prompts and completions, and rows with own weights."""
    args = ShapedConfig(
        str(folder),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        max_length=24,
        packing=True,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        **SETTINGS | changes,
    )
    sources = [
        Source("texts", 0.3, text_rows(30), -0.5),
        Source("pairs", 0.4, pair_rows(30), 2.0),
        Source("tokenised", 0.3, tokenised_rows(30)),
    ]
    model = tiny_model(dtype=torch.float64)
    return trainer(model, args, sources=sources, processing_class=tiny_tokenizer())


def result(trainer: StreamingTrainer) -> dict[str, Any]:
    """Parameters after training, and the numbers of each logged row."""
    trainer.train()
    names = ("loss", "grad_norm", "nll", "logsumexp", "entropy")
    steps = [row for row in trainer.state.log_history if "loss" in row]
    trained = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    return {f"{name} of step {row['step']}": row[name] for row in steps for name in names} | {
        name: parameter.detach().clone() for name, parameter in trained
    }


def main() -> dict[str, Any]:
    """Train in each of the processes of a group."""
    with tempfile.TemporaryDirectory() as folder:
        return result(build(folder, per_device=1))


class InOneProcess(StreamingTrainer):
    """Reads what the processes of a group would read, one row of its micro-batch from each."""

    def get_train_dataloader(self):
        size, self._train_batch_size = self._train_batch_size, 1
        loaders = []
        for rank in range(PROCESSES):
            self.rank = rank
            loaders.append(iter(super().get_train_dataloader()))
        self._train_batch_size = size
        return list(islice(joined(loaders), STEPS * 2))

    def _place(self):
        return self.rank, PROCESSES


def joined(loaders: list[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Batches made of one of each loader."""
    while True:
        parts = [next(loader) for loader in loaders]
        notes = parts[0].pop(STREAM)
        for part in parts[1:]:
            notes = {**notes, "sources": notes["sources"] + part.pop(STREAM)["sources"]}
        names = parts[0].keys()
        yield {name: torch.cat([part[name] for part in parts]) for name in names} | {STREAM: notes}
