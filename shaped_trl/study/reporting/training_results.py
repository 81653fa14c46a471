"""Summaries of an arm's pre-training and RL from its logs: the end and the whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from shaped_trl.study.reporting.evaluation_results import t_interval
from shaped_trl.study.reporting.reading import RegimeRuns, Rows, stages_of
from shaped_trl.study.reporting.rollout_tokens import (
    LAST_SHARE,
    TOKENS_TO,
    Reached,
    sampled,
    tokens_to,
)
from shaped_trl.training.log_reading import curve, perplexity

TRAIN_KEYS = ("nll", "entropy", "head_mass", "tail_mass", "rare_nll", "nll_source_text")
RL_KEYS = ("raw_reward", "reward", "entropy", "completion_length", "clip_ratio")


def training_summary(runs: RegimeRuns, arm: str, stage: str) -> dict[str, Any] | None:
    """The end of a train stage, averaged over seeds; None without rows.

    It contains nll and entropy (nats), perplexity, head and tail mass, and nll of rare targets, if
    they are logged. They are the held-out values of the last evaluation if the stage evaluates, and
    otherwise the mean of the last tenth of the training rows; `source` says which. With several
    seeds `over_seeds` has their mean with its 95% t interval.
    """
    ends = {key: list(by_seed.values()) for key, by_seed in training_ends(runs, arm, stage).items()}
    if not ends:
        return None
    logs = list(runs.logs[arm, stage].values())
    summary: dict[str, Any] = {"source": "held-out" if _held_out(logs) else "training"}
    summary |= {key: mean(values_S) for key, values_S in ends.items()}
    # Computed from the mean NLL, since a logged perplexity is exp of the NLL of a single row.
    summary["perplexity"] = perplexity(summary["nll"]) if summary.get("nll") is not None else None
    intervals = {
        key: t_interval(np.array(values_S)) for key, values_S in ends.items() if len(values_S) > 1
    }
    if "nll" in intervals:
        intervals["perplexity"] = {
            name: perplexity(value) for name, value in intervals["nll"].items()
        }
    return summary | _extent(logs) | ({"over_seeds": intervals} if intervals else {})


def training_differences(runs: RegimeRuns) -> list[dict[str, Any]]:
    """The ends of the arms' train stages relative to the baseline's, (own − base) / base.

    There is a row for each quantity, paired over seeds, with a 95% t interval; none if fewer than
    two seeds are in common.
    """
    study, rows = runs.study, []
    for stage in stages_of(study, "train"):
        base = training_ends(runs, study.baseline, stage)
        for arm in study.arms:
            own = training_ends(runs, arm, stage) if arm != study.baseline else {}
            for key in own.keys() & base.keys():
                both = runs.paired(own[key], (arm, stage), (study.baseline, stage))
                seeds = [seed for seed in base[key] if seed in both and base[key][seed]]
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


def training_ends(runs: RegimeRuns, arm: str, stage: str) -> dict[str, dict[int, float]]:
    """Quantity → seed → its value at the end of that seed's run, for finished runs."""
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


def nll_before(runs: RegimeRuns, arm: str, stage: str) -> float | None:
    """The relative difference in NLL between the models from which a stage starts.

    These are the arm's and the baseline's trained models. Their means are compared over the seeds
    that both have; None without such seeds.
    """
    own, base = (runs.study.trained(each, stage) for each in (arm, runs.study.baseline))
    if own is None or base is None:
        return None
    if own == base:
        return 0.0
    own_nll, base_nll = (training_ends(runs, *model).get("nll", {}) for model in (own, base))
    own_nll = runs.paired(own_nll, own, base)
    seeds = [seed for seed in base_nll if seed in own_nll]
    return sum(own_nll[s] for s in seeds) / sum(base_nll[s] for s in seeds) - 1 if seeds else None


def _held_out(logs: Iterable[Rows]) -> bool:
    return all(curve(rows, "eval_nll")[1] for rows in logs)


def rl_summary(runs: RegimeRuns, arm: str, stage: str) -> dict[str, Any] | None:
    """An arm's RL, averaged over seeds: the means over the run and over its last tenth.

    `raw_reward` is the accuracy over all sampled completions, before groups without a signal are
    dropped; its mean over the run is the area under the learning curve. With several seeds
    `over_seeds` has the means of `rl_outcomes` with their 95% t intervals. None without rows.

    If the logs count rollout tokens, `rollout_tokens` is the mean of the runs' totals, and
    `tokens_to` has the mean of `tokens_to_plateau` and the number of seeds that are censored.
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
    summary |= _extent(logs) | _tokens(runs, arm, stage)
    return summary | ({"over_seeds": intervals} if intervals else {})


def _tokens(runs: RegimeRuns, arm: str, stage: str) -> dict[str, Any]:
    totals = [sampled(rows)[1][-1:] for rows in runs.logs[arm, stage].values()]
    if not all(totals):
        return {}
    reached = {
        metric: {
            "value": mean([each.tokens for each in by_seed.values()]),
            "censored": sum(each.censored for each in by_seed.values()),
        }
        for metric, by_seed in tokens_to_plateau(runs, arm, stage).items()
    }
    tokens = {"rollout_tokens": mean([total for (total,) in totals])}
    return tokens | ({"tokens_to": reached} if reached else {})


def rl_outcomes(runs: RegimeRuns, arm: str, stage: str) -> dict[str, dict[int, float]]:
    """Metric → seed → its value over one run of RL.

    `reward` is the mean over the run (0–1), that is the area under its curve, and `reward_end` the
    mean over its last tenth. `entropy_change` and `length_change` compare the last tenth with the
    first, (last − first) / first, for the policy's entropy and the response length. `tokens_to_50`
    and `tokens_to_80` are those of `tokens_to_plateau`, which says what they count.
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
    for metric, by_seed in tokens_to_plateau(runs, arm, stage).items():
        found[metric] = {seed: reached.tokens for seed, reached in by_seed.items()}
    return found


def tokens_to_plateau(runs: RegimeRuns, arm: str, stage: str) -> dict[str, dict[int, Reached]]:
    """Metric → seed → rollout tokens until an arm has 50% or 80% of the baseline's plateau.

    The plateau is the mean raw reward over the last tenth of the baseline's run of the same seed.
    Seeds without a count of tokens, or whose baseline has no reward, are left out.
    """
    found: dict[str, dict[int, Reached]] = {}
    base = runs.logs[runs.study.baseline, stage]
    for seed, rows in runs.logs[arm, stage].items():
        plateau = _end(curve(base.get(seed, []), "raw_reward")[1])
        if not plateau:
            continue
        for metric, share in TOKENS_TO.items():
            reached = tokens_to(rows, share * plateau)
            if reached is not None:
                found.setdefault(metric, {})[seed] = reached
    return found


def _change(values: list[float]) -> float | None:
    first, last = _end(values[::-1]), _end(values)
    return last / first - 1 if first and last is not None else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _end(values: list[float], *, last_only: bool = False) -> float | None:
    return (
        mean(values[-1 if last_only else -math.ceil(len(values) * LAST_SHARE) :])
        if values
        else None
    )


def _extent(logs: list[Rows]) -> dict[str, Any]:
    """Steps and tokens of the longest seed. All seeds agree unless a run has failed."""
    return {
        "seeds": len(logs),
        "steps": max(rows[-1]["step"] for rows in logs),
        "tokens": max(
            (int(v) for rows in logs for v in curve(rows, "tokens")[1] if math.isfinite(v)),
            default=None,
        ),
    }
