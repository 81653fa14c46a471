"""What the logs of pre-training and RL say about an arm: where it ended, and over the whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from shaped_trl.study.definition import Study
from shaped_trl.study.evaluation_results import t_interval
from shaped_trl.study.logs import RL_LOG, TRAIN_LOG, curve, read_log
from shaped_trl.study.state import DONE

TRAIN_KEYS = ("nll", "entropy", "head_mass", "tail_mass", "rare_nll")
RL_KEYS = ("raw_reward", "reward", "entropy", "completion_length", "clip_ratio")
_LAST_SHARE = 0.1  # of a run's rows: one logged batch alone is too noisy to stand for its end


def stages_of(study: Study, command: str) -> list[str]:
    """The study's stages of one command, in order."""
    return [name for name, stage in study.stages.items() if stage.command == command]


def stage_rows(study: Study, arm: str, stage: str) -> list[list[dict[str, Any]]]:
    """The log of a train or rlvr stage, for each seed whose run is done."""
    name = TRAIN_LOG if study.stages[stage].command == "train" else RL_LOG
    logs = [read_log(study.folder(arm, seed, stage) / name) for seed in _done_seeds(study, arm, stage)]
    if name == RL_LOG:
        for row in (row for rows in logs for row in rows):
            # Without dynamic sampling every group is kept, and the two are one.
            row.setdefault("raw_reward", row.get("reward"))
    return logs


def _done_seeds(study: Study, arm: str, stage: str) -> list[int]:
    return [seed for seed in study.seeds if (study.folder(arm, seed, stage) / DONE).exists()]


def training_summary(study: Study, arm: str, stage: str) -> dict[str, Any] | None:
    """Where a train stage ended, averaged over seeds; None without rows.

    nll and entropy (nats), perplexity, head and tail mass, nll of rare targets, as far as they are logged. Held-out
    values of the last evaluation if the stage evaluates, the mean of the last tenth of the training rows otherwise:
    `source` says which. With several seeds `over_seeds` has their mean with its 95% t interval.
    """
    ends = {key: list(by_seed.values()) for key, by_seed in _ends(study, arm, stage).items()}
    if not ends:
        return None
    logs = [rows for rows in stage_rows(study, arm, stage) if rows]
    summary: dict[str, Any] = {"source": "held-out" if _held_out(logs) else "training"}
    summary |= {key: mean(values_S) for key, values_S in ends.items()}
    # of the mean: logged perplexities are exp of single rows' NLL
    summary["perplexity"] = math.exp(summary["nll"]) if summary.get("nll") is not None else None
    intervals = {key: t_interval(np.array(values_S)) for key, values_S in ends.items() if len(values_S) > 1}
    if "nll" in intervals:
        intervals["perplexity"] = {name: math.exp(value) for name, value in intervals["nll"].items()}
    return summary | _extent(logs) | ({"over_seeds": intervals} if intervals else {})


def training_differences(study: Study) -> list[dict[str, Any]]:
    """How each arm ended a train stage relative to the baseline, (own − base) / base, paired over seeds.

    A row for each quantity, with a 95% t interval; none with fewer than two seeds in common.
    """
    rows = []
    for stage in stages_of(study, "train"):
        base = _ends(study, study.baseline, stage)
        for arm in study.arms:
            own = _ends(study, arm, stage) if arm != study.baseline else {}
            for key in own.keys() & base.keys():
                seeds = [seed for seed in base[key] if seed in own[key] and base[key][seed]]
                if len(seeds) > 1:
                    shifts_S = np.array([own[key][seed] / base[key][seed] - 1 for seed in seeds])
                    labels = {"arm": arm, "against": study.baseline, "stage": stage, "quantity": key}
                    rows.append(labels | t_interval(shifts_S) | {"seeds": len(seeds)})
    order = {key: number for number, key in enumerate(TRAIN_KEYS)}
    return sorted(rows, key=lambda row: (list(study.arms).index(row["arm"]), row["stage"], order[row["quantity"]]))


def _ends(study: Study, arm: str, stage: str) -> dict[str, dict[int, float]]:
    """Quantity → seed → where that seed's run, if it is done, ended."""
    logs = dict(zip(_done_seeds(study, arm, stage), stage_rows(study, arm, stage), strict=True))
    logs = {seed: rows for seed, rows in logs.items() if rows}
    held_out = _held_out(logs.values())
    prefix = "eval_" if held_out else ""
    found: dict[str, dict[int, float]] = {}
    for key in TRAIN_KEYS if logs else ():
        for seed, rows in logs.items():
            end = _end(curve(rows, prefix + key)[1], last_only=held_out)
            if end is not None:
                found.setdefault(key, {})[seed] = end
    return found


def _held_out(logs: Iterable[list[dict[str, Any]]]) -> bool:
    return all(curve(rows, "eval_nll")[1] for rows in logs)


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
