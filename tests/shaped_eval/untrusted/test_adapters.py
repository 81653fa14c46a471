"""The folder of a LoRA adapter is read as its base model with the adapter merged into it."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from shaped_eval.backends import load_backend
from shaped_eval.checkpoints import find_checkpoints
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import (
    base_of,
    check_model_folder,
    is_adapter,
    model_fingerprint,
    read_pretrained,
)
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

RANK, ALPHA = 4, 6


def save_adapter(folder, base: str, seed: int = 0) -> str:
    """An adapter with random weights on two kinds of matrices of the model in `base`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    names = ["q_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def base(tmp_path) -> str:
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path, base) -> str:
    return save_adapter(tmp_path / "adapter", base)


def change(adapter: str, **fields) -> None:
    path = f"{adapter}/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | fields, file)


def test_the_weights_are_those_of_the_low_rank_update(base, adapter):
    """W + (α/r)·B·A for each adapted matrix, and W for all others, computed here in float64."""
    assert is_adapter(adapter)
    assert not is_adapter(base)
    check_model_folder(adapter)
    merged = read_pretrained(AutoModelForCausalLM, adapter).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()
    parts = load_file(f"{adapter}/adapter_model.safetensors")
    assert len(parts) == 2 * 2 * 2  # two layers, two matrices, A and B
    assert merged.keys() == plain.keys()
    for name, weight in plain.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.double()
        if f"{stem}.lora_A.weight" in parts:
            a, b = (parts[f"{stem}.lora_{part}.weight"].double() for part in "AB")
            expected = expected + ALPHA / RANK * b @ a
            assert (expected - weight).abs().max() > 0.1
        torch.testing.assert_close(merged[name].double(), expected, atol=1e-6, rtol=1e-6)


def test_the_configuration_is_the_bases_and_the_tokenizer_the_adapters_own(base, adapter):
    assert read_pretrained(AutoConfig, adapter).hidden_size == 16
    tokenizer = tiny_tokenizer()
    assert len(read_pretrained(AutoTokenizer, adapter)) == len(tokenizer)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(adapter)
    assert len(read_pretrained(AutoTokenizer, adapter)) == len(tokenizer)


def test_the_fingerprint_is_of_both(tmp_path, base, adapter):
    before = model_fingerprint(adapter)
    other = save_adapter(tmp_path / "other", base, seed=1)
    assert model_fingerprint(other) != before
    again = shutil.copytree(adapter, tmp_path / "again")
    assert model_fingerprint(again) == before
    tiny_model(seed=3).save_pretrained(base)
    assert model_fingerprint(adapter) != before
    assert "+" not in model_fingerprint(base)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type='PREFIX_TUNING'; only LoRA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "and a megatron_config; only"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path=None: name the base"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path="),
        ({"base_model_name_or_path": "./gone"}, "base_model_name_or_path='./gone' does not exist"),
        ({"r": 5}, "does not fit its base model"),
        ({"target_modules": ["nothing"]}, "does not fit its base model"),
    ],
    ids=["kind", "megatron", "no base", "a list", "base gone", "another rank", "other modules"],
)
def test_an_adapter_that_cannot_be_used_is_refused_in_one_line(adapter, fields, message):
    change(adapter, **fields)
    with pytest.raises(UserError) as error:
        read_pretrained(AutoModelForCausalLM, adapter)
    assert message in str(error.value)
    assert f"model={adapter!r}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_model_and_a_damaged_one(tmp_path, base, adapter):
    path = f"{adapter}/adapter_model.safetensors"
    wide = {name: torch.zeros(3, 3) for name in load_file(path)}
    save_file(wide, path)
    with pytest.raises(UserError, match="does not fit its base model"):
        read_pretrained(AutoModelForCausalLM, adapter)
    with open(path, "wb") as file:
        file.write(b"x" * 100)
    with pytest.raises(UserError, match="is damaged"):
        read_pretrained(AutoModelForCausalLM, adapter)
    with open(f"{adapter}/adapter_config.json", "w") as file:
        file.write("{")
    with pytest.raises(UserError, match=r"adapter_config\.json.* is damaged"):
        base_of(adapter)


def test_no_code_of_a_base_model_that_another_person_chose(adapter):
    for auto_class in (AutoConfig, AutoTokenizer, AutoModelForCausalLM):
        with pytest.raises(UserError, match="trust_remote_code=True does not support"):
            read_pretrained(auto_class, adapter, trust_remote_code=True)


def test_vllm_is_told_to_merge(adapter, tmp_path):
    config = SampleConfig(adapter, "gsm8k", out=str(tmp_path / "out"), backend="vllm")
    with pytest.raises(UserError, match="backend='vllm' does not support: `shaped-trl merge"):
        load_backend(config)


def test_checkpoints_may_be_adapters(tmp_path, base, adapter):
    run = tmp_path / "run"
    for step in (2, 4, 6):
        save_adapter(run / f"checkpoint-{step}", base, seed=step)
    for step in (2, 4):  # the last one is incomplete
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    shutil.copytree(run / "checkpoint-4", run, dirs_exist_ok=True)
    assert list(find_checkpoints(run)) == ["checkpoint-2", "checkpoint-4"]
    save_adapter(run, base, seed=9)
    assert list(find_checkpoints(run)) == ["checkpoint-2", "checkpoint-4", "final"]
