"""Sentences on what a study has shown and what not, from results.json alone.

With several seeds, a difference between arms is shown if its p-value over seeds, corrected among
the confirmatory arms, is below 0.05; for an exploratory arm it is only a hint. With one seed, and
for the gains of an arm, a difference is shown if its 95% interval over problems excludes 0 and its
p-value is below 0.05 (with few problems the interval alone is too short), and if the interval over
seeds excludes 0 too, if there are several. Everything else is listed as not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from shaped_trl.study.reporting.limits import against_baseline, limits_of
from shaped_trl.study.reporting.wording import effect_text, in_regime, signed

LEVEL = 0.05
_RL_HEADLINES = ("reward", "entropy_change", "length_change")
_Sentence = tuple[str, str]  # its place ("shown", "not shown", "hint") and its text


class Findings(NamedTuple):
    shown: list[str]
    not_shown: list[str]
    hints: list[str]
    limits: list[str]


def find(results: dict[str, Any]) -> Findings:
    """Sentences from `results` (the content of results.json).

    If the study has contrasts, they alone are judged, so that no other difference is listed.
    """
    if "contrasts" in results:
        return Findings(_trained(results), [], [], limits_of(results))
    sentences = list(_between_arms(results))
    covered = {_place(row) for row in results["effects"]}
    for regime, values in results["regimes"].items():
        for rows, sentence in ((values["differences"], _difference), (values["gains"], _gain)):
            for row in _headlines(rows):
                if sentence is _gain or _place({**row, "regime": regime}) not in covered:
                    sentences.append(
                        (
                            "shown" if is_shown(row) else "not shown",
                            in_regime(regime, sentence(row)),
                        )
                    )
    parts = {
        kind: [text for place, text in sentences if place == kind]
        for kind in ("shown", "not shown", "hint")
    }
    return Findings(
        _trained(results) + parts["shown"], parts["not shown"], parts["hint"], limits_of(results)
    )


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        row[key]
        for key in ("regime", "arm", "against", "stage", "benchmark", "metric")
        if key in row
    )


def _between_arms(results: dict[str, Any]) -> Iterator[_Sentence]:
    """The differences over seeds in RL and evaluations.

    For two arms in a stage, there is one sentence on what is shown and one on what is not.
    """
    measured = [
        row
        for row in results["effects"]
        if row["unit"] != "nats" and row["metric"] != "nll_relative"
    ]
    rows = _headlines(
        [row for row in measured if row["benchmark"] or row["metric"] in _RL_HEADLINES]
    )

    def where(row: dict[str, Any]) -> str:
        text = f"{row['arm']} against {row['against']}, {row['stage']}"
        return in_regime(
            row["regime"], text + (f", {row['benchmark']}" if row["benchmark"] else "")
        )

    for place, group in groupby(rows, where):
        by_kind: dict[str, list[str]] = {}
        for row in group:
            by_kind.setdefault(_kind(row), []).append(effect_text(row))
        for kind, texts in by_kind.items():
            start = "no difference shown, " if kind == "not shown" else ""
            yield kind, f"{place}: {start}{'; '.join(texts)}"


def _kind(row: dict[str, Any]) -> str:
    if row["p_corrected"] is not None:
        return "shown" if row["p_corrected"] < LEVEL else "not shown"
    return "hint" if row["p_value"] < LEVEL else "not shown"


def is_shown(row: dict[str, Any]) -> bool:
    """Whether p-value, interval over problems and any interval over seeds show a difference."""
    intervals = [row, row["over_seeds"]] if row["over_seeds"] else [row]
    one_side = all(each["low"] > 0 for each in intervals) or all(
        each["high"] < 0 for each in intervals
    )
    return one_side and row["p_value"] < 0.05


def _headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows for sentences: of evaluations, only avg@n and the pass@k with the largest k."""
    largest: dict[str, int] = {}
    for row in rows:
        name, _, k = row["metric"].partition("@")
        if name == "pass":
            largest[row["benchmark"]] = max(int(k), largest.get(row["benchmark"], 0))
    return [
        row
        for row in rows
        if not row["metric"].startswith(("cons@", "pass@"))
        or row["metric"] == f"pass@{largest.get(row['benchmark'])}"
    ]


def _difference(row: dict[str, Any]) -> str:
    pair = f"{row['arm']} against {row['against']}"
    where = f"{pair}, {row['stage']}, {row['benchmark']}: {row['metric']}"
    if not is_shown(row):
        return f"{where} {signed(row)}{_over_seeds(row)}: no difference shown"
    return (
        f"{where} is {'higher' if row['value'] > 0 else 'lower'}, {signed(row)}{_over_seeds(row)}"
    )


def _gain(row: dict[str, Any]) -> str:
    where = f"{row['arm']}, {row['from']} → {row['stage']}, {row['benchmark']}: {row['metric']}"
    if not is_shown(row):
        return f"{where} {signed(row)}{_over_seeds(row)}: no change shown"
    return f"{where} {'rose' if row['value'] > 0 else 'fell'}, {signed(row)}{_over_seeds(row)}"


def _over_seeds(row: dict[str, Any]) -> str:
    return f" (over seeds {signed(row['over_seeds'])})" if row["over_seeds"] else ""


def _trained(results: dict[str, Any]) -> list[str]:
    """The end of each arm's training relative to the baseline, with intervals over seeds."""
    sentences = []
    for regime, values in results["regimes"].items():
        rows = {
            (row["arm"], row["stage"], row["quantity"]): row
            for row in values["training_differences"]
        }
        for arm, stage, own, base in against_baseline(results, regime):
            changes = []
            for key, name in (("entropy", "entropy"), ("nll", "NLL"), ("tail_mass", "tail mass")):
                row = rows.get((arm, stage, key))
                if row is not None:
                    changes.append(
                        f"{name} {row['value']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
                    )
                elif key != "tail_mass":
                    changes.append(f"{name} {own[key] / base[key] - 1:+.1%}")
            tried = " (exploratory)" if results["arms"][arm]["exploratory"] else ""
            tried += " on texts of its own" if results["arms"][arm]["own_data"] else ""
            pair = f"{arm}{tried} against {results['baseline']}"
            where = f"{pair}, end of {stage} ({own['source']} tokens)"
            sentences.append(in_regime(regime, f"{where}: {', '.join(changes)}"))
    return sentences
