"""Only one run may use an `output_dir`: a second one writes nothing, in any process."""

import json
import subprocess
import sys

import pytest
from shaped_eval.untrusted import locks
from shaped_eval.untrusted.locks import locked_folder
from tiny import WORDS, tiny_model, tiny_tokenizer

from shaped_trl import cli


@pytest.fixture
def commands(tmp_path) -> dict[str, list[str]]:
    """One command of each kind with the same `output_dir`."""
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    rows = [{"text": " ".join(WORDS[:9]), "prompt": " ".join(WORDS[:4]), "gold": "1"}] * 40
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "model_name_or_path": str(model),
        "dataset_name": str(tmp_path / "a.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "use_cpu": True,
    }
    special = {
        "train": {},
        "rlvr": {"num_generations": 2, "per_device_train_batch_size": 2, "grader": "exact_match"},
    }
    for name, settings in special.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps(common | settings))
    return {name: [name, "--config", str(tmp_path / f"{name}.yaml")] for name in special}


@pytest.mark.parametrize("name", ["train", "rlvr"])
def test_a_second_run_is_refused_before_it_writes(name, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "GRACE_S", 0.0)
    with locked_folder(tmp_path / "out", "output_dir"):
        assert cli.main(commands[name]) == 2
        assert [path.name for path in (tmp_path / "out").iterdir()] == [locks.LOCK]
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(
        f"shaped-trl: error: output_dir='{tmp_path}/out' is in use by another shaped-trl process"
    )


@pytest.mark.parametrize("name", ["train", "rlvr"])
def test_nothing_is_written_through_a_link(name, commands, tmp_path, capsys):
    """The folder may be somebody else's."""
    mine = tmp_path / "mine.json"
    mine.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").symlink_to(mine)
    assert cli.main(commands[name]) == 2
    assert "config.json" in capsys.readouterr().err
    assert mine.read_text() == "precious"
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"config.json", locks.LOCK}


@pytest.mark.slow
@pytest.mark.distributed
def test_no_process_of_a_second_run_goes_on(commands, tmp_path):
    words = [sys.executable, "-m", "shaped_trl.cli", *commands["train"], "--num_processes", "2"]
    with locked_folder(tmp_path / "out", "output_dir"):
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [locks.LOCK]
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("shaped-trl")]
    assert len(errors) == 1
    assert "is in use by another shaped-trl process" in errors[0]
