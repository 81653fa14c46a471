"""The first screen of a report: one figure and one sentence for each claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shaped_eval.reporting.document import Block, Image, Items, Notes

from shaped_trl.study.reporting.claim_figure import Bar, ClaimFigure, Panel
from shaped_trl.study.reporting.claims import LEVEL, Claim, ClaimVerdict, judge_with_rows
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.wording import METRICS, effect_number, in_regime

_UNITS = {"nats": "nats", "share": "points", "relative": "points"}
_ONE_SEED = (
    "One training seed decides nothing about training: with another seed, every difference between "
    "these arms may be another one. The intervals here are over problems. They say how far other "
    "problems would move the numbers of these trained models, and nothing about other models."
)
_NO_PAIR = (
    "No two arms have two finished seeds in common yet, so that nothing here is decided about "
    "training. The intervals are over problems, for the models that are trained."
)


def claim_figure(regimes: Sequence[RegimeRuns], results: Mapping[str, Any]) -> ClaimFigure | None:
    """The differences on which the verdicts rest; None without a claim.

    There is a panel for each claim and unit, and a bar for each quantity and pair of arms. A filled
    marker is a difference with p < 0.05 after Holm's correction.
    """
    panels = [
        panel
        for claim, verdicts in _judged(regimes, results)
        for panel in _panels(claim, verdicts, results["nll_within"])
    ]
    caption = (
        "The differences behind the verdicts, with 95% intervals over seeds; filled: p < 0.05 "
        "after Holm's correction; grey: NLL that counts as equal"
    )
    return ClaimFigure("claims", caption, panels) if panels else None


def _judged(
    regimes: Sequence[RegimeRuns], results: Mapping[str, Any]
) -> Iterator[tuple[Claim, dict[str, ClaimVerdict]]]:
    """The claims of ``results["claims"]`` with the differences behind them."""
    if results["claims"]:
        yield from judge_with_rows(regimes, results["effects"])


def _panels(claim: Claim, verdicts: Mapping[str, ClaimVerdict], nll_within: float) -> list[Panel]:
    rows = [row for verdict in verdicts.values() for row in verdict.rows]
    several = _several_pairs(rows)
    words = {regime: verdict.verdict for regime, verdict in verdicts.items()}
    panels = []
    for unit in dict.fromkeys(_unit(row) for row in rows):
        scale = 1 if unit == "nats" else 100
        bars = [
            Bar(
                label=_label(row, several),
                regime=row["regime"],
                value=scale * row["value"],
                low=scale * row["low"],
                high=scale * row["high"],
                filled=row["p_corrected"] is not None and row["p_corrected"] < LEVEL,
            )
            for row in rows
            if _unit(row) == unit
        ]
        band = 100 * nll_within if unit == "%" else None
        panels.append(Panel(claim.text, unit, bars, words, band))
    return panels


def _several_pairs(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({(row["arm"], row["against"]) for row in rows}) > 1


def _unit(row: Mapping[str, Any]) -> str:
    return "%" if row["metric"] == "nll_relative" else _UNITS[row["unit"]]


def _label(row: Mapping[str, Any], several_pairs: bool) -> str:
    name = METRICS.get(row["metric"], row["metric"])
    name = f"{name}, {row['benchmark']}" if row["benchmark"] else name
    return f"{row['arm']} − {row['against']}: {name}" if several_pairs else name


def opening(
    regimes: Sequence[RegimeRuns], results: Mapping[str, Any], figure: Image | None
) -> list[Block]:
    """What a report begins with: the figure, and a sentence for each claim with its headline.

    A report without a difference over seeds begins with what a single seed cannot decide instead. A
    study with `contrasts` has a figure and sentences of its own (``results["contrasts"]``).
    """
    if not results["effects"] and any(_trained(values) for values in results["regimes"].values()):
        return [Notes([_ONE_SEED if len(results["seeds"]) == 1 else _NO_PAIR])]
    if results.get("contrasts") or figure is None:
        return []
    judged = zip(results["claims"], _judged(regimes, results), strict=True)
    sentences = [
        f"{found['text']}: {found['verdict']}; {'; '.join(_headlines(verdicts))}."
        for found, (_, verdicts) in judged
    ]
    return [figure, Items(sentences)]


def _trained(values: Mapping[str, Any]) -> bool:
    return any(arm["training"] or arm["rl"] for arm in values["arms"].values())


def _headlines(verdicts: Mapping[str, ClaimVerdict]) -> Iterator[str]:
    """The first two differences behind the verdict in each regime."""
    for regime, verdict in verdicts.items():
        several = _several_pairs(verdict.rows)
        numbers = [f"{_label(row, several)} {effect_number(row)}" for row in verdict.rows[:2]]
        yield in_regime(regime, " and ".join(numbers) or verdict.sentence)
