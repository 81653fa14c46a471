"""A benchmark of one's own during training: its run is called as the file, and goes on."""

import json
from pathlib import Path

import pytest
from benchmark_tiny import build
from shaped_eval.errors import UserError
from shaped_eval.reporting.outcomes import read_record

from shaped_trl.training.evaluation import FOLDER, BenchmarkArguments, BenchmarkCallback


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"w{i} w2", "gold": f"w{i}"} for i in range(2)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("mine.yaml").write_text(
        'dataset_name: rows.jsonl\nprompt_template: "{question}"\ngrader: exact_match\n'
    )


def test_it_is_measured_and_its_run_goes_on():
    trainer = build("out", None)
    arguments = BenchmarkArguments("./mine.yaml", 2, 2, None, 4)
    callback = BenchmarkCallback(trainer, arguments)
    first = callback.evaluate()
    assert 0 <= first["benchmark/mine/avg@2"] <= 1
    folder = Path("out") / FOLDER / "step-0"
    assert read_record(folder)["benchmarks"] == ["mine"]
    (folder / "is kept").touch()
    again = callback.evaluate()
    assert (folder / "is kept").exists()
    assert {**again, "benchmark/runtime": 0} == {**first, "benchmark/runtime": 0}


def test_a_missing_file_is_found_before_training():
    with pytest.raises(UserError, match=r"benchmark='gone\.yaml': there is no such file"):
        BenchmarkArguments("gone.yaml")
