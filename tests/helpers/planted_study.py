"""A study's folder with planted effects: two regimes, six arms, eight seeds, small logs.

In P, the precision arm and its control by temperature gain equally in RL. In D the precision arm
loses, and the control does not. Tail suppression has no effect. The diversity arm's entropy
collapses in both regimes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from shaped_eval.records import append_jsonl
from study_rows import N, write_evaluation

from shaped_trl.study.report import report_study

PROBLEMS = 12
SEEDS = tuple(range(8))
ARMS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "precision_product": {"shape": {"beta": -0.25, "positive": "product"}},
    "diversity_product": {"shape": {"beta": 0.5, "positive": "product"}},
    "tail_penalty": {"shape": {"lambda_tail": -0.1}},
    "cooled": {"checkpoint_of": "cross_entropy", "entropy_of": "precision_product"},
    "exponent": {
        "shape": {"beta": -0.25, "positive": "exponent"},
        "seeds": [0, 1, 2],
        "exploratory": True,
    },
}
ENTROPY = {
    "cross_entropy": 0.64,
    "precision_product": 0.43,
    "diversity_product": 1.0,
    "tail_penalty": 0.62,
    "exponent": 0.6,
}
# (regime, arm) → its effect on reward and Avg@n
REWARD = {
    ("P", "precision_product"): 0.1,
    ("P", "cooled"): 0.1,
    ("D", "precision_product"): -0.1,
    ("P", "exponent"): 0.3,
}
COLLAPSE = {
    "diversity_product": (-0.5, -0.3)
}  # relative change of entropy and of response length, if not −0.1 and 0


def write_planted(folder: Path) -> None:
    """Write study.yaml and all of its runs."""
    values = {
        "name": "planted",
        "seeds": list(SEEDS),
        "baseline": "cross_entropy",
        "regimes": {"P": {}, "D": {}},
        "arms": ARMS,
        "stages": {
            "pretrain": {"command": "train", "config": "demo/pretrain", "shaped": True},
            "eval_pretrain": {"command": "eval", "config": "demo/eval", "model": "pretrain"},
            "rlvr": {"command": "rlvr", "config": "demo/rlvr", "model": "pretrain"},
            "eval_rlvr": {"command": "eval", "config": "demo/eval", "model": "rlvr"},
        },
    }
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    rng = np.random.default_rng(0)
    for regime in values["regimes"]:
        for arm, own in ARMS.items():
            noise = rng.normal(0, 1, (len(SEEDS), 5))
            # it sums to 0 over the seeds, so that nothing is added to the planted effects
            noise -= noise.mean(axis=0)
            for seed in own.get("seeds", SEEDS):
                _write_runs(
                    folder / "runs" / regime / arm / f"seed{seed}", regime, arm, seed, noise[seed]
                )


def _write_runs(folder: Path, regime: str, arm: str, seed: int, noise: np.ndarray) -> None:
    """Write the logs of a run; `noise` are five draws with deviation 1."""
    level = 0.5 + REWARD.get((regime, arm), 0.0)
    if arm in ENTROPY:
        done(folder / "pretrain")
        append_jsonl(folder / "pretrain/train_log.jsonl", _train_rows(arm, seed, noise))
    else:
        done(folder / "temperature-pretrain")
        found = {
            "temperature": 0.8 + seed / 100,
            "entropy": 0.43,
            "entropy_at_1": 0.64,
            "wanted": 0.43,
        }
        (folder / "temperature-pretrain/temperature.json").write_text(json.dumps(found))
    done(folder / "rlvr")
    append_jsonl(folder / "rlvr/rl_log.jsonl", _rl_rows(arm, level + 0.02 * noise[2]))
    for stage, share in (
        ("eval_pretrain", 0.3 + 0.02 * noise[3]),
        ("eval_rlvr", level + 0.02 * noise[4]),
    ):
        done(folder / stage)
        write_evaluation(folder / stage, _passes(share), seed)


def done(folder: Path) -> None:
    folder.mkdir(parents=True)
    state = {
        "wall_seconds": 10.0,
        "cpu_seconds": 9.0,
        "attempt": 1,
        "commit": "abc123",
        "versions": {"torch": "2.0"},
    }
    (folder / "done.json").write_text(json.dumps(state))


def _train_rows(arm: str, seed: int, noise: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for step in (100, 200, 300):
        nll = (0.6 + 30 / step) * (1 + 0.01 * seed) + 0.002 * noise[0]
        entropy = ENTROPY[arm] * (1 + 0.01 * seed) + 20 / step + 0.005 * noise[1]
        rows.append(
            {
                "step": step,
                "eval_nll": nll,
                "eval_perplexity": float(np.exp(nll)),
                "eval_entropy": entropy,
            }
        )
    return rows


def _rl_rows(arm: str, level: float) -> list[dict[str, Any]]:
    entropy_change, length_change = COLLAPSE.get(arm, (-0.1, 0.0))
    rows = []
    for number in range(20):
        along = number / 19
        # scaled with the level, so that seeds differ
        wobble = level * ((7 * number) % 20 - 9.5) / 19
        rows.append(
            {
                "step": number + 1,
                "raw_reward": level - 0.2 + 0.4 * along,
                "entropy": 0.5 * (1 + entropy_change * along) + wobble / 50,
                "completion_length": 30 * (1 + length_change * along) + wobble,
            }
        )
    return rows


def _passes(share: float) -> list[int]:
    """Passes of the problems such that their mean share of N is closest to `share`."""
    total = round(share * N * PROBLEMS)
    return [total // PROBLEMS + (number < total % PROBLEMS) for number in range(PROBLEMS)]


def planted_report(folders: pytest.TempPathFactory) -> Path:
    """The folder of the study with its report."""
    out = folders.mktemp("planted") / "planted"
    write_planted(out)
    report_study(out)
    return out


def effect(
    results: dict[str, Any], regime: str, arm: str, against: str, stage: str, metric: str
) -> dict[str, Any]:
    """The row of one effect in results.json."""
    labels = {"regime": regime, "arm": arm, "against": against, "stage": stage, "metric": metric}
    (row,) = (row for row in results["effects"] if labels.items() <= row.items())
    return row
