"""A model is saved in the dtype of the checkpoint that it began as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from shaped_trl import cli
from shaped_trl.modeling.saving import cast_saved
from shaped_trl.training import ShapedConfig


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """All saved weights, whatever the number of files."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("size", ["1GB", "6KB"], ids=["one file", "several files"])
def test_all_files_are_rounded_and_read_again(tmp_path, size):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size=size)
    before = weights(tmp_path)
    assert cast_saved(tmp_path, "bfloat16") == "float32"
    assert same(weights(tmp_path), rounded(before))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert same(dict(loaded.state_dict()), dict(model.to(torch.bfloat16).state_dict()))
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (size == "6KB")
    if index.exists():
        total = sum(tensor.nbytes for tensor in rounded(before).values())
        assert json.loads(index.read_text())["metadata"]["total_size"] == total
    assert cast_saved(tmp_path, "bfloat16") is None


def test_what_is_to_stay_in_float32_stays(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    cast_saved(tmp_path, "bfloat16", keep={"input_layernorm"})
    kept = {n for n, tensor in weights(tmp_path).items() if tensor.dtype == torch.float32}
    assert kept == {f"model.layers.{i}.input_layernorm.weight" for i in (0, 1)}


def test_the_folder_of_an_adapter_is_left_alone(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"unread")
    assert cast_saved(tmp_path, "bfloat16") is None
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == b"unread"


def test_another_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="save_dtype='float8': choose from auto, float32"):
        ShapedConfig(str(tmp_path), save_dtype="float8", use_cpu=True)


COMMON = {
    "max_steps": 2,
    "save_steps": 2,
    "learning_rate": 0.01,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
TRAIN = {"dataset_name": "a.jsonl", "max_length": 64, "per_device_train_batch_size": 2}
RLVR = {
    "dataset_name": "p.jsonl",
    "grader": "exact_match",
    "num_generations": 2,
    "per_device_train_batch_size": 2,
    "max_completion_length": 4,
    "dynamic_sampling": False,
    "on_no_signal": "ignore",
    "audit_reward": "off",
}


@pytest.mark.parametrize(("verb", "own"), [("train", TRAIN), ("rlvr", RLVR)])
def test_a_run_saves_in_the_dtype_of_its_checkpoint(tmp_path, monkeypatch, capsys, verb, own):
    """The checkpoint of the run keeps float32, in which it was trained, and so does a resumed run
    that is told to."""
    monkeypatch.chdir(tmp_path)
    tiny_model(dtype=torch.bfloat16).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    text_rows(8).to_json("a.jsonl")
    Path("p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"w{i}", "gold": "w1"}) + "\n" for i in range(8))
    )
    given = [word for name, value in (COMMON | own).items() for word in (f"--{name}", str(value))]
    command = [verb, *given, "--model_name_or_path", "./model", "--output_dir", "out"]
    assert cli.main(command) == 0
    trained = weights("out/checkpoint-2")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert same(weights("out"), rounded(trained))
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "bfloat16"
    assert "saved in bfloat16; the weights were trained in float32" in capsys.readouterr().out
    assert cli.main([*command, "--output_dir", "whole", "--save_dtype", "float32"]) == 0
    assert same(weights("whole"), weights("whole/checkpoint-2"))
