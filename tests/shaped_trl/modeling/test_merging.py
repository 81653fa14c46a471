"""A LoRA folder is trained, evaluated, merged, and trained further, by the commands."""

import json

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from shaped_trl import cli
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.starting_point import model_or_name, new_adapter

pytestmark = pytest.mark.slow

SETTINGS = {
    "dataset_name": "a.jsonl",
    "max_steps": 2,
    "max_length": 64,
    "save_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_checkpointing": False,
    "learning_rate": 0.1,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
PEFT = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`lora`, an adapter of `model` with checkpoints of two steps, and `merged`."""
    folder = tmp_path_factory.mktemp("adapters")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    text_rows(8).to_json("a.jsonl")
    (folder / "r.yaml").write_text(yaml.safe_dump(SETTINGS))
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    assert train("./model", "lora", *PEFT) == 0
    assert cli.main(["merge", "lora", "--out", "merged"]) == 0
    yield folder
    patch.undo()


def train(model: str, out: str, *argv: str) -> int:
    given = ["--model_name_or_path", model, "--output_dir", out]
    return cli.main(["train", "--config", "r.yaml", *given, *argv])


def completions(folder) -> list[str]:
    return [row["completion"] for row in read_jsonl(folder / "samples.jsonl")]


def test_the_merged_model_answers_as_the_adapter_does(folder):
    """Its logits are those of PEFT, which adds the low-rank update in its forward."""
    ids = torch.arange(3, 23)[None]
    merged = AutoModelForCausalLM.from_pretrained("merged")
    plain = AutoModelForCausalLM.from_pretrained("model")
    with torch.no_grad():
        before = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, "lora").eval()(ids).logits
        logits = merged.eval()(ids).logits
    torch.testing.assert_close(logits, adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - before).abs().max() > 1e-2
    assert len(AutoTokenizer.from_pretrained("merged")) == len(tiny_tokenizer())
    assert not (folder / "merged" / "adapter_config.json").exists()


def test_an_adapter_and_its_merged_model_are_evaluated_alike(folder):
    given = ["--benchmarks", "running_sums", "--limit", "3", "--n", "1", "--temperature", "0"]
    given += ["--max_new_tokens", "6"]
    for name in ("model", "lora", "merged"):
        assert cli.main(["eval", "--model", name, *given, "--out", f"eval-{name}"]) == 0
    assert completions(folder / "eval-lora") == completions(folder / "eval-merged")
    assert completions(folder / "eval-lora") != completions(folder / "eval-model")
    records = [
        json.loads((folder / f"eval-{n}" / "run.json").read_text()) for n in ("lora", "model")
    ]
    assert records[0]["model_identity"].endswith("+" + records[1]["model_identity"])


def test_every_checkpoint_may_be_an_adapter(folder):
    argv = ["eval", "--model", "lora", "--every_checkpoint", "true", "--out", "steps"]
    argv += ["--benchmarks", "running_sums", "--limit", "2", "--n", "2", "--max_new_tokens", "4"]
    assert cli.main(argv) == 0
    assert {row["step"] for row in read_jsonl(folder / "steps" / "steps.jsonl")} == {1, 2}


def test_training_goes_on_with_the_adapter_or_with_all_weights(folder):
    assert train("./lora", "further", "--use_peft") == 0
    first, further = (
        load_file(f"{name}/adapter_model.safetensors") for name in ("lora", "further")
    )
    assert {name: part.shape for name, part in first.items()} == {
        name: part.shape for name, part in further.items()
    }
    assert any((first[name] - further[name]).abs().max() > 1e-3 for name in first)
    config = json.loads((folder / "further" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "./model"
    assert train("./lora", "whole", "--learning_rate", "0") == 0
    whole, merged = (load_file(f"{name}/model.safetensors") for name in ("whole", "merged"))
    assert all(torch.equal(whole[name], merged[name]) for name in merged)


@pytest.mark.parametrize("use_peft", [True, False], ids=["adapter", "all weights"])
def test_what_a_trainer_is_given(folder, use_peft):
    args = ShapedConfig("x", use_cpu=True, model_init_kwargs={"dtype": "float32"})
    model_args = ModelConfig(model_name_or_path="lora", use_peft=use_peft)
    model = model_or_name("lora", args, model_args)
    assert isinstance(model, PeftModel) == use_peft
    assert args.model_init_kwargs is None
    assert new_adapter(model_args) is None
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained) == use_peft
    assert trained


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model", "--out", "new"], "adapter='model' has no adapter_config.json, or is a whole"),
        (["nowhere", "--out", "new"], "adapter='nowhere' has no adapter_config.json"),
        (["lora", "--out", "model"], "out='model' is not empty: name another folder"),
        (["lora"], "the following arguments are required: --out"),
    ],
    ids=["a whole model", "nowhere", "into a model", "no folder"],
)
def test_a_merge_that_is_refused(folder, capsys, argv, message):
    assert cli.main(["merge", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "new").exists()
