"""What the logs of pre-training and RL say about an arm: where it ended, and over the whole run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from shaped_trl.study.logs import RL_LOG, TRAIN_LOG, curve, read_log
from shaped_trl.study.plan import Study
from shaped_trl.study.state import DONE

TRAIN_KEYS = ("nll", "perplexity", "entropy")
RL_KEYS = ("raw_reward", "reward", "entropy", "completion_length", "clip_ratio")
_LAST_SHARE = 0.1  # of a run's rows: one logged batch alone is too noisy to stand for its end


def stages_of(study: Study, command: str) -> list[str]:
    """The study's stages of one command, in order."""
    return [name for name, stage in study.stages.items() if stage.command == command]


def stage_rows(study: Study, arm: str, stage: str) -> list[list[dict[str, Any]]]:
    """The log of a train or rlvr stage, for each seed whose run is done."""
    name = TRAIN_LOG if study.stages[stage].command == "train" else RL_LOG
    folders = [study.folder(arm, seed, stage) for seed in study.seeds]
    logs = [read_log(folder / name) for folder in folders if (folder / DONE).exists()]
    if name == RL_LOG:
        for row in (row for rows in logs for row in rows):
            # Without dynamic sampling every group is kept, and the two are one.
            row.setdefault("raw_reward", row.get("reward"))
    return logs


def training_summary(study: Study, arm: str, stage: str) -> dict[str, Any] | None:
    """NLL, perplexity and entropy (nats) at the end of a train stage, averaged over seeds; None without rows.

    Held-out values of the last evaluation if the stage evaluates, the mean of the last tenth of the training
    rows otherwise: `source` says which.
    """
    logs = [rows for rows in stage_rows(study, arm, stage) if rows]
    if not logs:
        return None
    held_out = all(curve(rows, "eval_nll")[1] for rows in logs)
    prefix = "eval_" if held_out else ""
    summary: dict[str, Any] = {"source": "held-out" if held_out else "training"}
    for key in TRAIN_KEYS:
        if key == "perplexity":  # of the mean: logged perplexities are exp of single rows' NLL
            summary[key] = math.exp(summary["nll"]) if summary["nll"] is not None else None
            continue
        ends = [_end(curve(rows, prefix + key)[1], last_only=held_out) for rows in logs]
        summary[key] = mean(ends)
    return summary | _extent(logs)


def rl_summary(study: Study, arm: str, stage: str) -> dict[str, Any] | None:
    """RL of an arm, averaged over seeds: each quantity over the run and its last tenth; None without rows.

    `raw_reward` is the accuracy over all sampled completions, before groups without a signal are dropped; its
    mean over the run is the area under the learning curve.
    """
    logs = [rows for rows in stage_rows(study, arm, stage) if rows]
    if not logs:
        return None
    summary: dict[str, Any] = {}
    for key in RL_KEYS:
        values = [curve(rows, key)[1] for rows in logs]
        summary[key] = {"run": mean([mean(v) for v in values]), "end": mean([_end(v) for v in values])}
    return summary | _extent(logs)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that are there, None without any."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _end(values: list[float], *, last_only: bool = False) -> float | None:
    return mean(values[-1 if last_only else -math.ceil(len(values) * _LAST_SHARE) :]) if values else None


def _extent(logs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Steps and tokens of the longest seed: they agree unless a run has failed."""
    return {
        "seeds": len(logs),
        "steps": max(rows[-1]["step"] for rows in logs),
        "tokens": max((int(value) for rows in logs for value in curve(rows, "tokens")[1]), default=None),
    }
