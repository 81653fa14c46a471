"""`train --dry_run`: its numbers against plain arithmetic, counted tensors and the run."""

import json
import re

import pytest
import torch
from tiny import WORDS
from transformers import AutoModelForCausalLM

from shaped_trl import cli
from shaped_trl.modeling.architectures import paper_config, parameter_counts
from shaped_trl.training.memory import layer_bytes, layer_numbers, step_memory
from shaped_trl.training.run import build_trainer

SIZES = {"hidden_size": 128, "intermediate_size": 384, "head_dim": 32, "vocab_size": 300}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1}
MIXTURE = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 96}


def kept_numbers(config, tokens=256, checkpointing=False, autocast=False):
    """How many float32 numbers per token the backbone saves for its backward."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        # without autocast's copies of the weights in half precision
        if storage._cdata not in weights and (not autocast or tokens in tensor.shape):
            saved[storage._cdata] = storage
        return tensor

    ids = torch.randint(0, 300, (1, tokens))
    positions = (torch.arange(tokens) % (tokens if autocast else 100))[None]
    half = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    with half, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=ids, position_ids=positions, use_cache=False)
    return sum(storage.nbytes() for storage in saved.values()) / 4 / tokens


@pytest.mark.parametrize(
    ("name", "changes"), [("1b", {}), ("5b-a0.3b", MIXTURE)], ids=["dense", "mixture"]
)
def test_what_a_layer_keeps_is_what_autograd_saves(name, changes):
    one, two = (
        paper_config(name, num_hidden_layers=layers, **SIZES | changes) for layers in (1, 2)
    )
    assert layer_numbers(one) == pytest.approx(kept_numbers(two) - kept_numbers(one), rel=0.03)
    checkpointed = kept_numbers(two, checkpointing=True) - kept_numbers(one, checkpointing=True)
    assert checkpointed == one.hidden_size


def test_what_a_layer_keeps_under_autocast():
    one, two = (paper_config("1b", num_hidden_layers=layers, **SIZES) for layers in (1, 2))
    kept = 4 * (kept_numbers(two, autocast=True) - kept_numbers(one, autocast=True))
    assert layer_bytes(one, 2, mixed=True) == pytest.approx(kept, rel=0.05)
    whole, half = (kept_numbers(config, autocast=True, checkpointing=True) for config in (two, one))
    assert whole - half == one.hidden_size


def test_states_are_those_of_adamw_and_are_divided():
    config = paper_config("1b", num_hidden_layers=2, **SIZES)
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(
        input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)
    ).loss.backward()
    optimizer.step()
    held = [tensor for parameter in model.parameters() for tensor in (parameter, parameter.grad)]
    held += [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    given = {"sequences": 2, "length": 64, "autocast": False}
    assert step_memory(config, **given).states == sum(tensor.nbytes for tensor in held)
    assert (
        step_memory(config, **given, devices=8, sharded=True).states
        == sum(tensor.nbytes for tensor in held) / 8
    )
    more = step_memory(config, **given | {"sequences": 4})
    assert more.activations == 2 * step_memory(config, **given).activations


def plan(capsys, *argv):
    assert cli.main(["train", "--dry_run", *argv]) == 0
    return capsys.readouterr().out


def test_the_papers_1b(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SHAPED_TRL_HUB_MIRROR", str(tmp_path))
    text = plan(
        capsys,
        "--config",
        "paper/1b/pretrain",
        "--devices",
        "64",
        "--output_dir",
        str(tmp_path / "out"),
    )
    counts = parameter_counts(paper_config("1b"))
    assert f"{counts.total:,} parameters" in text
    assert "4,096 sequences (64 devices × 8 × 8) of 4,096 tokens = 16,777,216 tokens" in text
    assert "steps        29,802, 499,994,591,232 tokens of a budget of 500,000,000,000" in text
    ddp, sharded = (
        re.search(rf"{name} +([0-9.]+)", text)[1] for name in ("DDP", "FSDP2 or ZeRO-3")
    )
    assert float(ddp) == round(16 * counts.total / 2**30, 2)
    assert float(sharded) == round(16 * counts.total / 64 / 2**30, 2)
    assert "first batch  not available: hub_mirror=" in text
    assert not (tmp_path / "out").exists()
    assert "model        not available: model_name_or_path=" in plan(
        capsys, "--config", "paper/1b/midtrain"
    )


@pytest.fixture
def recipe(tmp_path):
    rows = [{"text": " ".join(WORDS[i : i + 9])} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "output_dir": str(tmp_path / "out"),
        "mixture": [{"dataset_name": str(tmp_path / "a.jsonl"), "weight": 1.0}],
        "from_scratch": {
            "model_type": "qwen3",
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
        }
        | {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8},
        "tokenizer_kind": "word",
        "packing": True,
        "max_length": 24,
        "per_device_train_batch_size": 2,
        "train_tokens": "480",
        "use_cpu": True,
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 8},
        "warmup_steps": 3,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize(
    ("argv", "held_out"), [([], ""), (["--num_heldout", "4"], ", the first 4 rows held out")]
)
def test_the_first_batch_is_the_runs_own(recipe, capsys, argv, held_out):
    text = plan(capsys, "--config", str(recipe), *argv)
    assert f"a.jsonl (train{held_out})" in text
    assert "steps        10, 480 tokens of a budget of 480" in text
    assert "warm-up of 3 and num_decay_steps of 8 do not fit into 10 steps" in text
    assert not (recipe.parent / "out").exists()
    shown = re.findall(r"── document of (\d+) tokens\n(.*)", text)
    # the same recipe, as `train` builds it
    from trl import ModelConfig

    from shaped_trl.data.corpora import CorpusArguments
    from shaped_trl.recipes import Parser
    from shaped_trl.training import ShapedConfig

    options, _ = Parser("train", [CorpusArguments, ShapedConfig, ModelConfig]).resolve(
        str(recipe), argv
    )
    trainer = build_trainer(*options)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (2, 24)
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    pieces = [batch["input_ids"][0][a:b] for a, b in zip(starts, [*starts[1:], 24], strict=True)]
    assert shown == [(str(len(piece)), trainer.processing_class.decode(piece)) for piece in pieces]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--devices", "0"], "devices=0 must be at least 1"),
        (["--train_tokens", "47"], "train_tokens=47 is less than one step of 48 tokens"),
        (["--from_scratch", '{"architecture": "2b"}'], "architecture='2b' is unknown"),
    ],
)
def test_what_a_run_would_refuse_is_refused(recipe, capsys, argv, message):
    assert cli.main(["train", "--dry_run", "--config", str(recipe), *argv]) == 2
    assert message in capsys.readouterr().err


def test_devices_without_a_dry_run_and_an_attention_that_is_not_there(recipe, capsys):
    assert cli.main(["train", "--config", str(recipe), "--devices", "2"]) == 2
    assert "devices=2 is for --dry_run" in capsys.readouterr().err
    assert (
        cli.main(["train", "--config", str(recipe), "--attn_implementation", "flash_attention_2"])
        == 2
    )
    assert "attn_implementation='flash_attention_2'" in capsys.readouterr().err
