"""Studies as in their files, with recipes of a few options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from shaped_trl.study.definition import Study
from shaped_trl.study.loading import load_study


def study_values(tmp_path: Path) -> dict[str, Any]:
    recipes = {
        "pretrain": {"max_steps": 30, "top_k": 8, "dataset": "{data}/train.jsonl"},
        "rlvr": {"max_steps": 10},
        "eval": {"n": 4},
    }
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "name": "small",
        "seeds": [0, 1],
        "baseline": "cross_entropy",
        "max_parallel": 2,
        "arms": {
            "cross_entropy": {},
            "precision": {"shape": {"beta": -0.25, "lambda_tail": -1e-5}},
        },
        "stages": {
            "pretrain": {
                "command": "train",
                "config": str(tmp_path / "pretrain.yaml"),
                "shaped": True,
            },
            "rlvr": {"command": "rlvr", "config": str(tmp_path / "rlvr.yaml"), "model": "pretrain"},
            "eval": {
                "command": "eval",
                "config": str(tmp_path / "eval.yaml"),
                "model": "rlvr",
                "args": {"temperature": 1.0, "pass_at": [1, 4]},
            },
        },
    }


def load(tmp_path: Path, values: dict[str, Any]) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_study(path, tmp_path / "out")


def rich_values(tmp_path: Path) -> dict[str, Any]:
    """Two regimes, arms that share a checkpoint, and an arm with its own data and seeds."""
    values = study_values(tmp_path)
    values["prepare"] = {"running_sums": {"train_rows": 10, "noise": 0.1}}
    values["regimes"] = {"common": {}, "rare": {"running_sums": {"noise": 0.2}}}
    values["arms"] |= {
        "matched": {"checkpoint_of": "cross_entropy", "entropy_of": "precision"},
        "cool": {
            "checkpoint_of": "cross_entropy",
            "temperature": 0.75,
            "exploratory": True,
            "seeds": [1],
        },
        "long": {
            "prepare": {"running_sums": {"p_long": 0.9}},
            "args": {"rlvr": {"max_steps": 5}},
            "exploratory": True,
            "seeds": [0],
        },
    }
    midtrain = {"command": "train", "config": str(tmp_path / "pretrain.yaml"), "model": "pretrain"}
    stages = values["stages"]
    values["stages"] = {
        "pretrain": stages["pretrain"],
        "midtrain": midtrain,
        "rlvr": stages["rlvr"] | {"model": "midtrain"},
    }
    values["stages"]["eval"] = stages["eval"]
    (tmp_path / "rlvr.yaml").write_text(
        "max_steps: 10\nlearning_rate: 1.0e-3\nmax_grad_norm: 2.0\n"
    )
    return values


def shared_values(tmp_path: Path) -> dict[str, Any]:
    """All arms share the baseline's pre-training, and are shaped in mid-training."""
    values = rich_values(tmp_path)
    stages = values["stages"]
    stages["pretrain"] = {
        "command": "train",
        "config": stages["pretrain"]["config"],
        "shared": True,
    }
    stages["midtrain"] |= {"shaped": True}
    return values
