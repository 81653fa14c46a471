"""A tiny `ShapedTrainer`'s evaluation, in one process or several."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl.training import ShapedConfig, ShapedTrainer

ROWS = 12


def sourced_rows(count: int = ROWS, seed: int = 1) -> Dataset:
    """`text_rows` from two sources, unevenly."""
    return text_rows(count, seed=seed).add_column(
        "source", ["web" if i % 3 else "maths" for i in range(count)]
    )


def tiny_trainer(
    folder: str,
    eval_dataset: Dataset | dict[str, Dataset],
    *,
    train_dataset: Dataset | None = None,
    model_seed: int = 0,
    **settings,
) -> ShapedTrainer:
    """In float64, so that the order of sums does not show."""
    defaults = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 3,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "top_k": 5,
    }
    return ShapedTrainer(
        tiny_model(model_seed, dtype=torch.float64),
        ShapedConfig(folder, **defaults | settings),
        train_dataset=train_dataset or text_rows(4),
        eval_dataset=eval_dataset,
        processing_class=tiny_tokenizer(),
    )


def main(per_device: int, rows: int = ROWS, settings: dict | None = None) -> dict[str, float]:
    """The evaluation's columns that do not measure time."""
    settings = {"per_device_eval_batch_size": per_device, **(settings or {})}
    with tempfile.TemporaryDirectory() as folder:
        trainer = tiny_trainer(folder, sourced_rows(rows), **settings)
        columns = trainer.evaluate()
    return {
        name: value
        for name, value in columns.items()
        if not name.endswith(("runtime", "second", "time"))
    }
