"""What benchmarks during training refuse: engines, mistakes in options, and pushing the golds."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
from benchmark_tiny import BENCHMARKS
from huggingface_hub.utils import filter_repo_objects
from shaped_eval.errors import UserError
from tiny import tiny_model, tiny_tokenizer
from transformers import Trainer

from shaped_trl.training.evaluation import FOLDER, BenchmarkArguments, BenchmarkCallback
from shaped_trl.training.live import LiveBackend


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"is_fsdp_enabled": True}, "FSDP"),
        ({"is_deepspeed_enabled": True, "zero_stage": 3}, "DeepSpeed ZeRO-3"),
        ({"tp": 2}, "tensor parallelism"),
        ({"cp_size": 2}, "context or sequence parallelism"),
    ],
)
def test_engines_without_a_whole_model_are_refused(changed, name):
    trainer = SimpleNamespace(
        is_fsdp_enabled=changed.get("is_fsdp_enabled", False),
        is_deepspeed_enabled=changed.get("is_deepspeed_enabled", False),
        get_tp_size=lambda: changed.get("tp", 1),
        args=SimpleNamespace(output_dir="out"),
        accelerator=SimpleNamespace(
            state=SimpleNamespace(
                deepspeed_plugin=SimpleNamespace(zero_stage=changed.get("zero_stage", 2))
            ),
            parallelism_config=SimpleNamespace(cp_size=changed.get("cp_size", 1)),
        ),
    )
    with pytest.raises(UserError, match=f"not supported with {name}.*--every_checkpoint true"):
        BenchmarkCallback(trainer, BENCHMARKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_benchmarks": "gsm9k"}, "eval_benchmarks: 'gsm9k' is unknown"),
        ({"eval_benchmarks": ""}, "eval_benchmarks is empty"),
        (
            {"eval_benchmarks": "gsm8k", "eval_benchmark_steps": 0},
            "eval_benchmark_steps=0 is out of range",
        ),
        ({"eval_benchmarks": "gsm8k", "eval_benchmark_limit": -1}, "eval_benchmark_limit=-1"),
    ],
)
def test_mistakes_are_named_by_option(options, message):
    with pytest.raises(UserError, match=message):
        BenchmarkArguments(**options)


def test_a_trainers_own_push_leaves_the_golds_at_home():
    """`push_to_hub` of a Trainer uploads output_dir, without what matches these patterns."""
    assert 'ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]' in inspect.getsource(
        Trainer.push_to_hub
    )
    pushed = filter_repo_objects(
        [f"{FOLDER}/step-0/problems.jsonl", "README.md"], ignore_patterns=["_*"]
    )
    assert list(pushed) == ["README.md"]


def test_no_chat_template():
    model, config = tiny_model(), BENCHMARKS.sample_config("out", 0, None, 0)
    with pytest.raises(UserError, match="eval_benchmark_chat_template=True"):
        LiveBackend(replace(config, chat_template=True), model, tiny_tokenizer())
