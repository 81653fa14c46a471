"""Reads the key `contrasts` of a study file, and checks it against the plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shaped_eval.benchmarks.own import name_of
from shaped_eval.benchmarks.suites import named_benchmarks
from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import shortened

from shaped_trl.study.checks import (
    at_least_one,
    check_keys,
    check_kinds,
    mapping,
    positive,
    share,
)
from shaped_trl.study.contrasts import Claim, Contrast, Contrasts, Metric
from shaped_trl.study.definition import ONE_REGIME, Study
from shaped_trl.study.plan import StudyRun

_EVALUATED = re.compile(r"(avg|cons|pass)@[1-9][0-9]{0,7}")
# command → the metrics of its logs (`shaped_trl.study.reporting.training_results`)
LOGGED = {
    "train": ("nll", "entropy"),
    "rlvr": (
        "reward",
        "reward_end",
        "entropy_change",
        "length_change",
        "tokens_to_50",
        "tokens_to_80",
    ),
}
HIGHER_IS_BETTER = ("reward", "reward_end")  # of them; a verdict needs to know what is better
_REQUIRED = ("primary", "margin", "claims")


def read_contrasts(value: Any, study: Study) -> Contrasts | None:
    """The contrasts of a study; None if its file has none.

    Args:
        value: the value of the key.
        study: the study, whose arms, stages and regimes the contrasts name.

    Raises:
        UserError: a key is unknown or missing, a value is of the wrong type or out of range, or an
            arm, stage or regime does not exist.
    """
    if value is None:
        return None
    values = mapping("contrasts", value)
    allowed = (*_REQUIRED, "secondary", "exploratory_regimes", "sd")
    check_keys("contrasts", values, allowed, required=_REQUIRED)
    primary = _metric("contrasts.primary", values["primary"], study)
    is_evaluated = study.stages[primary.stage].command == "eval"
    if not is_evaluated and primary.metric not in HIGHER_IS_BETTER:
        raise UserError(
            f"contrasts.primary.metric: {primary.metric!r}; a verdict needs a metric of which more "
            f"is better: one of an eval stage, or {' or '.join(HIGHER_IS_BETTER)}"
        )
    return Contrasts(
        primary=primary,
        margin=share("contrasts.margin", values["margin"]),
        claims=_claims(values["claims"], study, is_evaluated),
        secondary=tuple(
            _metric(f"contrasts.secondary[{number}]", each, study)
            for number, each in enumerate(_list("contrasts.secondary", values.get("secondary")))
        ),
        exploratory_regimes=_regimes(values.get("exploratory_regimes"), study),
        sd=_deviations(values.get("sd"), study),
    )


def check_measured(contrasts: Contrasts | None, runs: Sequence[StudyRun]) -> None:
    """Check that the evaluations of a plan measure what the contrasts need.

    These are the benchmark and the number of samples. A recipe that leaves out `n` is not checked,
    nor is a metric @1, since some benchmarks have one sample whatever `n` is.

    Raises:
        UserError: a stage has another n, or does not have the benchmark.
    """
    for metric in (contrasts.primary, *contrasts.secondary) if contrasts else ():
        _check_benchmark(metric, runs)
        name, _, count = metric.metric.partition("@")
        numbers = {run.settings.get("n") for run in runs if run.stage == metric.stage}
        for n in numbers if count not in ("", "1") else ():
            wrong = isinstance(n, int) and (int(count) > n if name == "pass" else int(count) != n)
            if wrong:
                raise UserError(
                    f"contrasts: {metric.metric}: {metric.stage} draws n={n} samples for each "
                    f"problem; choose avg@{n}, cons@{n} or pass@K with K up to {n}"
                )


def _check_benchmark(metric: Metric, runs: Sequence[StudyRun]) -> None:
    for run in runs:
        given, suite = (run.settings.get(name) for name in ("benchmarks", "suite"))
        if run.stage == metric.stage and metric.benchmark and (given or suite):
            names = [name_of(name) for name in named_benchmarks(str(given or ""), suite)]
            if metric.benchmark not in names:
                raise UserError(
                    f"contrasts: {metric.stage} does not evaluate the benchmark "
                    f"{metric.benchmark!r}; choose from {', '.join(names)}"
                )


def _metric(where: str, value: Any, study: Study) -> Metric:
    values = mapping(where, value)
    check_keys(where, values, ("stage", "benchmark", "metric"), required=("stage", "metric"))
    check_kinds(f"{where}.", values, stage=str, benchmark=str, metric=str)
    metric = Metric(**values)
    if metric.stage not in study.stages:
        raise UserError(
            f"{where}.stage: {metric.stage!r} is not a stage; choose from {', '.join(study.stages)}"
        )
    command = study.stages[metric.stage].command
    if command == "eval":
        if metric.benchmark is None:
            raise UserError(f"{where}.benchmark: missing; name a benchmark of {metric.stage}")
        known = bool(_EVALUATED.fullmatch(metric.metric or ""))
    else:
        if metric.benchmark is not None:
            raise UserError(
                f"{where}.benchmark: {metric.stage} is {command} and has no benchmarks; leave it "
                "out"
            )
        known = metric.metric in LOGGED[command]
    if not known:
        choices = ", ".join(LOGGED.get(command, ("avg@N", "cons@N", "pass@K")))
        raise UserError(f"{where}.metric: {metric.metric!r}; choose one of {choices}")
    return metric


def _claims(value: Any, study: Study, is_evaluated: bool) -> dict[str, Claim]:
    claims: dict[str, Claim] = {}
    for name, each in mapping("contrasts.claims", value).items():
        if not isinstance(name, str):
            raise UserError(f"contrasts.claims: {shortened(name)}; give each claim a name")
        where = f"contrasts.claims.{name}"
        values = mapping(where, each)
        check_keys(where, values, ("text", "compare"), required=("text", "compare"))
        text = values["text"]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}.text: {shortened(text)}; give a sentence")
        compare = tuple(
            _contrast(f"{where}.compare[{number}]", pair, study, is_evaluated)
            for number, pair in enumerate(_list(f"{where}.compare", values["compare"]))
        )
        if not compare:
            raise UserError(f"{where}.compare: give at least one pair of arms")
        claims[name] = Claim(" ".join(text.split()).rstrip("."), compare)
    if not claims:
        raise UserError("contrasts.claims: give at least one claim")
    _check_each_once(claims)
    return claims


def _contrast(where: str, value: Any, study: Study, is_evaluated: bool) -> Contrast:
    values = mapping(where, value)
    check_keys(where, values, ("arm", "against", "choose_on"), required=("arm", "against"))
    arms = _arms(f"{where}.arm", values["arm"], study)
    against = _arms(f"{where}.against", values["against"], study)
    both = sorted({*arms} & {*against})
    if both:
        raise UserError(f"{where}: {', '.join(both)} would be compared with itself")
    choose_on = values.get("choose_on")
    several = len(arms) > 1 or len(against) > 1
    if several and choose_on is None:
        raise UserError(
            f"{where}.choose_on: missing; give the number of problems on which the best arm is "
            "chosen"
        )
    if not several and choose_on is not None:
        raise UserError(f"{where}.choose_on: there is one arm on each side; leave it out")
    if several and not is_evaluated:
        raise UserError(
            f"{where}.choose_on: the primary metric is not of an eval stage and has no problems to "
            "choose on; give one arm on each side"
        )
    if several:
        at_least_one(f"{where}.choose_on", choose_on)
    if len(arms) != len(against):
        # The best of more arms is better by chance: with 3 against 1 equal arms of 8 seeds, the
        # verdict would be "better" in a fifth of studies.
        raise UserError(
            f"{where}: {len(arms)} against {len(against)} arms; give as many on each side, since "
            "the best of more arms is better by chance"
        )
    return Contrast(arms, against, choose_on)


def _arms(where: str, value: Any, study: Study) -> tuple[str, ...]:
    arms = value if isinstance(value, list) else [value]
    if not arms or any(arms.count(arm) > 1 for arm in arms):
        raise UserError(f"{where}: {shortened(value)}; give an arm, or a list of distinct arms")
    for arm in arms:
        if not isinstance(arm, str) or arm not in study.arms:
            raise UserError(
                f"{where}: {shortened(arm)} is not an arm; choose from {', '.join(study.arms)}"
            )
    return tuple(arms)


def _check_each_once(claims: dict[str, Claim]) -> None:
    """Refuse a contrast that is named twice, since it would count twice in the correction."""
    seen: dict[frozenset[frozenset[str]], str] = {}
    for name, claim in claims.items():
        for number, contrast in enumerate(claim.compare):
            where = f"contrasts.claims.{name}.compare[{number}]"
            pair = frozenset((frozenset(contrast.arms), frozenset(contrast.against)))
            first = seen.setdefault(pair, where)
            if first != where:
                raise UserError(f"{where}: {first} compares the same arms; name them once")


def _regimes(value: Any, study: Study) -> tuple[str, ...]:
    names = _list("contrasts.exploratory_regimes", value)
    for name in names:
        if not isinstance(name, str) or name not in study.regimes:
            raise UserError(
                f"contrasts.exploratory_regimes: {shortened(name)} is not a regime; choose from "
                f"{', '.join(study.regimes) or 'none'}"
            )
    return tuple(dict.fromkeys(names))


def _deviations(value: Any, study: Study) -> dict[str, float]:
    """Regime → standard deviation; a study without regimes gives one number."""
    if value is None:
        return {}
    if not study.regimes:
        positive("contrasts.sd", value)
        return {ONE_REGIME: value}
    values = mapping("contrasts.sd", value)
    check_keys("contrasts.sd", values, tuple(study.regimes))
    for regime, each in values.items():
        positive(f"contrasts.sd.{regime}", each)
    return values


def _list(where: str, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: {shortened(value)} is not a list; write `- ` before each entry")
    return value or []
