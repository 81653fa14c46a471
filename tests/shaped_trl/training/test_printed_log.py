"""What training prints of its log; the file has everything."""

from __future__ import annotations

import ast

import pytest
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.log import PRINTED, printed


def test_a_row_is_cut_to_what_one_follows():
    row = {"head_mass": 0.5, "loss": 1.0, "grad_norm": 2.0, "nll_position_0": 3.0, "epoch": 0.1}
    assert list(printed(row, 7).items()) == [
        ("step", 7), ("loss", 1.0), ("head_mass", 0.5), ("grad_norm", 2.0)
    ]  # fmt: skip
    evaluated = {"eval_loss": 1.0, "eval_nll": 2.0, "eval_runtime": 3.0}
    assert printed(evaluated, 7) == {"step": 7, "eval_loss": 1.0, "eval_nll": 2.0}
    for whole in ({"train_loss": 1.0, "train_runtime": 2.0}, {"benchmark/gsm8k/avg@4": 0.5}):
        assert printed(whole, 7) == whole
    assert printed(None, 7) == {}


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_file_has_what_is_not_printed(tmp_path, capsys, disable_tqdm):
    args = ShapedConfig(
        str(tmp_path),
        max_steps=2,
        logging_steps=1,
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=disable_tqdm,
        report_to="none",
    )
    trainer = ShapedTrainer(
        tiny_model(), args, train_dataset=text_rows(8), processing_class=tiny_tokenizer()
    )
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    rows = [ast.literal_eval(line) for line in lines]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert len(steps) == len(lines) - 1, "each row once, and the summary at the end"
    logged = list(read_jsonl(tmp_path / "train_log.jsonl"))
    for row, whole in zip(steps, logged, strict=True):
        assert {"loss", "nll", "perplexity", "entropy", "target_prob", "head_mass"} < set(row)
        assert set(row) <= {"step", *PRINTED}
        assert set(row) < set(whole)
        assert float(row["nll"]) == pytest.approx(whole["nll"], rel=1e-3)
