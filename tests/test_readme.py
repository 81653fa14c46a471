"""The README: its length and its snippets. `docs/test_book.py` follows its links.

The snippets run as they stand, but small: the model on the Hub is a tiny one on the disk, and the
configurations get sizes for a CPU. `test_page_runs.py` runs whole pages with less changed.
"""

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from markdown_pages import code
from places import ROOT
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model

import shaped_trl
from shaped_trl import ShapedTrainer

README = ROOT / "README.md"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M"
TINY = "tiny-model"
SMALL = {
    "max_steps": 1,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
}
SMALL_RL = SMALL | {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 4,
    "max_sampling_rounds": 1,
    "on_no_signal": "ignore",
}
SMALL_TRAINING = SMALL | {"per_device_train_batch_size": 2, "max_length": 32}


def snippet(word: str) -> str:
    """The one Python block with this word, for the tiny model."""
    (found,) = [block for block in code("python", README) if word in block]
    return found.replace(HUB_MODEL, TINY)


def in_small(monkeypatch, name: str, settings: dict) -> None:
    """Let a configuration of `shaped_trl` have other defaults."""
    full = getattr(shaped_trl, name)

    def small(output_dir, **given):
        return full(output_dir, **given | settings)

    monkeypatch.setattr(shaped_trl, name, small)


def save_tiny_model(folder: Path) -> None:
    """A random model with a tokenizer that reads any text."""
    from shaped_trl.data.tokenizers import train_tokenizer

    texts = ["1+2= 3 w1 w2 Question: How many?\nAnswer: 4"] * 8
    tokenizer = train_tokenizer(texts, "bpe", 300)
    tokenizer.save_pretrained(folder)
    tiny_model(vocab_size=len(tokenizer), max_position_embeddings=1024).save_pretrained(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with the tiny model."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / TINY)
    return tmp_path


def test_the_readme_is_short_and_shows_a_picture_early():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert len(README.read_bytes()) <= 6 * 1024
    assert any(line.startswith("![") for line in lines[:25])


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("shaped-trl")
    (paper,) = citation["references"]
    assert paper["title"] == ShapedTrainer._paper["title"]
    assert paper["url"].endswith(ShapedTrainer._paper["id"])
    assert "CITATION.cff" in README.read_text(encoding="utf-8")


def test_the_loss(here):
    found: dict = {}
    exec(snippet("shaped_linear_loss"), found)
    assert found["head"].grad.shape == (8192, 64)
    assert found["loss"].item() > 0


def test_a_trainer(here, monkeypatch):
    text_rows(8).to_json("texts.jsonl")
    in_small(monkeypatch, "ShapedConfig", SMALL_TRAINING)
    exec(snippet("ShapedTrainer"), {})
    (row,) = read_jsonl("outputs/shaped/train_log.jsonl")
    assert row["step"] == 1
    assert row["loss"] != pytest.approx(row["nll"])  # the shape acts
    assert Path("outputs/shaped/config.json").is_file()  # what the next snippet loads


def test_rl_with_ones_own_reward(here, monkeypatch):
    in_small(monkeypatch, "RLVRConfig", SMALL_RL)
    found: dict = {}
    exec(snippet("RLVRTrainer").replace("outputs/shaped", TINY), found)
    assert found["correct"]([" 3", "4"], ["3", "3"]) == [1.0, 0.0]
    (row,) = read_jsonl("outputs/sums/rl_log.jsonl")
    assert row["groups_sampled"] == 1
