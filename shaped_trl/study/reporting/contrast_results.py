"""The contrasts of a study in results.json, from its finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from shaped_eval.errors import UserError
from shaped_eval.reporting.outcomes import Outcomes

from shaped_trl.study.contrasts import Contrast, Contrasts, Metric
from shaped_trl.study.power import planned_power, power_row
from shaped_trl.study.reporting.effects import UNITS, num_censored, paired_effect, seed_values
from shaped_trl.study.reporting.evaluation_results import (
    check_paired,
    t_interval,
    values_of,
)
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.rollout_tokens import TOKENS_TO
from shaped_trl.study.reporting.verdicts import Judgement, judge

PRIMARY, SECONDARY, MEAN = "primary", "secondary", "mean over regimes"
BySeed = dict[int, float]
# seed → the two arms that are compared
Pairs = dict[int, tuple[str, str]]


def contrast_content(regimes: Sequence[RegimeRuns]) -> dict[str, Any]:
    """The part of results.json on contrasts; empty for a study without any.

    The keys are: ``contrasts``, the rows of `contrast_rows`; ``contrast_claims``, the text of each
    claim; and ``power``, that of the plan (`shaped_trl.study.power.planned_power`).
    """
    study = regimes[0].study
    if study.contrasts is None:
        return {}
    return {
        "contrasts": contrast_rows(regimes),
        "contrast_claims": {name: claim.text for name, claim in study.contrasts.claims.items()},
        "power": planned_power(study),
    }


def contrast_rows(regimes: Sequence[RegimeRuns]) -> list[dict[str, Any]]:
    """The differences own − against of all contrasts, paired by seed.

    Every row has kind, regime, claim, arm, against, stage, benchmark, metric, unit, exploratory,
    seeds (their number), value, low and high (95% t interval), which are None with fewer than two
    seeds. The kinds are:

    - primary: one row for each regime and contrast, also with low90, high90, sd, p, p_holm, margin,
      verdict (None if it is not judged), power (of the observed sd: `power_row`), by_seed (seed →
      difference, if that is finite), planned (the number of seeds, while some of them are under
      way; there is no verdict before they end) and, where arms are chosen, chosen (seed → own and
      other arm).
    - secondary: one row for each secondary metric with two seeds, also with sd and, of rollout
      tokens, censored (in how many seeds an arm did not reach the reward).
    - mean over regimes: one row for each contrast, with the mean of the regimes' differences of a
      seed. It covers the seeds that all regimes have, and its regime is empty.

    Raises:
        UserError: an evaluation lacks the benchmark or metric of a contrast, has too few problems
            for its choice of arms, or differs in its problems from another arm's.
    """
    contrasts = regimes[0].study.contrasts
    assert contrasts is not None
    primary = [row for runs in regimes for row in _primary_rows(runs, contrasts)]
    secondary = [row for runs in regimes for row in _secondary_rows(runs, contrasts)]
    return [*primary, *secondary, *(_means(primary) if len(regimes) > 1 else ())]


def _primary_rows(runs: RegimeRuns, contrasts: Contrasts) -> Iterator[dict[str, Any]]:
    family = list(contrasts.each())
    pairs = [_pairs(runs, contrast, contrasts.primary) for _, contrast in family]
    differences = [
        _differences(runs, contrast, contrasts.primary, contrasts.primary, chosen)
        for (_, contrast), chosen in zip(family, pairs, strict=True)
    ]
    waits = [_under_way(runs, contrast, contrasts.primary) for _, contrast in family]
    # A verdict on the seeds so far would let one stop when it suits. A contrast that is under way
    # counts in the correction as one that is not judged, and its p is not corrected.
    counted = zip(waits, differences, strict=True)
    judged = judge(
        [[] if wait else list(by_seed.values()) for wait, by_seed in counted], contrasts.margin
    )
    for (claim, contrast), chosen, by_seed, wait, found in zip(
        family, pairs, differences, waits, judged, strict=True
    ):
        row = _labels(runs, PRIMARY, claim, contrast, contrasts.primary)
        row |= {"seeds": len(by_seed), "margin": contrasts.margin}
        shown = judge([list(by_seed.values())], contrasts.margin)[0] if wait else found
        row |= _judged(shown, contrasts.margin, len(family)) | {"by_seed": _finite(by_seed)}
        if wait:
            row |= {"p_holm": None, "verdict": None} | wait
        if contrast.choose_on is not None:
            row["chosen"] = {seed: list(arms) for seed, arms in chosen.items()}
        yield row


def _judged(found: Judgement | None, margin: float, family: int) -> dict[str, Any]:
    effect = found.effect if found else None
    return {
        "value": effect and effect.value,
        "low": effect and effect.low,
        "high": effect and effect.high,
        "low90": found and found.low90,
        "high90": found and found.high90,
        "sd": effect and effect.sd,
        "p": effect and effect.p_value,
        "p_holm": found and found.p_holm,
        "verdict": found and found.verdict,
        # Without variation there is no estimate of the power.
        "power": power_row(margin, effect.sd, effect.seeds, family)
        if effect and effect.sd
        else None,
    }


def _under_way(runs: RegimeRuns, contrast: Contrast, metric: Metric) -> dict[str, int]:
    """{"planned": the number of seeds} while a seed is still to be measured, and else nothing.

    A seed in which an arm has failed is not waited for.
    """
    arms = (*contrast.arms, *contrast.against)
    seeds = set.intersection(*(set(runs.study.seeds_of(arm)) for arm in arms))
    measured = [_measured(runs, arm, metric) for arm in arms]
    evaluated = runs.study.stages[metric.stage].command == "eval"
    done = [(runs.evaluations if evaluated else runs.logs)[each] for each in measured]
    waits = any(
        any(seed not in by_seed for by_seed in done)
        and not any(_has_failed(runs, arm, seed, stage) for arm, stage in measured)
        for seed in seeds
    )
    return {"planned": len(seeds)} if waits else {}


def _has_failed(runs: RegimeRuns, arm: str, seed: int, stage: str) -> bool:
    """Whether this run, or one that it needs, has failed."""
    return (arm, seed, stage) in runs.failures or any(
        _has_failed(runs, other, seed, needed) for other, needed in runs.study.needs(arm, stage)
    )


def _secondary_rows(runs: RegimeRuns, contrasts: Contrasts) -> Iterator[dict[str, Any]]:
    for metric in contrasts.secondary:
        if not _is_measured(runs, metric):
            continue
        for claim, contrast in contrasts.each():
            pairs = _pairs(runs, contrast, contrasts.primary)
            by_seed = _differences(runs, contrast, metric, contrasts.primary, pairs)
            if len(by_seed) > 1 and len(_finite(by_seed)) == len(by_seed):
                effect = paired_effect(list(by_seed.values()), np.zeros(len(by_seed)))
                shown = ("seeds", "value", "low", "high", "sd")
                row = _labels(runs, SECONDARY, claim, contrast, metric)
                row |= {name: getattr(effect, name) for name in shown}
                if metric.metric in TOKENS_TO:
                    compared = {seed: pairs[seed] for seed in by_seed}
                    row["censored"] = num_censored(runs, compared, metric.stage, metric.metric)
                yield row


def _is_measured(runs: RegimeRuns, metric: Metric) -> bool:
    """False of cons@n where the grader's answers cannot be voted on, which a regime may decide."""
    if not metric.metric.startswith("cons@"):
        return True
    found = [seeds for (_, stage), seeds in runs.evaluations.items() if stage == metric.stage]
    measured = [each.get(str(metric.benchmark)) for seeds in found for each in seeds.values()]
    return all(outcomes is None or outcomes.votes for outcomes in measured)


def _finite(by_seed: BySeed) -> BySeed:
    return {seed: value for seed, value in by_seed.items() if math.isfinite(value)}


def _labels(
    runs: RegimeRuns, kind: str, claim: str, contrast: Contrast, metric: Metric
) -> dict[str, Any]:
    study = runs.study
    assert study.contrasts is not None
    return {
        "kind": kind,
        "regime": study.regime,
        "claim": claim,
        "arm": contrast.arm,
        "against": contrast.other,
        "stage": metric.stage,
        "benchmark": metric.benchmark,
        "metric": metric.metric,
        "unit": UNITS.get(metric.metric, "share"),
        "exploratory": study.regime in study.contrasts.exploratory_regimes
        or any(study.arms[arm].exploratory for arm in (*contrast.arms, *contrast.against)),
    }


def _pairs(runs: RegimeRuns, contrast: Contrast, primary: Metric) -> Pairs:
    """The arms that are compared, for each seed.

    Where they are chosen, all arms of the contrast must have been measured with that seed, on one
    machine.
    """
    if contrast.choose_on is None:
        seeds = runs.study.seeds_of(contrast.arms[0])
        return dict.fromkeys(seeds, (contrast.arms[0], contrast.against[0]))
    sides = [
        {arm: _values(runs, arm, primary, slice(contrast.choose_on)) for arm in arms}
        for arms in (contrast.arms, contrast.against)
    ]
    by_arm = [by_seed for side in sides for by_seed in side.values()]
    first, *others = (_measured(runs, arm, primary) for arm in (*contrast.arms, *contrast.against))
    seeds = tuple(
        seed
        for seed in by_arm[0]
        if all(seed in by_seed for by_seed in by_arm)
        and all(runs.is_paired(seed, first, other) for other in others)
    )
    _check_choice(runs, contrast, primary, seeds)
    return {seed: (_best(sides[0], seed), _best(sides[1], seed)) for seed in seeds}


def _best(side: Mapping[str, BySeed], seed: int) -> str:
    """The arm with the largest value; of several, the one that is named first."""
    return max(side, key=lambda arm: side[arm][seed])


def _differences(
    runs: RegimeRuns, contrast: Contrast, metric: Metric, primary: Metric, pairs: Pairs
) -> BySeed:
    """Seed → own − against, where both were made on one machine.

    Problems on which arms were chosen are left out.
    """
    chosen_here = metric.benchmark == primary.benchmark and contrast.choose_on is not None
    problems = slice(contrast.choose_on, None) if chosen_here else slice(None)
    arms = dict.fromkeys(arm for pair in pairs.values() for arm in pair)
    values = {arm: _values(runs, arm, metric, problems) for arm in arms}
    _check_pairs(runs, metric, pairs)
    return {
        seed: values[own][seed] - values[other][seed]
        for seed, (own, other) in pairs.items()
        if seed in values[own]
        and seed in values[other]
        and runs.is_paired(seed, _measured(runs, own, metric), _measured(runs, other, metric))
    }


def _values(runs: RegimeRuns, arm: str, metric: Metric, problems: slice) -> BySeed:
    """Seed → an arm's value; of an evaluation, its mean over these problems if it has any."""
    if runs.study.stages[metric.stage].command != "eval":
        return seed_values(runs, arm, metric.stage).get((None, metric.metric), {})
    return {
        seed: float(values_of(outcomes, metric.metric)[problems].mean())
        for seed, outcomes in _outcomes(runs, arm, metric).items()
        if outcomes.problem_ids[problems]
    }


def _measured(runs: RegimeRuns, arm: str, metric: Metric) -> tuple[str, str]:
    """The (arm, stage) whose run measured an arm.

    It is another arm's where that evaluates the same model at the same temperature.
    """
    study = runs.study
    if study.stages[metric.stage].command == "eval" and not study.runs_stage(arm, metric.stage):
        return study.owner(arm, metric.stage)
    return arm, metric.stage


def _outcomes(runs: RegimeRuns, arm: str, metric: Metric) -> dict[int, Outcomes]:
    """Seed → the outcomes that the metric is computed from."""
    found = {}
    for seed, benchmarks in runs.evaluations[_measured(runs, arm, metric)].items():
        if metric.benchmark not in benchmarks:
            raise UserError(
                f"contrasts: {metric.stage} does not evaluate the benchmark {metric.benchmark!r}; "
                f"choose from {', '.join(benchmarks)}"
            )
        found[seed] = benchmarks[metric.benchmark]
        _check_metric(metric, found[seed])
    return found


def _check_metric(metric: Metric, outcomes: Outcomes) -> None:
    name, _, count = metric.metric.partition("@")
    n = outcomes.n
    fits = int(count) <= n if name == "pass" else int(count) == n
    if not fits or (name == "cons" and not outcomes.votes):
        votes = f", cons@{n}" if outcomes.votes else ""
        raise UserError(
            f"contrasts: {metric.metric} is not measured on {metric.benchmark}, which has {n} "
            f"samples for each problem; choose avg@{n}{votes} or pass@K with K up to {n}"
        )


def _check_choice(
    runs: RegimeRuns, contrast: Contrast, primary: Metric, seeds: Sequence[int]
) -> None:
    for seed, outcomes in _outcomes(runs, contrast.arms[0], primary).items():
        num_problems = len(outcomes.problem_ids)
        if seed in seeds and num_problems <= (contrast.choose_on or 0):
            raise UserError(
                f"contrasts: choose_on: {contrast.choose_on} leaves none of the {num_problems} "
                f"problems of {primary.benchmark} for the comparison; choose on fewer"
            )


def _check_pairs(runs: RegimeRuns, metric: Metric, pairs: Pairs) -> None:
    """Check that the two arms of each seed were evaluated on the same problems."""
    if runs.study.stages[metric.stage].command == "eval":
        for seed, arms in pairs.items():
            own, base = (_outcomes(runs, arm, metric).get(seed) for arm in arms)
            if own is not None and base is not None:
                check_paired(own, base)


def _means(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The mean over regimes of each contrast; none without two seeds that all regimes have."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["claim"], row["arm"], row["against"]), []).append(row)
    labels = ("claim", "arm", "against", "stage", "benchmark", "metric", "unit")
    for group in groups.values():
        first = group[0]
        seeds = [s for s in first["by_seed"] if all(s in row["by_seed"] for row in group)]
        if len(seeds) > 1:
            means_S = np.array([np.mean([row["by_seed"][s] for row in group]) for s in seeds])
            row = {"kind": MEAN, "regime": "", **{label: first[label] for label in labels}}
            row["exploratory"] = any(each["exploratory"] for each in group)
            yield row | {"seeds": len(seeds)} | t_interval(means_S)
