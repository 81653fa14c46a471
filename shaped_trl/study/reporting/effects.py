"""Differences between arms, paired by seed, with intervals, corrected p-values and power.

Notation: S seeds. With the same seed, two arms have the same initialisation, data and prompts, so
that the difference of their values is one draw. Student's t compares S of them with 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from shaped_eval.statistics import CONFIDENCE
from shaped_eval.statistics.multiple import holm
from shaped_kernels import RewardShape

from shaped_trl.study.definition import Study
from shaped_trl.study.reporting.evaluation_results import check_paired, metrics_of, values_of
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.rollout_tokens import TOKENS_TO
from shaped_trl.study.reporting.training_results import (
    rl_outcomes,
    tokens_to_plateau,
    training_ends,
)

POWER = 0.8
UNITS = {
    "entropy": "nats",
    "nll": "nats",
    "nll_relative": "relative",
    "reward": "share",
    "reward_end": "share",
}
UNITS |= {"entropy_change": "relative", "length_change": "relative"}
UNITS |= dict.fromkeys(TOKENS_TO, "tokens")
FORMS = ("exponent", "product")  # the forms of β
_ROUNDING_DIGITS = 12

Values = dict[tuple[str | None, str], dict[int, float]]  # (benchmark, metric) → seed → value


@dataclass(frozen=True)
class PairedEffect:
    """The mean of own − base over S seeds, with its 95% t interval and two-sided p.

    sd: standard deviation of the differences.
    minimum_effect: the difference that as many seeds with this standard deviation find in 80% of
        cases at the two-sided 5% level, (t_{.975, S−1} + t_{.8, S−1})·sd/√S. The exact one has
        the noncentral t instead of the second quantile. At this value its power is 0.80 with 8
        seeds, 0.78 with 4, 0.77 with 3 and 0.73 with 2.
    """

    seeds: int
    value: float
    low: float
    high: float
    sd: float
    p_value: float
    minimum_effect: float


def paired_effect(own_S: ArrayLike, base_S: ArrayLike) -> PairedEffect:
    """The paired t test of two arms' values [S], seed by seed.

    If all differences are equal, as can happen with counts, the t statistic has a zero denominator.
    In this case p is that of the sign-flip test, 2^(1−S), or 1 if all are 0.

    Raises:
        ValueError: there are fewer than 2 seeds, the two arms have different numbers of values, or
            a value is not finite.
    """
    own, base = np.asarray(own_S, dtype=np.float64), np.asarray(base_S, dtype=np.float64)
    if own.shape != base.shape or own.ndim != 1 or len(own) < 2:
        raise ValueError(
            f"values of shapes {own.shape} and {base.shape}: a pair needs the same 2 or more seeds"
        )
    if not np.isfinite([own, base]).all():
        raise ValueError("a value is not a finite number, so there is no difference to test")
    # Rounded, so that equal differences are equal in spite of floating-point errors.
    shifts_S = np.round(own - base, _ROUNDING_DIGITS)
    seeds, value = len(shifts_S), float(shifts_S.mean())
    sd = float(shifts_S.std(ddof=1)) if np.ptp(shifts_S) else 0.0
    error = sd / np.sqrt(seeds)
    beyond, reach = stats.t.ppf([0.5 + CONFIDENCE / 2, POWER], seeds - 1)
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(value) / error, seeds - 1))
    else:
        p_value = 2.0 ** (1 - seeds) if value else 1.0
    return PairedEffect(
        seeds=seeds,
        value=value,
        low=float(value - beyond * error),
        high=float(value + beyond * error),
        sd=sd,
        p_value=p_value,
        minimum_effect=float((beyond + reach) * error),
    )


def effects(
    regimes: Sequence[RegimeRuns], pass_at: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One row for each regime, stage, metric and pair of arms with two or more common seeds.

    A row has regime, arm, against, stage, benchmark (None except for evaluations), metric and unit,
    the fields of `PairedEffect`, `p_corrected` and `exploratory`. The units are nats; share (0–1);
    and relative, which is relative to the baseline's value or, for entropy_change and length_change
    in RL, to the run's own start. A row on rollout tokens (unit tokens) also has `censored`, the
    number of its seeds in which either arm did not get there.

    Holm's correction covers all pairs without an exploratory arm within one regime, stage,
    benchmark and metric; for other rows `p_corrected` is None.
    """
    rows = [row for runs in regimes for row in _rows(runs, pass_at)]
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if not row["exploratory"]:
            family = tuple(row[key] for key in ("regime", "stage", "benchmark", "metric"))
            families.setdefault(family, []).append(row)
    for family_rows in families.values():
        for row, p_value in zip(
            family_rows, holm([row["p_value"] for row in family_rows]), strict=True
        ):
            row["p_corrected"] = p_value
    return rows


def _rows(runs: RegimeRuns, pass_at: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    study = runs.study
    for stage, spec in study.stages.items():
        for arm, against in comparisons(study, spec.command):
            _check_evaluations(runs, arm, against, stage)
            own, base = (seed_values(runs, each, stage, pass_at) for each in (arm, against))
            own = {
                key: runs.paired(by_seed, (arm, stage), (against, stage))
                for key, by_seed in own.items()
            }
            for key in own:
                row = _row(own, base, key)
                if row is None:
                    continue
                exploratory = any(study.arms[each].exploratory for each in (arm, against))
                labels: dict[str, Any] = {
                    "regime": study.regime,
                    "arm": arm,
                    "against": against,
                    "stage": stage,
                }
                labels |= {
                    "benchmark": key[0],
                    "metric": key[1],
                    "unit": UNITS.get(key[1], "share"),
                }
                if key[1] in TOKENS_TO:
                    pair = dict.fromkeys(own[key].keys() & base.get(key, {}).keys(), (arm, against))
                    labels["censored"] = num_censored(runs, pair, stage, key[1])
                yield labels | row | {"p_corrected": None, "exploratory": exploratory}


def num_censored(
    runs: RegimeRuns, pairs: Mapping[int, tuple[str, str]], stage: str, metric: str
) -> int:
    """In how many seeds an arm of the seed's pair did not reach the reward."""
    arms = dict.fromkeys(arm for pair in pairs.values() for arm in pair)
    reached = {arm: tokens_to_plateau(runs, arm, stage)[metric] for arm in arms}
    return sum(any(reached[arm][seed].censored for arm in pair) for seed, pair in pairs.items())


def _row(own: Values, base: Values, key: tuple[str | None, str]) -> dict[str, Any] | None:
    relative = key[1] == "nll_relative"
    seeds = [seed for seed in base.get(key, {}) if seed in own[key]]
    if len(seeds) < 2 or (relative and not all(base[key][seed] for seed in seeds)):
        return None
    own_S, base_S = (np.array([each[key][seed] for seed in seeds]) for each in (own, base))
    if not np.isfinite([own_S, base_S]).all():  # a run diverged, which the limits name
        return None
    return asdict(
        paired_effect(own_S / base_S, np.ones(len(seeds)))
        if relative
        else paired_effect(own_S, base_S)
    )


def comparisons(study: Study, command: str) -> list[tuple[str, str]]:
    """The pairs (arm, against) that are compared in the stages of a command.

    These are every arm against the baseline; an arm against the control that has its entropy by
    temperature alone; and in training, arms whose β are neighbours.
    """
    pairs = [(arm, study.baseline) for arm in study.arms if arm != study.baseline]
    pairs += [
        (own.entropy_of, arm)
        for arm, own in study.arms.items()
        if own.entropy_of and arm != study.baseline
    ]
    if command == "train":
        for form in FORMS:
            ordered = ordered_by_beta(study, form)
            pairs += zip(ordered[1:], ordered[:-1], strict=True)
    known: list[tuple[str, str]] = []
    for arm, against in pairs:
        if arm != against and (arm, against) not in known and (against, arm) not in known:
            known.append((arm, against))
    return known


def by_shape_alone(study: Study) -> list[str]:
    """The confirmatory arms with their own models that differ from the baseline only by shape."""
    return [
        name
        for name, arm in study.arms.items()
        if name != study.baseline
        and not (arm.exploratory or arm.checkpoint_of or arm.prepare or arm.args)
    ]


def ordered_by_beta(study: Study, form: str) -> list[str]:
    """The baseline and the arms of `by_shape_alone` that differ in β alone, ordered by β.

    Only this form of β counts, and there is one arm for each β.
    """
    arms: dict[float, str] = {}
    for arm in (study.baseline, *by_shape_alone(study)):
        shape = shape_of(study, arm)
        if is_beta_alone(shape) and shape.form_of_beta in (None, form):
            arms.setdefault(shape.beta, arm)
    return [arms[beta] for beta in sorted(arms)]


def shape_of(study: Study, arm: str) -> RewardShape:
    return RewardShape(**study.arms[arm].shape)


def is_beta_alone(shape: RewardShape) -> bool:
    """Whether the shape is cross-entropy or differs from it in β alone."""
    alone = not shape.lambda_head and not shape.lambda_tail and shape.loss_temperature == 1
    return shape.positive in FORMS and alone


def seed_values(
    runs: RegimeRuns, arm: str, stage: str, pass_at: Sequence[int] | None = None
) -> Values:
    """The values by which an arm's finished runs of a stage are compared."""
    command = runs.study.stages[stage].command
    if command == "train":
        ends = training_ends(runs, arm, stage)
        named = {
            "entropy": ends.get("entropy"),
            "nll": ends.get("nll"),
            "nll_relative": ends.get("nll"),
        }
        return {(None, metric): by_seed for metric, by_seed in named.items() if by_seed}
    if command == "rlvr":
        return {
            (None, metric): by_seed for metric, by_seed in rl_outcomes(runs, arm, stage).items()
        }
    values: Values = {}
    for seed, benchmarks in runs.evaluations[arm, stage].items():
        for name, outcomes in benchmarks.items():
            for metric in metrics_of(outcomes, pass_at):
                if metric != "pass@1":  # pass@1 is the same as avg@n
                    values.setdefault((name, metric), {})[seed] = float(
                        values_of(outcomes, metric).mean()
                    )
    return values


def _check_evaluations(runs: RegimeRuns, arm: str, against: str, stage: str) -> None:
    by_seed = [runs.evaluations.get((each, stage), {}) for each in (arm, against)]
    for seed in by_seed[0].keys() & by_seed[1].keys():
        for name in by_seed[0][seed].keys() & by_seed[1][seed].keys():
            check_paired(*(each[seed][name] for each in by_seed))
