"""`rlvr --dry_run`: the numbers of the run, and nothing of it is kept."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_model, tiny_tokenizer

from shaped_trl import cli
from shaped_trl.rlvr import dry_run as module

SETTINGS = {
    "model_name_or_path": "model",
    "dataset_name": "p.jsonl",
    "reward_funcs": "rewards.even",
    "output_dir": "rl",
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "steps_per_generation": 2,
    "max_completion_length": 4,
    "max_steps": 30,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "dynamic_sampling": False,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    rows = [{"prompt": f"w{i}", "gold": "w1"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(
        "def even(completions, **columns):\n"
        "    return [float(len(text.split()) % 2 == 0) for text in completions]\n"
    )
    (tmp_path / "rl.yaml").write_text(json.dumps(SETTINGS))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_has_the_numbers_of_the_run_and_keeps_nothing(folder, capsys, monkeypatch):
    before = sorted(path.name for path in folder.iterdir())
    clocks = []
    original = module._time_line
    monkeypatch.setattr(
        module, "_time_line", lambda clock, *given: clocks.append(clock) or original(clock, *given)
    )
    assert cli.main(["rlvr", "--config", "rl.yaml", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = dict(line.split(maxsplit=1) for line in lines if not line.startswith("prompts of"))
    assert said["prompts"] == "8; a generation batch has 4 with 4 completions each"
    assert said["steps"] == "30, with 15 generation batches of 16 completions"
    assert said["tokens"].startswith(f"{15 * 16 * 4:,} at most")
    assert said["memory"].split()[1] == "GiB"
    ends = clocks[0].ends
    assert len(ends) == 4, "two generation batches of two steps"
    seconds = (ends[3] - ends[1]) / 2
    assert f"at {seconds:,.1f} s a step" in said["time"]
    assert said["time"].startswith("about ")
    after = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert after == before


def test_an_epoch_counts_its_generation_batches(folder, capsys):
    options = ["--max_steps", "-1", "--num_train_epochs", "3", "--dry_run"]
    assert cli.main(["rlvr", "--config", "rl.yaml", *options]) == 0
    assert "steps        12, with 6 generation batches of 16" in capsys.readouterr().out


def test_a_mistake_of_the_run_is_one_of_its_dry_run(folder, capsys):
    assert cli.main(["rlvr", "--config", "rl.yaml", "--dry_run", "--dataset_name", "no.jsonl"]) == 2
    assert "no.jsonl" in capsys.readouterr().err.splitlines()[-1]
