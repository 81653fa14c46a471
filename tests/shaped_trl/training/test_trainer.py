"""`ShapedTrainer`: normalisation, equality with TRL, masks, packing, logs, resume."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from places import HELPERS
from shaped_eval.records import read_jsonl
from tiny import pair_rows, text_rows, tiny_model, tiny_tokenizer
from train_tiny import run
from trl import SFTConfig, SFTTrainer

from shaped_trl.training import ShapedConfig, ShapedTrainer


def arguments(folder, config=ShapedConfig, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    return config(str(folder), **settings | changes)


def trainer(args, rows, trainer_class=ShapedTrainer, model=None, **kwargs):
    return trainer_class(
        model or tiny_model(), args, train_dataset=rows, processing_class=tiny_tokenizer(), **kwargs
    )


def largest_difference(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "optim", "tolerance"),
    [("float64", "adamw_torch", 1e-10), ("float32", "sgd", 1e-6)],
)
def test_accumulation_gives_the_parameters_of_one_batch(dtype, optim, tolerance):
    whole, losses = run(8, 1, dtype, optim)
    for per_device, accumulation in ((4, 2), (1, 8)):
        parameters, other_losses = run(per_device, accumulation, dtype, optim)
        assert largest_difference(parameters, whole) < tolerance
        assert other_losses == pytest.approx(losses, abs=1e-6)
    assert largest_difference(whole, run(8, 1, dtype, optim, beta=0.5)[0]) > 1e-4


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_parameters_of_one(tmp_path):
    dtype, optim = "float64", "adamw_torch"
    out = tmp_path / "ddp.pt"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--rdzv-backend=c10d",
    ]
    command += [
        "--rdzv-endpoint=localhost:0",
        HELPERS / "train_tiny.py",
        out,
        "4",
        "1",
        dtype,
        optim,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [str(word) for word in command],
        check=True,
        env=environment,
        capture_output=True,
        timeout=240,
    )
    saved = torch.load(out)
    parameters, losses = run(8, 1, dtype, optim)
    assert largest_difference(saved["parameters"], parameters) < 1e-10
    assert saved["losses"] == pytest.approx(losses, abs=1e-6)


def test_cross_entropy_gives_the_losses_of_trl(tmp_path):
    settings = {"max_steps": 20, "gradient_accumulation_steps": 2}
    histories = []
    for config, trainer_class in ((SFTConfig, SFTTrainer), (ShapedConfig, ShapedTrainer)):
        one = trainer(
            arguments(tmp_path / config.__name__, config, **settings), text_rows(64), trainer_class
        )
        one.train()
        histories.append([row for row in one.state.log_history if "loss" in row])
    theirs, ours = histories
    assert len(ours) == len(theirs) == 20
    for a, b in zip(theirs, ours, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    # TRL logs the mean over micro-batches, we log the mean over tokens: equal only where the two
    # coincide
    assert ours[-1]["nll"] == pytest.approx(ours[-1]["loss"], abs=1e-5)
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.1


def test_completion_only_loss_counts_completion_tokens(tmp_path):
    rows = pair_rows(4)
    one = trainer(arguments(tmp_path, max_steps=1), rows)
    one.train()
    tokenizer, model = tiny_tokenizer(), tiny_model()
    nll, count = 0.0, 0
    for row in rows:
        prompt, completion = (
            tokenizer(row["prompt"]).input_ids,
            [*tokenizer(row["completion"]).input_ids, 1],
        )
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        nll += torch.nn.functional.cross_entropy(
            logits, torch.tensor(completion), reduction="sum"
        ).item()
        count += len(completion)
    assert one.state.log_history[0]["nll"] == pytest.approx(nll / count, abs=1e-5)


CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }} <eos>{% "
    "endgeneration %}{% else %}{{ m.content }} {% endif %}{% endfor %}"
)


def test_assistant_only_loss_on_chats(tmp_path):
    from datasets import Dataset

    rows = Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": "w1 w2 w3"},
                    {"role": "assistant", "content": "w4 w5"},
                ]
            }
        ]
        * 4
    )
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    args = arguments(tmp_path, max_steps=1, assistant_only_loss=True)
    one = ShapedTrainer(tiny_model(), args, train_dataset=rows, processing_class=tokenizer)
    labels = one.train_dataset[0]["labels"]
    assert [token for token in labels if token != -100] == [*tokenizer("w4 w5").input_ids, 1]
    one.train()
    assert math.isfinite(one.state.log_history[0]["nll"])


@pytest.mark.slow
def test_packing_keeps_documents_apart(tmp_path):
    """Packed or padded, documents have the same nll, so that attention does not cross them."""
    rows = text_rows(12)
    logs = []
    for changes in ({}, {"packing": True, "max_length": 40}):
        args = arguments(
            tmp_path / str(len(logs)), max_steps=1, per_device_train_batch_size=12, **changes
        )
        one = trainer(args, rows, model=tiny_model())
        one.train()
        logs.append(one.state.log_history[0])
    assert logs[1]["nll"] == pytest.approx(logs[0]["nll"], abs=1e-5)
    assert logs[1]["num_input_tokens_seen"] == logs[0]["num_input_tokens_seen"]


def test_evaluation_reports_nll_beside_the_shaped_loss(tmp_path):
    args = arguments(tmp_path, beta=0.5, lambda_tail=-0.1, top_k=5)
    one = trainer(args, text_rows(8), eval_dataset=text_rows(9, seed=1))
    metrics = one.evaluate()
    args = arguments(tmp_path)
    plain = trainer(args, text_rows(8), eval_dataset=text_rows(9, seed=1)).evaluate()
    assert metrics["eval_nll"] == pytest.approx(plain["eval_nll"], abs=1e-6)
    assert plain["eval_loss"] == pytest.approx(plain["eval_nll"], abs=1e-6)
    assert abs(metrics["eval_loss"] - metrics["eval_nll"]) > 0.01
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_nll"]), rel=1e-9)
    masses = [metrics[f"eval_{name}"] for name in ("target_prob", "head_mass", "tail_mass")]
    assert sum(masses) == pytest.approx(1.0, abs=1e-5)
    assert 0 < metrics["eval_entropy"] <= math.log(63)


@pytest.mark.slow
def test_log_is_continued_on_resume(tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "beta": -0.25}
    whole = trainer(arguments(tmp_path / "whole", **settings), text_rows(32))
    whole.train()
    part = trainer(arguments(tmp_path / "part", **settings), text_rows(32))
    part.train()
    log = tmp_path / "part" / "train_log.jsonl"
    # a killed run leaves a step after the checkpoint, and half a line
    with open(log, "a") as file:
        file.write(json.dumps({"step": 5, "loss": -1.0}) + '\n{"step": 6, "lo')
    resumed = trainer(arguments(tmp_path / "part", **settings), text_rows(32))
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-4"))
    rows = [list(read_jsonl(tmp_path / name / "train_log.jsonl")) for name in ("whole", "part")]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(*rows, strict=True):
        assert {name: b[name] for name in ("step", "tokens", "loss", "entropy")} == pytest.approx(
            {name: a[name] for name in ("step", "tokens", "loss", "entropy")}, abs=1e-6
        )


def test_lora_trains_the_shaped_loss(tmp_path):
    from peft import LoraConfig

    one = trainer(
        arguments(tmp_path, beta=-0.25),
        text_rows(16),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
    )
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    one.train()
    changed = {name for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -2.0}, "beta"),
        ({"top_k": 0}, "top_k"),
        ({"positive": "odd"}, "positive"),
        ({"loss_type": "dft"}, "power"),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_loaded(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_another_loss_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compute_loss_func"):
        trainer(arguments(tmp_path), text_rows(4), compute_loss_func=lambda *_: 0)
