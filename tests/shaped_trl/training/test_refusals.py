"""Starts that would train on nothing or crash end with one line; and the model card."""

import json

import pytest
import yaml
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from shaped_trl import cli
from shaped_trl.data.corpora import CorpusArguments

SETTINGS = {
    "dataset_name": "a.jsonl",
    "max_length": 64,
    "max_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "output_dir": "out",
    "disable_tqdm": True,
    "report_to": "none",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text_rows(8).to_json("a.jsonl")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(SETTINGS))
    return tmp_path


def refusal(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(["train", "--config", "r.yaml", *argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("shaped-trl: error: ")
    return lines[-1]


def save(model, name: str, tokenizer=True) -> str:
    model.save_pretrained(name)
    if tokenizer:
        tiny_tokenizer().save_pretrained(name)
    return f"./{name}"


def test_a_checkpoint_without_a_tokenizer(folder, capsys):
    """transformers would make a tokenizer without a vocabulary, so that every row is empty."""
    name = save(tiny_model(), "bare", tokenizer=False)
    assert "has no tokenizer files" in refusal(capsys, "--model_name_or_path", name)
    tiny_tokenizer().save_pretrained("tokenizer")
    given = ["--model_name_or_path", name, "--tokenizer_name_or_path", "./tokenizer"]
    assert cli.main(["train", "--config", "r.yaml", *given]) == 0
    rows = [
        json.loads(line) for line in (folder / "out" / "train_log.jsonl").read_text().splitlines()
    ]
    assert rows[0]["nll"] > 1  # empty rows would have 0


def test_a_vocabulary_below_the_tokenizers(folder, capsys):
    name = save(tiny_model(vocab_size=50), "small")
    assert "vocab_size=50 is below the tokenizer's 63" in refusal(
        capsys, "--model_name_or_path", name
    )


def test_positions_that_the_model_has_not(folder, capsys):
    config = GPT2Config(
        vocab_size=63, n_embd=8, n_layer=1, n_head=1, n_positions=32, bos_token_id=1, eos_token_id=1
    )
    name = save(GPT2LMHeadModel(config), "gpt2")
    assert "max_length=64 is beyond the model's max_position_embeddings=32" in refusal(
        capsys, "--model_name_or_path", name
    )


def test_a_masked_language_model(folder, capsys):
    config = BertConfig(
        vocab_size=63,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    name = save(BertForMaskedLM(config), "bert")
    assert "not a causal language model" in refusal(capsys, "--model_name_or_path", name)


def test_a_bias_that_a_dense_model_has_not(folder, capsys):
    name = save(tiny_model(), "dense")
    error = refusal(capsys, "--model_name_or_path", name, "--router_bias_rate", "0.001")
    assert "router_bias_rate=0.001: Qwen3ForCausalLM has no router bias" in error


@pytest.mark.parametrize(
    ("content", "message"), [("", "the file is empty"), ('{"text": "a"', "cannot be read as json")]
)
def test_files_that_hold_no_rows(folder, capsys, content, message):
    (folder / "bad.jsonl").write_text(content)
    name = save(tiny_model(), "model")
    error = refusal(capsys, "--model_name_or_path", name, "--dataset_name", "bad.jsonl")
    assert "data 'bad.jsonl'" in error
    assert message in error


def test_an_output_folder_that_is_a_file(folder, capsys):
    name = save(tiny_model(), "model")
    error = refusal(capsys, "--model_name_or_path", name, "--output_dir", "r.yaml/out")
    assert "output_dir='r.yaml/out': " in error
    assert "r.yaml is a file: name a folder" in error


def test_lists_are_written_on_the_command_line_as_help_shows_them():
    corpus = CorpusArguments(
        mixture="[{dataset_name: a.jsonl, weight: 0.95}]", decontaminate="[gsm8k, math500]"
    )
    assert corpus.mixture == [{"dataset_name": "a.jsonl", "weight": 0.95}]
    assert corpus.decontaminate == ["gsm8k", "math500"]


@pytest.mark.slow
def test_the_card_of_a_model_that_is_not_on_the_hub(folder):
    name = save(tiny_model(), "model")
    assert (
        cli.main(
            ["train", "--config", "r.yaml", "--model_name_or_path", name, "--shape", "precision"]
        )
        == 0
    )
    card = (folder / "out" / "README.md").read_text()
    assert "# Model Card for out" in card
    assert "| beta | -0.25 |" in card
    assert "None]" not in card
    assert '"None"' not in card
