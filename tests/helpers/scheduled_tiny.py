"""A tiny trainer of a few steps, for schedules of the shape and of the learning rate."""

from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl.training import ShapedConfig, ShapedTrainer


def arguments(folder, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    return ShapedConfig(str(folder), **settings | changes)


def trainer(args, callbacks=None, model=None):
    return ShapedTrainer(
        model or tiny_model(),
        args,
        train_dataset=text_rows(64),
        eval_dataset=text_rows(6, seed=1),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
    )


def log(folder, *names):
    return [
        tuple(row.get(name) for name in names) for row in read_jsonl(folder / "train_log.jsonl")
    ]
