"""Evaluating every checkpoint: one run for each, resumed, with rows and curves over the steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from shaped_eval.backends import TransformersBackend
from shaped_eval.checkpoints import FINAL, evaluate_checkpoints, find_checkpoints
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from transformers import AutoModelForCausalLM

from shaped_trl import cli


def save(model_folder: Path, to: Path, factor: float, step: int | None = None) -> None:
    """A model like `model_folder`'s with a scaled head, and with the Trainer's state if needed."""
    shutil.copytree(model_folder, to, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    model.save_pretrained(to)
    if step is not None:
        (to / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 100}))


@pytest.fixture
def training_run(model_folder, tmp_path) -> Path:
    """Checkpoints of steps 9 and 100, an incomplete one, and the last one as the final model."""
    root = tmp_path / "training"
    save(model_folder, root, 3.0)
    save(model_folder, root / "checkpoint-100", 3.0, 100)
    save(model_folder, root / "checkpoint-9", 1.0, 9)
    save(model_folder, root / "checkpoint-50", 2.0)
    (root / "checkpoint-tmp").mkdir()
    return root


def test_checkpoints_are_found_by_step_and_the_final_model_where_it_differs(
    training_run, model_folder
):
    assert list(find_checkpoints(training_run)) == ["checkpoint-9", "checkpoint-100"]
    save(model_folder, training_run, 4.0)
    found = find_checkpoints(training_run)
    assert list(found) == ["checkpoint-9", "checkpoint-100", FINAL]
    assert found[FINAL] == training_run


@pytest.mark.slow
def test_each_checkpoint_once_and_one_report(training_run, make_config, monkeypatch, capsys):
    config = make_config("out", model=str(training_run), limit=3, n=3)
    out = evaluate_checkpoints(config, [1, 3])
    rows = list(read_jsonl(out / "steps.jsonl"))
    assert sorted({row["step"] for row in rows}) == [9, 100]
    for row in rows:
        entry = json.loads((out / row["checkpoint"] / "results.json").read_text())[row["benchmark"]]
        assert {key: row[key] for key in ("value", "low", "high", "sampling_se")} == entry[
            "metrics"
        ][row["metric"]]
        assert (row["n"], row["problems"], row["truncated"]) == (3, 3, entry["truncated"])
        assert json.loads((out / row["checkpoint"] / "run.json").read_text())["model"].endswith(
            row["checkpoint"]
        )
    assert {row["metric"] for row in rows} == {"pass@1", "pass@3", "avg@3", "cons@3"}
    assert (out / "steps_gsm8k.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    assert "| 9 | " in report
    assert "| 100 | " in report
    assert report.strip() in capsys.readouterr().out
    assert "data:image/png" in (out / "report.html").read_text()

    generated = []
    generate = TransformersBackend.generate

    def spy(self, *args):
        generated.append(Path(self._config.out).name)
        return generate(self, *args)

    # Again: nothing is sampled. Then there is a new checkpoint, and the first one has been deleted.
    monkeypatch.setattr(TransformersBackend, "generate", spy)
    before = (out / "steps.jsonl").read_bytes()
    evaluate_checkpoints(config, [1, 3])
    assert not generated
    assert (out / "steps.jsonl").read_bytes() == before
    (training_run / "checkpoint-50" / "trainer_state.json").write_text(
        '{"global_step": 50, "max_steps": 100}'
    )
    shutil.rmtree(training_run / "checkpoint-9")
    evaluate_checkpoints(config, [1, 3])
    assert set(generated) == {"checkpoint-50"}
    assert list(dict.fromkeys(row["step"] for row in read_jsonl(out / "steps.jsonl"))) == [
        9,
        50,
        100,
    ]


def test_mistakes(tmp_path, training_run, capsys):
    for model, parts in [
        ("nowhere", ["model='nowhere'", "output_dir"]),
        (str(tmp_path), ["holds no checkpoint-<step>", "save_steps"]),
    ]:
        argv = [
            "eval",
            "--model",
            model,
            "--every_checkpoint",
            "true",
            "--benchmarks",
            "gsm8k",
            "--out",
            "o",
        ]
        assert cli.main(argv) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        assert all(part in error for part in parts), error
    assert cli.main([*argv, "--publish_to", str(training_run)]) == 2
    assert "every_checkpoint" in capsys.readouterr().err
    adapter = tmp_path / "lora" / "checkpoint-1"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no trainer_state\.json"):
        find_checkpoints(adapter.parent)
