"""What the logs of pre-training and RL say about an arm: where it ended, and over the whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from shaped_trl.study.reporting.evaluation_results import t_interval
from shaped_trl.study.reporting.reading import Rows, Runs, stages_of
from shaped_trl.training.log_reading import curve

TRAIN_KEYS = ("nll", "entropy", "head_mass", "tail_mass", "rare_nll", "nll_source_text")
RL_KEYS = ("raw_reward", "reward", "entropy", "completion_length", "clip_ratio")
_LAST_SHARE = 0.1  # of a run's rows: one logged batch alone is too noisy to stand for its end


def training_summary(runs: Runs, arm: str, stage: str) -> dict[str, Any] | None:
    """Where a train stage ended, averaged over seeds; None without rows.

    nll and entropy (nats), perplexity, head and tail mass, nll of rare targets, as far as they are
    logged. Held-out values of the last evaluation if the stage evaluates, the mean of the last
    tenth of the training rows otherwise: `source` says which. With several seeds `over_seeds` has
    their mean with its 95% t interval.
    """
    ends = {key: list(by_seed.values()) for key, by_seed in training_ends(runs, arm, stage).items()}
    if not ends:
        return None
    logs = list(runs.logs[arm, stage].values())
    summary: dict[str, Any] = {"source": "held-out" if _held_out(logs) else "training"}
    summary |= {key: mean(values_S) for key, values_S in ends.items()}
    # of the mean: logged perplexities are exp of single rows' NLL
    summary["perplexity"] = math.exp(summary["nll"]) if summary.get("nll") is not None else None
    intervals = {
        key: t_interval(np.array(values_S)) for key, values_S in ends.items() if len(values_S) > 1
    }
    if "nll" in intervals:
        intervals["perplexity"] = {
            name: math.exp(value) for name, value in intervals["nll"].items()
        }
    return summary | _extent(logs) | ({"over_seeds": intervals} if intervals else {})


def training_differences(runs: Runs) -> list[dict[str, Any]]:
    """How each arm ended a train stage relative to the baseline, (own − base) / base, paired over
    seeds.

    A row for each quantity, with a 95% t interval; none with fewer than two seeds in common.
    """
    study, rows = runs.study, []
    for stage in stages_of(study, "train"):
        base = training_ends(runs, study.baseline, stage)
        for arm in study.arms:
            own = training_ends(runs, arm, stage) if arm != study.baseline else {}
            for key in own.keys() & base.keys():
                seeds = [seed for seed in base[key] if seed in own[key] and base[key][seed]]
                if len(seeds) > 1:
                    shifts_S = np.array([own[key][seed] / base[key][seed] - 1 for seed in seeds])
                    labels = {
                        "arm": arm,
                        "against": study.baseline,
                        "stage": stage,
                        "quantity": key,
                    }
                    rows.append(labels | t_interval(shifts_S) | {"seeds": len(seeds)})
    order = {key: number for number, key in enumerate(TRAIN_KEYS)}
    return sorted(
        rows,
        key=lambda row: (list(study.arms).index(row["arm"]), row["stage"], order[row["quantity"]]),
    )


def training_ends(runs: Runs, arm: str, stage: str) -> dict[str, dict[int, float]]:
    """Quantity → seed → where that seed's run, if it is done, ended."""
    logs = runs.logs[arm, stage]
    held_out = _held_out(logs.values())
    prefix = "eval_" if held_out else ""
    found: dict[str, dict[int, float]] = {}
    for key in TRAIN_KEYS if logs else ():
        for seed, rows in logs.items():
            end = _end(curve(rows, prefix + key)[1], last_only=held_out)
            if end is not None:
                found.setdefault(key, {})[seed] = end
    return found


def nll_before(runs: Runs, arm: str, stage: str) -> float | None:
    """By which share the NLL of the trained model that the arm's stage starts from differs from
    that of the baseline's, mean against mean over the seeds that both have; None without such
    seeds."""
    own, base = (runs.study.trained(each, stage) for each in (arm, runs.study.baseline))
    if own is None or base is None:
        return None
    if own == base:
        return 0.0
    own_nll, base_nll = (training_ends(runs, *model).get("nll", {}) for model in (own, base))
    seeds = [seed for seed in base_nll if seed in own_nll]
    return sum(own_nll[s] for s in seeds) / sum(base_nll[s] for s in seeds) - 1 if seeds else None


def _held_out(logs: Iterable[Rows]) -> bool:
    return all(curve(rows, "eval_nll")[1] for rows in logs)


def rl_summary(runs: Runs, arm: str, stage: str) -> dict[str, Any] | None:
    """RL of an arm, averaged over seeds: each quantity over the run and its last tenth; None
    without rows.

    `raw_reward` is the accuracy over all sampled completions, before groups without a signal are
    dropped; its mean over the run is the area under the learning curve. With several seeds
    `over_seeds` has the means of `rl_outcomes` with their 95% t intervals.
    """
    logs = list(runs.logs[arm, stage].values())
    if not logs:
        return None
    summary: dict[str, Any] = {}
    for key in RL_KEYS:
        values = [curve(rows, key)[1] for rows in logs]
        summary[key] = {
            "run": mean([mean(v) for v in values]),
            "end": mean([_end(v) for v in values]),
        }
    outcomes = rl_outcomes(runs, arm, stage)
    intervals = {
        key: t_interval(np.array(list(by_seed.values())))
        for key, by_seed in outcomes.items()
        if len(by_seed) > 1
    }
    return summary | _extent(logs) | ({"over_seeds": intervals} if intervals else {})


def rl_outcomes(runs: Runs, arm: str, stage: str) -> dict[str, dict[int, float]]:
    """Metric → seed → its value over one run of RL.

    `reward` (the mean over the run, so the area under its curve; in 0–1) and `reward_end` (of its
    last tenth); `entropy_change` and `length_change`: of the policy's entropy and the response
    length, last tenth against first, (last − first) / first.
    """
    found: dict[str, dict[int, float]] = {}
    for seed, rows in runs.logs[arm, stage].items():
        rewards, entropies, lengths = (
            curve(rows, key)[1] for key in ("raw_reward", "entropy", "completion_length")
        )
        values = {
            "reward": mean(rewards),
            "reward_end": _end(rewards),
            "entropy_change": _change(entropies),
            "length_change": _change(lengths),
        }
        for metric, value in values.items():
            if value is not None:
                found.setdefault(metric, {})[seed] = value
    return found


def _change(values: list[float]) -> float | None:
    first, last = _end(values[::-1]), _end(values)
    return last / first - 1 if first and last is not None else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that are there, None without any."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _end(values: list[float], *, last_only: bool = False) -> float | None:
    return (
        mean(values[-1 if last_only else -math.ceil(len(values) * _LAST_SHARE) :])
        if values
        else None
    )


def _extent(logs: list[Rows]) -> dict[str, Any]:
    """Steps and tokens of the longest seed: they agree unless a run has failed."""
    return {
        "seeds": len(logs),
        "steps": max(rows[-1]["step"] for rows in logs),
        "tokens": max(
            (int(value) for rows in logs for value in curve(rows, "tokens")[1]), default=None
        ),
    }
