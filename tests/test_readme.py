"""The README: its length and its snippets. `docs/test_book.py` follows its links.

The snippets run as they stand, but small: the model on the Hub is a tiny one on the disk, the
configurations get sizes for a CPU, and `openai/gsm8k` is a mirror with a few rows.
"""

import json
import shlex
from pathlib import Path

import pytest
from markdown_pages import code
from places import ROOT
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model

import shaped_trl
from shaped_trl import cli

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
SMALL_COMMANDS: dict[str, dict] = {
    "train": SMALL_TRAINING | {"tokenizer_vocab_size": 300, "eval_strategy": "no", "save_steps": 1},
    "rlvr": SMALL_RL
    | {
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "save_steps": 1,
        "audit_reward": "off",
    },
    "eval": {"limit": 2, "max_new_tokens": 4, "n": 2, "shots": 0},
}


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


def test_rl_with_ones_own_reward(here, monkeypatch):
    in_small(monkeypatch, "RLVRConfig", SMALL_RL)
    found: dict = {}
    exec(snippet("RLVRTrainer").replace("outputs/shaped", TINY), found)
    assert found["correct"]([" 3", "4"], ["3", "3"]) == [1.0, 0.0]
    (row,) = read_jsonl("outputs/sums/rl_log.jsonl")
    assert row["groups_sampled"] == 1


def mirror_of_gsm8k(folder: Path) -> None:
    """Rows as GSM8K has them, in place of the Hub."""
    rows = [
        {"question": f"How many are {n} and w{n}?", "answer": f"Counting.\n#### {n}"}
        for n in range(32)
    ]
    (folder / "openai/gsm8k/main").mkdir(parents=True)
    for split, part in (("train", rows[:24]), ("test", rows[24:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"openai/gsm8k/main/{split}.jsonl").write_text(text)


def flags(settings: dict) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def gsm8k(here, monkeypatch):
    """`here`, where a small mirror has GSM8K."""
    mirror_of_gsm8k(here / "mirror")
    monkeypatch.setenv("SHAPED_TRL_HUB_MIRROR", str(here / "mirror"))
    return here


def run_lines(*, own_reward: bool) -> None:
    """Run the lines of the block of commands with an own reward, or the others."""
    (block,) = code("bash", README)
    lines = [line for line in block.splitlines() if ("--reward_funcs" in line) == own_reward]
    assert lines
    for line in lines:
        program, command, *rest = shlex.split(line)
        assert program == "shaped-trl"
        assert cli.main([command, *rest, *flags(SMALL_COMMANDS[command])]) == 0


@pytest.mark.slow
def test_the_command_line(gsm8k):
    """What a line writes is what the next one reads."""
    run_lines(own_reward=False)
    assert Path("outputs/eval/report.html").is_file()


@pytest.mark.slow
def test_ones_own_reward_on_the_command_line(gsm8k, monkeypatch):
    Path("my_rewards.py").write_text(
        "def correct(completions, **columns):\n    return [0.25 for _ in completions]\n"
    )
    monkeypatch.syspath_prepend(gsm8k)
    monkeypatch.setitem(SMALL_COMMANDS["rlvr"], "model_name_or_path", TINY)
    run_lines(own_reward=True)
    (row,) = read_jsonl("outputs/own/rl_log.jsonl")
    assert row["raw_reward"] == 0.25
