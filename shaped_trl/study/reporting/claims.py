"""A verdict on each claim of the paper (arXiv 2512.22955), from differences paired by seed.

"shown" and "refuted" need differences whose p-value, corrected among all confirmatory arms (Holm),
is below 5%; everything else is "not resolved". A claim about several quantities is shown if all of
them show it. It is refuted if one contradicts it at 5% divided by their number (Bonferroni) and
none shows it. An arm takes part in a claim by its shape, and only if it is not exploratory and
differs from the baseline in nothing else. A claim about RL needs arms that were trained alike:
their held-out NLL before RL may differ from the baseline's by at most the study's `nll_within`,
since otherwise RL would compare how well they have learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from shaped_trl.study.definition import Study
from shaped_trl.study.reporting.effects import (
    FORMS,
    by_shape_alone,
    is_beta_alone,
    ordered_by_beta,
    shape_of,
)
from shaped_trl.study.reporting.reading import RegimeRuns, stages_of
from shaped_trl.study.reporting.training_results import nll_before
from shaped_trl.study.reporting.wording import effect_text

SHOWN, REFUTED, NOT_RESOLVED = "shown", "refuted", "not resolved"
LEVEL = 0.05

Effects = Sequence[dict[str, Any]]


class ClaimVerdict(NamedTuple):
    """A verdict, a sentence with its reasons, and the rows of `effects` that it is about."""

    verdict: str
    sentence: str
    rows: Effects = ()

    def words(self) -> dict[str, str]:
        return {"verdict": self.verdict, "sentence": self.sentence}


def judge(regimes: Sequence[RegimeRuns], effects: Effects) -> list[dict[str, Any]]:
    """Judge the claims that the study has arms for.

    Each is {"claim", "text", "arms", "verdict", "sentence", "regimes": {regime: {"verdict",
    "sentence"}}}.

    A claim is left out if no regime has two seeds of all its arms. The overall verdict is that of
    the regimes if they agree, and otherwise "not resolved".
    """
    found = []
    for claim, verdicts in judge_with_rows(regimes, effects):
        labels = {"claim": claim.name, "text": claim.text, "arms": list(claim.arms)}
        each = {regime: verdict.words() for regime, verdict in verdicts.items()}
        found.append(labels | _overall(verdicts).words() | {"regimes": each})
    return found


def judge_with_rows(
    regimes: Sequence[RegimeRuns], effects: Effects
) -> Iterator[tuple[Claim, dict[str, ClaimVerdict]]]:
    """Yield each claim of `judge` with its verdict in each regime."""
    for claim in _claims(regimes[0].study):
        by_regime = {runs.study.regime: _judged(claim, runs, effects) for runs in regimes}
        if any(verdict is not None for verdict in by_regime.values()):
            missing = ClaimVerdict(NOT_RESOLVED, "fewer than two seeds of these arms are done")
            yield claim, {regime: verdict or missing for regime, verdict in by_regime.items()}


class Claim(NamedTuple):
    """A claim. `judge` gets the runs and effects of one regime; None if they are not enough."""

    name: str
    text: str
    arms: tuple[str, ...]
    judge: Callable[[RegimeRuns, Effects], ClaimVerdict | None]


def _judged(claim: Claim, runs: RegimeRuns, effects: Effects) -> ClaimVerdict | None:
    return claim.judge(runs, [row for row in effects if row["regime"] == runs.study.regime])


def _overall(verdicts: dict[str, ClaimVerdict]) -> ClaimVerdict:
    words = [verdict.verdict for verdict in verdicts.values()]
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    listed = ", ".join(f"{verdict.verdict} in {regime}" for regime, verdict in verdicts.items())
    if len(set(words)) == 1:
        return ClaimVerdict(words[0], f"the regimes agree: {listed}")
    both = SHOWN in words and REFUTED in words
    return ClaimVerdict(
        NOT_RESOLVED,
        f"{'it depends on the regime' if both else 'not the same in every regime'}: {listed}",
    )


def _claims(study: Study) -> list[Claim]:
    """The paper's claims that the study has arms for, one for each arm that it concerns."""
    base = study.baseline
    claims = []
    for form in FORMS:
        ordered = ordered_by_beta(study, form)
        if len(ordered) > 1:
            text = f"Entropy is ordered by β at equal perplexity ({' < '.join(ordered)})"
            claims.append(Claim("entropy_order", text, tuple(ordered), _entropy_order(ordered)))
    for arm in by_shape_alone(study):
        shape = shape_of(study, arm)
        if is_beta_alone(shape) and shape.beta < 0:
            text = f"A precision prior gives better RL ({arm} against {base})"
            claims.append(Claim("precision_rl", text, (arm, base), _better_rl(arm, base)))
            for control in _controls(study, arm):
                text = (
                    "A shape does more for RL than a temperature of the same entropy "
                    f"({arm} against {control})"
                )
                claims.append(
                    Claim("shape_or_temperature", text, (arm, control), _better_rl(arm, control))
                )
    for arm in by_shape_alone(study):
        shape = shape_of(study, arm)
        plain = shape.weight_is_one and shape.loss_temperature == 1
        if shape.lambda_tail < 0 and not shape.lambda_head and plain:
            text = f"Tail suppression helps RL ({arm} against {base})"
            claims.append(Claim("tail_suppression", text, (arm, base), _better_rl(arm, base)))
    for arm in by_shape_alone(study):
        shape = shape_of(study, arm)
        if is_beta_alone(shape) and shape.beta > 0:
            text = f"High entropy collapses during RL and shortens responses ({arm} against {base})"
            claims.append(Claim("entropy_collapse", text, (arm, base), _collapse(arm, base)))
    return claims


def _controls(study: Study, arm: str) -> list[str]:
    """The arms with the baseline's model at the temperature that gives the arm's entropy."""
    return [
        name
        for name, own in study.arms.items()
        if own.entropy_of == arm
        and own.checkpoint_of == study.baseline
        and not (own.exploratory or own.args)
    ]


def _entropy_order(ordered: Sequence[str]) -> Callable[[RegimeRuns, Effects], ClaimVerdict | None]:
    """Each step in β raises the entropy, and the NLL of no arm differs.

    The last train stage with all these numbers counts.
    """

    def judged(runs: RegimeRuns, effects: Effects) -> ClaimVerdict | None:
        study = runs.study
        for stage in reversed(stages_of(study, "train")):
            here = [row for row in effects if row["stage"] == stage]
            steps = [_find(here, arm, against, "entropy") for against, arm in pairwise(ordered)]
            others = [arm for arm in ordered if arm != study.baseline]
            nll = [_find(here, arm, study.baseline, "nll_relative") for arm in others]
            if not any(row is None for row in [*steps, *nll]):
                present = [row for row in [*steps, *nll] if row is not None]
                return _ordered(present[: len(steps)], present[len(steps) :], study.nll_within)
        return None

    return judged


def _ordered(steps: Effects, nll: Effects, within: float) -> ClaimVerdict:
    rows = [*steps, *nll]
    numbers = "; ".join(
        f"{row['arm']} against {row['against']}: {effect_text(row)}" for row in rows
    )
    apart = [row["arm"] for row in nll if not (-within <= row["low"] and row["high"] <= within)]
    if apart:
        because = (
            f"perplexity is not equal, the NLL of {', '.join(apart)} may differ by more than "
            f"{within:.0%}"
        )
        return ClaimVerdict(NOT_RESOLVED, f"{because}: {numbers}", rows)
    for sign, verdict, words in (
        (1, SHOWN, "entropy rises with β"),
        (-1, REFUTED, "entropy falls as β rises"),
    ):
        if all(_significant(row, sign) for row in steps):
            return ClaimVerdict(verdict, f"{words}, NLL within ±{within:.0%}: {numbers}", rows)
    return ClaimVerdict(
        NOT_RESOLVED, f"not every step in β shows, NLL within ±{within:.0%}: {numbers}", rows
    )


def _better_rl(arm: str, against: str) -> Callable[[RegimeRuns, Effects], ClaimVerdict | None]:
    """The area under the reward curve and avg@n of each benchmark after RL are both higher."""

    def judged(runs: RegimeRuns, effects: Effects) -> ClaimVerdict | None:
        stage = _last_rl(runs.study, arm, against)
        if stage is None:
            return None
        reward = [
            row
            for row in _pair(effects, arm, against)
            if (row["stage"], row["metric"]) == (stage, "reward")
        ]
        after = _evaluation_after(runs.study, stage, arm, against)
        average = [
            row
            for row in _pair(effects, arm, against)
            if row["stage"] == after and row["metric"].startswith("avg@")
        ]
        return _directed(runs, stage, (reward, average), 1, ("higher", "lower"))

    return judged


def _collapse(arm: str, against: str) -> Callable[[RegimeRuns, Effects], ClaimVerdict | None]:
    """The policy's entropy and the response length both fall over RL, relative to the baseline."""

    def judged(runs: RegimeRuns, effects: Effects) -> ClaimVerdict | None:
        stage = _last_rl(runs.study, arm, against)
        here = [row for row in _pair(effects, arm, against) if row["stage"] == stage]
        parts = [
            [row for row in here if row["metric"] == name]
            for name in ("entropy_change", "length_change")
        ]
        return _directed(runs, stage, parts, -1, ("lower", "higher")) if stage else None

    return judged


def _directed(
    runs: RegimeRuns, stage: str, parts: Sequence[Effects], sign: int, words: tuple[str, str]
) -> ClaimVerdict | None:
    """Judge a claim that all differences have this sign.

    It is shown if all of them have. It is refuted if one has the other sign, with a correction for
    their number, and none has this sign.

    Args:
        runs: the finished runs of a regime.
        stage: the stage before which the arms have to be alike.
        parts: the differences of each quantity in the claim; a part without any cannot be shown.
        sign: the sign that the claim predicts.
        words: how the sentence calls a difference with this sign, and one with the other.
    """
    rows = [row for part in parts for row in part]
    if not rows:
        return None
    numbers = "; ".join(effect_text(row, stage=True) for row in rows) + f" ({_seeds(rows)} seeds)"
    if apart := _not_alike(runs, stage, (rows[0]["arm"], rows[0]["against"])):
        return ClaimVerdict(NOT_RESOLVED, f"not trained alike ({apart}): {numbers}", rows)
    for_it = [_significant(row, sign) for row in rows]
    against_it = [_significant(row, -sign) for row in rows]
    if all(for_it) and all(parts):
        return ClaimVerdict(SHOWN, f"all {words[0]}: {numbers}", rows)
    if any(_significant(row, -sign, LEVEL / len(rows)) for row in rows) and not any(for_it):
        how_many = "all" if all(against_it) else f"{sum(against_it)} of {len(rows)}"
        return ClaimVerdict(REFUTED, f"{how_many} {words[1]}, none {words[0]}: {numbers}", rows)
    if not all(parts):
        return ClaimVerdict(
            NOT_RESOLVED, f"a part of what is claimed was not measured: {numbers}", rows
        )
    how_many = f"{sum(for_it)} of {len(rows)} {words[0]}, {sum(against_it)} {words[1]}"
    return ClaimVerdict(NOT_RESOLVED, f"{how_many}: {numbers}", rows)


def _seeds(rows: Effects) -> str:
    least, most = (end(row["seeds"] for row in rows) for end in (min, max))
    return str(most) if least == most else f"{least} to {most}"


def _not_alike(runs: RegimeRuns, stage: str, arms: Sequence[str]) -> str:
    """The arms whose NLL before this stage differs from the baseline's; empty if there are none."""
    apart = []
    for arm in arms:
        shift = nll_before(runs, arm, stage)
        if shift is None or not math.isfinite(shift):
            apart.append(f"NLL of {arm} unknown")
        elif abs(shift) > runs.study.nll_within:
            apart.append(f"NLL of {arm} {shift:+.1%}")
    return ", ".join(apart)


def _last_rl(study: Study, *arms: str) -> str | None:
    stages = [s for s in stages_of(study, "rlvr") if all(study.runs_stage(arm, s) for arm in arms)]
    return stages[-1] if stages else None


def _evaluation_after(study: Study, stage: str, *arms: str) -> str | None:
    """The last evaluation of the models that this stage has trained."""
    stages = [
        s
        for s in stages_of(study, "eval")
        if all(study.runs_stage(arm, s) and study.start(arm, s) == (arm, stage) for arm in arms)
    ]
    return stages[-1] if stages else None


def _pair(effects: Effects, arm: str, against: str) -> list[dict[str, Any]]:
    return [row for row in effects if (row["arm"], row["against"]) == (arm, against)]


def _find(effects: Effects, arm: str, against: str, metric: str) -> dict[str, Any] | None:
    """The row of a pair, with its sign turned if it is listed the other way round."""
    for row in effects:
        if row["metric"] == metric and (row["arm"], row["against"]) == (arm, against):
            return row
        if row["metric"] == metric and (row["arm"], row["against"]) == (against, arm):
            turned = {"value": -row["value"], "low": -row["high"], "high": -row["low"]}
            return row | turned | {"arm": arm, "against": against}
    return None


def _significant(row: dict[str, Any], sign: int, level: float = LEVEL) -> bool:
    return row["p_corrected"] is not None and row["p_corrected"] < level and row["value"] * sign > 0
