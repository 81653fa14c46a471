"""A study's folder with rows of known numbers: two arms, four stages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.records import append_jsonl
from study_rows import write_evaluation

# The passes of each of 12 problems, by arm and evaluation.
COUNTS = {
    ("cross_entropy", "eval_pretrain"): [0, 1, 2, 3, 1, 0, 2, 4, 1, 0, 3, 2],
    ("cross_entropy", "eval_rlvr"): [4, 5, 6, 6, 4, 3, 5, 8, 4, 0, 6, 6],
    ("precision_exponent", "eval_pretrain"): [3, 4, 5, 6, 4, 3, 5, 7, 4, 3, 6, 5],
    ("precision_exponent", "eval_rlvr"): [5, 4, 7, 5, 5, 2, 6, 7, 5, 0, 5, 7],
}
NLL = {"cross_entropy": 0.60, "precision_exponent": 0.61}
ENTROPY = {"cross_entropy": 0.80, "precision_exponent": 0.60}


def write_study(folder: Path, seeds: tuple[int, ...] = (0,)) -> None:
    values = {
        "version": 2,
        "name": "known",
        "seeds": list(seeds),
        "baseline": "cross_entropy",
        "arms": {"cross_entropy": {}, "precision_exponent": {"shape": {"beta": -0.25}}},
        "stages": {
            "pretrain": {"command": "train", "config": "demo/pretrain", "shaped": True},
            "eval_pretrain": {"command": "eval", "config": "demo/eval", "model": "pretrain"},
            "rlvr": {"command": "rlvr", "config": "demo/rlvr", "model": "pretrain"},
            "eval_rlvr": {"command": "eval", "config": "demo/eval", "model": "rlvr"},
        },
    }
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for arm in values["arms"]:
        for seed in seeds:
            runs = folder / "runs" / arm / f"seed{seed}"
            for stage in values["stages"]:
                (runs / stage).mkdir(parents=True)
                done = {
                    "wall_seconds": 12.5,
                    "cpu_seconds": 11.25,
                    "attempt": 1,
                    "commit": "abc123",
                }
                (runs / stage / "done.json").write_text(json.dumps(done))
            append_jsonl(runs / "pretrain/train_log.jsonl", train_rows(arm))
            append_jsonl(runs / "rlvr/rl_log.jsonl", rl_rows())
            for stage in ("eval_pretrain", "eval_rlvr"):
                write_evaluation(runs / stage, COUNTS[arm, stage], seed)


def train_rows(arm: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "nll": 5 / step,
            "perplexity": 9.0,
            "entropy": 3 / step,
            "tokens": 100 * step,
        }
        for step in range(10, 110, 10)
    ]
    evaluations = [
        {"step": 50, "eval_nll": 1.0, "eval_perplexity": math.e, "eval_entropy": 2.0},
        # this row is repeated below, as by a resumed run
        {"step": 100, "eval_nll": 99.0, "eval_entropy": 99.0},
        {"step": 100, "eval_nll": NLL[arm], "eval_perplexity": 1.9, "eval_entropy": ENTROPY[arm]},
    ]
    return rows + evaluations


def rl_rows() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "raw_reward": step / 40,
            "reward": 0.5,
            "entropy": 1.0,
            "completion_length": 30.0,
        }
        for step in range(1, 21)
    ]
