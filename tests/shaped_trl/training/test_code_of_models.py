"""Models that bring Python code: nobody is asked on the terminal, and it runs with
--trust_remote_code true alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shaped_eval.backends.prompts import PromptEncoder, from_pretrained
from shaped_eval.errors import UserError
from shaped_eval.sample import SampleConfig
from tiny import pair_rows, text_rows, tiny_model, tiny_tokenizer

from shaped_trl import cli

CODE = """
import pathlib
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
with open({marker!r}, "a") as file:
    file.write("x")

class OwnConfig(Qwen3Config):
    model_type = "own"

class OwnTokenizer(PreTrainedTokenizerFast):
    pass

class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
"""
PLACES = ("AutoConfig", "AutoModelForCausalLM")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with data; whatever asks on the terminal fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )

    def asked(prompt=""):
        raise AssertionError(f"asked on the terminal: {prompt}")

    monkeypatch.setattr("builtins.input", asked)
    text_rows(8).to_json("text.jsonl")
    rows = [{"prompt": row["prompt"], "gold": "7"} for row in pair_rows(8)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def save(folder: Path, *places: str) -> str:
    """A model that names its own code in `places`, and cannot be loaded without it."""
    model = folder / "model"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (model / "own.py").write_text(CODE.format(marker=str(folder / "ran")))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {place: classes[place] for place in places if place in classes}
    if places:
        config["architectures"] = ["OwnForCausalLM"]
    if "AutoConfig" in places:
        config["model_type"] = "own"
    # a configuration that transformers has, and no such model of it
    elif "AutoModelForCausalLM" in places:
        config["model_type"] = "vit"
    (model / "config.json").write_text(json.dumps(config))
    return str(model)


def save_tokenizer(folder: Path) -> str:
    """A tokenizer that cannot be loaded without its code."""
    tokenizer = Path(save(folder))
    (tokenizer / "config.json").unlink()
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(tokenizer)


TRAIN = [
    "train",
    "--dataset_name",
    "text.jsonl",
    "--max_steps",
    "1",
    "--use_cpu",
    "true",
    "--output_dir",
    "out",
]
TRAIN += ["--max_length", "64", "--report_to", "none"]
RLVR = [
    "rlvr",
    "--dataset_name",
    "prompts.jsonl",
    "--max_steps",
    "1",
    "--use_cpu",
    "true",
    "--output_dir",
    "out",
]


@pytest.mark.parametrize("command", [TRAIN, RLVR], ids=["train", "rlvr"])
@pytest.mark.parametrize("place", PLACES)
def test_training_refuses_it_in_one_line(place, command, folder, capsys):
    assert cli.main([*command, "--model_name_or_path", save(folder, place)]) == 2
    [line] = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("shaped-trl: error:")
    ]
    assert "model_name_or_path=" in line
    assert "needs Python code from its own repository" in line
    assert "--trust_remote_code true" in line
    assert not (folder / "ran").exists()


def test_a_look_before_a_run_does_not_run_it(folder, capsys):
    model = save(folder, *PLACES)
    assert cli.main([*TRAIN, "--model_name_or_path", model, "--dry_run"]) == 0
    assert capsys.readouterr().out.count("needs Python code from its own repository") == 2, (
        "for model and first batch"
    )
    assert not (folder / "ran").exists()


def test_a_tokenizer_for_a_new_model_does_not_run_it(folder, capsys):
    scratch = json.dumps({"model_type": "qwen3", "hidden_size": 16, "num_hidden_layers": 1})
    options = ["--from_scratch", scratch, "--tokenizer_name_or_path", save_tokenizer(folder)]
    assert cli.main([*TRAIN, *options]) == 2
    assert "tokenizer_name_or_path=" in capsys.readouterr().err
    assert not (folder / "ran").exists()
    assert cli.main([*TRAIN, *options, "--dry_run", "--trust_remote_code", "true"]) == 0
    assert (folder / "ran").exists()


@pytest.mark.parametrize("place", PLACES)
def test_the_evaluation_suite_refuses_it(place, folder, capsys):
    from transformers import AutoModelForCausalLM

    config = SampleConfig(model=save(folder, place), benchmarks="gsm8k")
    with pytest.raises(UserError, match="--trust_remote_code true"):
        from_pretrained(AutoModelForCausalLM, config)
    assert not (folder / "ran").exists()


def test_with_the_users_word_it_trains_and_is_evaluated(folder, capsys):
    model = save(folder, *PLACES)
    trusted = ["--trust_remote_code", "true"]
    assert cli.main([*TRAIN, *trusted, "--model_name_or_path", model]) == 0
    assert (folder / "ran").exists()
    assert json.loads((folder / "out/config.json").read_text())["model_type"] == "own"
    assert (
        PromptEncoder(
            SampleConfig(model=model, benchmarks="gsm8k", trust_remote_code=True)
        ).model_config.model_type
        == "own"
    )


def test_code_beside_a_model_that_needs_none_is_left_alone(folder):
    """Many models of the Hub bring the code that transformers has had since: it stays there."""
    model = save(folder)
    config = json.loads(Path(model, "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    Path(model, "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    assert cli.main([*TRAIN, "--model_name_or_path", model]) == 0
    assert not (folder / "ran").exists()
