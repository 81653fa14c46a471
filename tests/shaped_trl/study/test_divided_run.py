"""A study with divided heads, decoding temperatures, seeds' own data and contrasts, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from shaped_trl.cli import main as shaped_trl

STUDY = {
    "name": "divided",
    "seeds": [0, 1],
    "baseline": "cross_entropy",
    "max_parallel": 2,
    "nll_within": 0.5,
    "prepare": {
        "running_sums": {"train_rows": 1024, "rl_rows": 64, "problems": 8, "seed": "{seed}"}
    },
    "arms": {
        "cross_entropy": {},
        "precision": {"shape": {"beta": -0.9, "positive": "product"}},
        "divided": {
            "checkpoint_of": "cross_entropy",
            "entropy_of": "precision",
            "matched_on": "rollouts",
            "head_divided": True,
        },
        "halved": {"checkpoint_of": "cross_entropy", "temperature": 0.5, "head_divided": True},
    },
    "stages": {
        "pretrain": {
            "command": "train",
            "config": "demo/pretrain",
            "shaped": True,
            "args": {
                "max_steps": 10,
                "lr_scheduler_type": "constant",
                "lr_scheduler_kwargs": "{}",
                "per_device_train_batch_size": 32,
                "eval_steps": 10,
            },
        },
        "before": {
            "command": "eval",
            "config": "demo/eval",
            "model": "pretrain",
            "args": {"benchmarks": "{data}/problems.yaml", "n": 4},
            "temperature": [0.6, 1.0],
        },
        "rlvr": {
            "command": "rlvr",
            "config": "demo/rlvr",
            "model": "pretrain",
            "args": {"max_steps": 2, "on_no_signal": "ignore", "dynamic_sampling": False},
        },
        "after": {
            "command": "eval",
            "config": "demo/eval",
            "model": "rlvr",
            "args": {"benchmarks": "{data}/problems.yaml", "n": 4},
            "temperature": 0.6,
        },
    },
    "contrasts": {
        "primary": {"stage": "after", "benchmark": "problems", "metric": "avg@4"},
        "margin": 0.015,
        "secondary": [{"stage": "before-t0.6", "benchmark": "problems", "metric": "cons@4"}],
        "claims": {
            "precision_rl": {
                "text": "A precision prior gives better RL",
                "compare": [
                    {"arm": "precision", "against": "cross_entropy"},
                    {"arm": "precision", "against": "divided"},
                ],
            }
        },
    },
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_divided_heads_go_through_rl_evaluation_and_report(tmp_path: Path) -> None:
    file, out = tmp_path / "divided.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    assert shaped_trl(["study", str(file), "--out", str(out)]) == 0
    lines = (out / "records.jsonl").read_text().splitlines()
    records = {row["key"]: row for row in map(json.loads, lines)}
    for seed in (0, 1):
        found = records[f"divided/seed{seed}/divided-pretrain"]["found"]
        assert found["entropy"] == pytest.approx(found["wanted"], rel=0.02)
        assert records[f"halved/seed{seed}/divided-pretrain"]["found"] == {"temperature": 0.5}
        runs = out / "runs"
        model, halved = (
            AutoModelForCausalLM.from_pretrained(runs / arm / f"seed{seed}" / stage)
            for arm, stage in (("cross_entropy", "pretrain"), ("halved", "divided-pretrain"))
        )
        tokenizer = AutoTokenizer.from_pretrained(runs / f"halved/seed{seed}/divided-pretrain")
        ids = tokenizer("3 1 4 1 . . . . . . . =", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            torch.testing.assert_close(halved(ids).logits / 2, model(ids).logits)
        settings = records[f"halved/seed{seed}/before-t0.6"]["evaluation"]["run"]["settings"]
        assert settings["temperature"] == 0.6
    problems = [(out / f"data/seed{seed}/problems.jsonl").read_text() for seed in (0, 1)]
    assert problems[0] != problems[1]
    results = json.loads((out / "results.json").read_text())
    primary = [row for row in results["contrasts"] if row["kind"] == "primary"]
    assert [(row["arm"], row["against"], row["seeds"]) for row in primary] == [
        ("precision_product", "cross_entropy", 2),
        ("precision_product", "divided", 2),
    ]
    report = (out / "report.md").read_text()
    assert "its head is divided by that which gives it the rollout entropy of" in report
    assert report.index("A precision prior gives better RL") < report.index("## ")
    machine = records["divided/seed0/rlvr"]["outcome"]["machine"]
    assert machine["threads"] >= 1
    assert shaped_trl(["study", str(file), "--out", str(out)]) == 0, "nothing is left to do"
