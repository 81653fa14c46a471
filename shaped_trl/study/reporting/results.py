"""The content of results.json: results of the arms by regime, differences, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from shaped_eval.reporting.outcomes import Outcomes

from shaped_trl.study.definition import HELD_OUT, Arm, Study
from shaped_trl.study.registration import read_registration, was_edited
from shaped_trl.study.reporting.by_step.curves import (
    AVERAGE,
    by_step,
    seeds_interval,
    with_averages,
)
from shaped_trl.study.reporting.claims import judge
from shaped_trl.study.reporting.contrast_results import contrast_content
from shaped_trl.study.reporting.effects import effects, seed_values
from shaped_trl.study.reporting.evaluation_results import difference, metrics_of, summarise
from shaped_trl.study.reporting.reading import (
    RegimeRuns,
    next_evaluations,
    planned,
    read_runs,
    runs_not_finite,
    stages_of,
    temperatures,
    unlike_machines,
)
from shaped_trl.study.reporting.training_results import (
    rl_summary,
    training_differences,
    training_summary,
)


def read_regimes(study: Study) -> list[RegimeRuns]:
    """The finished runs of each regime."""
    return [read_runs(view) for view in study.each_regime()]


def collect(regimes: Sequence[RegimeRuns], pass_at: Sequence[int] | None = None) -> dict[str, Any]:
    """The content of results.json.

    Raises:
        UserError: evaluations cannot be compared, or a k is above the number of samples.
    """
    study = regimes[0].study
    planned_runs = [(runs, run) for runs in regimes for run in planned(runs.study)]
    found = effects(regimes, pass_at)
    unlike = [each for runs in regimes for each in unlike_machines(runs)]
    not_finite = [each for runs in regimes for each in runs_not_finite(runs)]
    registered = [asdict(row) for row in read_registration(study.out)]
    for row in registered:
        del row["settings_sha256"], row["source_sha256"]  # only the next start needs them
    return {
        "study": study.name,
        "baseline": study.baseline,
        "nll_within": study.nll_within,
        "seeds": list(study.seeds),
        "failed": {
            runs.study.key(*run): runs.failures[run]
            for runs, run in planned_runs
            if run in runs.failures
        },
        "incomplete": [
            runs.study.key(*run) for runs, run in planned_runs if run not in runs.records
        ],
        "settings": _settings(regimes),
        "made_with": _made_with(regimes),
        **({"unlike_machines": unlike} if unlike else {}),
        **({"not_finite": not_finite} if not_finite else {}),
        "table_metrics": _table_metrics(regimes, pass_at),
        "arms": {name: _definition(study, name, arm) for name, arm in study.arms.items()},
        "regimes": {runs.study.regime: _regime(runs, pass_at) for runs in regimes},
        "effects": found,
        "claims": [] if study.contrasts else judge(regimes, found),
        **contrast_content(regimes),
        **({"registration": registered} if registered else {}),
        **({"study_edited": True} if was_edited(study.out) else {}),
    }


def _definition(study: Study, name: str, arm: Arm) -> dict[str, Any]:
    matched = {"matched_on": arm.matched_on} if arm.matched_on != HELD_OUT else {}
    divided = {"head_divided": True} if arm.head_divided else {}
    there = {"shape_in": arm.shape_in} if arm.shape_in else {}
    return {
        "shape": arm.shape,
        "checkpoint_of": arm.checkpoint_of,
        "temperature": arm.temperature,
        "entropy_of": arm.entropy_of,
        "own_data": bool(arm.prepare),
        "exploratory": arm.exploratory,
        "seeds": list(study.seeds_of(name)),
        **matched,
        **divided,
        **there,
    }


def _regime(runs: RegimeRuns, pass_at: Sequence[int] | None) -> dict[str, Any]:
    return {
        "arms": {arm: _arm(runs, arm, pass_at) for arm in runs.study.arms},
        "training_differences": training_differences(runs),
        "differences": _differences(runs, pass_at),
        "gains": _gains(runs, pass_at),
        "temperatures": temperatures(runs),
    }


def _arm(runs: RegimeRuns, arm: str, pass_at: Sequence[int] | None) -> dict[str, Any]:
    study = runs.study
    training = {stage: training_summary(runs, arm, stage) for stage in stages_of(study, "train")}
    rl = {stage: rl_summary(runs, arm, stage) for stage in stages_of(study, "rlvr")}
    for stage, summary in [*training.items(), *rl.items()]:
        if summary and (steps := by_step(runs, arm, stage)):
            summary["by_step"] = steps
    evaluated = {}
    for stage in stages_of(study, "eval"):
        by_seed = list(runs.evaluations[arm, stage].values())
        if by_seed:
            names = list(by_seed[0])
            evaluated[stage] = {
                name: summarise([each[name] for each in by_seed], pass_at) for name in names
            }
    stages = dict.fromkeys(stage for name, _, stage in planned(study) if name == arm)
    return {
        "training": {stage: summary for stage, summary in training.items() if summary},
        "rl": {stage: summary for stage, summary in rl.items() if summary},
        "evaluations": evaluated,
        **_averages(runs, arm, pass_at),
        "seconds": {stage: _seconds(runs, arm, stage) for stage in stages},
    }


def _averages(
    runs: RegimeRuns, arm: str, pass_at: Sequence[int] | None
) -> dict[str, dict[str, Any]]:
    """{"averages": stage → average over benchmarks → metric → interval over seeds}.

    The averages are those of `with_averages`. With one seed, there is only the value. Empty if no
    evaluation has several benchmarks.
    """
    found: dict[str, Any] = {}
    for stage in stages_of(runs.study, "eval"):
        by_metric: dict[str, dict[int, dict[str, float]]] = {}
        for (benchmark, metric), by_seed in seed_values(runs, arm, stage, pass_at).items():
            for seed, value in by_seed.items():
                by_metric.setdefault(metric, {}).setdefault(seed, {})[str(benchmark)] = value
        for metric, seeds in by_metric.items():
            averaged = [with_averages(values) for values in seeds.values()]
            for name in averaged[0]:
                if name.startswith(AVERAGE) and all(name in each for each in averaged):
                    values_S = np.array([each[name] for each in averaged])
                    own = found.setdefault(stage, {}).setdefault(name, {})
                    own[metric] = seeds_interval(values_S)
    return {"averages": found} if found else {}


def _seconds(runs: RegimeRuns, arm: str, stage: str) -> list[dict[str, Any]]:
    """Wall seconds, CPU seconds and the last attempt of each finished seed."""
    outcomes = [
        kept["outcome"]
        for (own, _, name), kept in runs.records.items()
        if (own, name) == (arm, stage)
    ]
    return [
        {key: outcome[key] for key in ("wall_seconds", "cpu_seconds", "attempt")}
        for outcome in outcomes
    ]


def _table_metrics(
    regimes: Sequence[RegimeRuns], pass_at: Sequence[int] | None
) -> dict[str, list[str]]:
    """The metrics of each benchmark that tables show."""
    found = [
        run for runs in regimes for by_seed in runs.evaluations.values() for run in by_seed.values()
    ]
    metrics: dict[str, dict[str, None]] = {}  # ordered; stages may have another n
    for run in found:
        for name, each in run.items():
            metrics.setdefault(name, {}).update(dict.fromkeys(metrics_of(each, pass_at)))
    return {name: list(each) for name, each in metrics.items()}


def _differences(runs: RegimeRuns, pass_at: Sequence[int] | None) -> list[dict[str, Any]]:
    study, evaluations, rows = runs.study, runs.evaluations, []
    for stage in stages_of(study, "eval"):
        for arm in study.arms:
            if arm != study.baseline:
                labels = {"arm": arm, "against": study.baseline, "stage": stage}
                base = study.baseline, stage
                own = runs.paired(evaluations[arm, stage], (arm, stage), base)
                rows += _compare(evaluations[base], own, labels, pass_at)
    return rows


def _gains(runs: RegimeRuns, pass_at: Sequence[int] | None) -> list[dict[str, Any]]:
    """The gain of each arm from one evaluation to the next of a model trained further.

    Both are at the same temperature: otherwise the gain would be that of decoding. A benchmark of
    which the two stages have other problems or another n is left out.
    """
    study, evaluations, rows = runs.study, runs.evaluations, []
    for before, after in next_evaluations(study):
        for arm in study.arms:
            labels = {"arm": arm, "from": before, "stage": after}
            own = runs.paired(evaluations[arm, after], (arm, after), (arm, before))
            base = evaluations[arm, before]
            alike = {seed: _alike(own[seed], base[seed]) for seed in own if seed in base}
            rows += _compare(base, alike, labels, pass_at)
    return rows


def _alike(own: dict[str, Outcomes], base: dict[str, Outcomes]) -> dict[str, Outcomes]:
    """The benchmarks that have the same problems and n in both."""
    return {
        name: each
        for name, each in own.items()
        if name in base and (each.problem_ids, each.n) == (base[name].problem_ids, base[name].n)
    }


def _compare(
    a: dict[int, dict[str, Outcomes]],
    b: dict[int, dict[str, Outcomes]],
    labels: dict[str, str],
    pass_at: Sequence[int] | None,
) -> list[dict[str, Any]]:
    rows = []
    shared = [name for name in next(iter(a.values()), {}) if name in next(iter(b.values()), {})]
    for name in shared:
        a_seeds, b_seeds = (
            {seed: each[name] for seed, each in side.items() if name in each} for side in (a, b)
        )
        for metric in metrics_of(next(iter(a_seeds.values())), pass_at):
            # pass@1 is the same as avg@n
            row = difference(a_seeds, b_seeds, metric) if metric != "pass@1" else None
            if row is not None:
                rows.append({**labels, "benchmark": name, "metric": metric, **row})
    return rows


def _settings(regimes: Sequence[RegimeRuns]) -> dict[str, Any]:
    """How each evaluation stage sampled.

    Since arms may have their own temperature, this is the baseline's if it is done.
    """
    settings: dict[str, Any] = {}
    for stage in stages_of(regimes[0].study, "eval"):
        done = [
            runs.records[arm, seed, stage]["evaluation"]["run"]
            for runs in regimes
            for arm in (runs.study.baseline, *runs.study.arms)
            for seed in runs.evaluations[arm, stage]
        ]
        for record in done[:1]:
            settings[stage] = {**record["settings"], "device": record.get("device")}
    return settings


def _made_with(regimes: Sequence[RegimeRuns]) -> list[dict[str, Any]]:
    """{"commit", "versions", "runs"} for each commit and set of packages of finished runs."""
    found: dict[str, dict[str, Any]] = {}
    for outcome in (kept["outcome"] for runs in regimes for kept in runs.records.values()):
        made = {key: outcome.get(key) for key in ("commit", "versions")}
        found.setdefault(json.dumps(made, sort_keys=True), {**made, "runs": 0})["runs"] += 1
    return sorted(found.values(), key=lambda each: -each["runs"])
