"""`evaluate_model`: the whole evaluation in one call."""

import pytest
from shaped_eval import evaluate_model
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny_eval import NUM_PROBLEMS

SMALL = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 8}


def test_it_samples_grades_and_reports(model_folder, mirror, tmp_path):
    out = tmp_path / "run"
    results = evaluate_model(
        model_folder, ["gsm8k"], out, n=4, hub_mirror=str(mirror), num_workers=1, **SMALL
    )
    entry = results["gsm8k"]
    assert (entry["problems"], entry["n"]) == (NUM_PROBLEMS, 4)
    assert {"pass@1", "pass@2", "pass@4", "avg@4", "cons@4"} <= set(entry["metrics"])
    assert len(list(read_jsonl(out / "samples.jsonl"))) == 4 * NUM_PROBLEMS
    assert (out / "report.md").is_file()
    samples = (out / "samples.jsonl").read_bytes()
    again = evaluate_model(
        model_folder, "gsm8k", out, pass_at=[3], n=4, hub_mirror=str(mirror), num_workers=1, **SMALL
    )
    assert (out / "samples.jsonl").read_bytes() == samples, "a finished run is not sampled again"
    assert "pass@3" in again["gsm8k"]["metrics"]


def test_mistakes_are_found_before_a_model_is_loaded(tmp_path):
    with pytest.raises(UserError, match=r"n=0 is out of range"):
        evaluate_model("nowhere/model", "gsm8k", tmp_path, n=0)
    with pytest.raises(UserError, match="gsm9k"):
        evaluate_model("nowhere/model", ["gsm8k", "gsm9k"], tmp_path)
    with pytest.raises(UserError, match=r"pass_at.*8"):
        evaluate_model("nowhere/model", "gsm8k", tmp_path, n=4, pass_at=[2, 8])
    with pytest.raises(UserError, match="num_workers=0"):
        evaluate_model("nowhere/model", "gsm8k", tmp_path, num_workers=0)
    with pytest.raises(TypeError, match="temprature"):
        evaluate_model("nowhere/model", "gsm8k", tmp_path, temprature=0.5)
