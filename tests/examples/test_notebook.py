"""The notebook: its cells run as they stand, after other values of its parameters."""

import json

import pytest
from places import ROOT
from shaped_eval.records import read_jsonl
from tiny import tiny_model

NOTEBOOK = ROOT / "examples" / "shape_rl_pass_at_k.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
SHAPED = ("cross-entropy", "precision")
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_no_outputs_are_kept():
    assert CODE
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)


def test_a_cell_of_parameters_comes_first():
    assert [cell["metadata"].get("tags") for cell in CODE][:2] == [["parameters"], None]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    from shaped_trl.data.tokenizers import train_tokenizer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    tokenizer = train_tokenizer(["2+3=5\n7+6=13\n4+4=8\n9+0=9\n1 2 3 4 5 6 7 8 9 0"], "bpe", 300)
    tokenizer.save_pretrained("model")
    tiny_model(vocab_size=len(tokenizer)).save_pretrained("model")
    small = {
        "MODEL": "model",
        "TRAINING_STEPS": 2,
        "RL_STEPS": 1,
        "SAMPLES": 4,
        "DEVICE": {"use_cpu": True, "bf16": False},
    }
    parameters, *rest = CODE
    found: dict = {}
    exec(source(parameters), found)
    assert set(small) <= set(found)
    found |= small
    for cell in rest:
        exec(compile(source(cell), NOTEBOOK.name, "exec"), found)
    evaluated = ["cross-entropy", "cross-entropy-rl", "precision", "precision-rl"]
    assert list(found["results"]) == evaluated
    for name in evaluated:
        verdicts = list(read_jsonl(f"outputs/notebook/{name}-eval/verdicts.jsonl"))
        assert len(verdicts) == 40 * 4
        right = sum(row["status"] == "pass" for row in verdicts) / len(verdicts)
        assert found["results"][name]["pass@1"]["value"] == pytest.approx(right)
    logs = {name: list(read_jsonl(f"outputs/notebook/{name}/train_log.jsonl")) for name in SHAPED}
    assert logs["precision"][0]["nll"] == pytest.approx(logs["cross-entropy"][0]["nll"])
    assert logs["precision"][0]["loss"] != pytest.approx(logs["precision"][0]["nll"])
    known = {row["prompt"] for row in found["known"]}
    assert len(known) == 60
    assert not known & {row["prompt"] for row in found["held_out"]}
