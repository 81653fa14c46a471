"""How tables, sentences and CSV files write the numbers of results.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from shaped_eval.reporting.tables import percent

NONE = "–"
METRICS = {
    "nll_relative": "NLL",
    "nll": "NLL",
    "reward": "reward over the run",
    "reward_end": "reward at the end",
    "entropy_change": "change of the policy's entropy",
    "length_change": "change of the response length",
    "tokens_to_50": "rollout tokens to 50% of the baseline's plateau",
    "tokens_to_80": "rollout tokens to 80% of the baseline's plateau",
}
# With which a cell of a spreadsheet begins that is a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def in_regime(regime: str, text: str) -> str:
    """The text with its regime before it, if there are several."""
    return f"{regime}: {text}" if regime else text


def number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def signed(row: Mapping[str, Any]) -> str:
    """A difference of shares with its interval, in percentage points."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(100 * row[key] for key in ("value", "low", "high"))
    )


def effect_number(row: Mapping[str, Any]) -> str:
    """A row of `effects` with its interval, in its unit: nats, tokens, % or percentage points."""
    if row["unit"] == "tokens":
        return "{:+,.0f} [{:+,.0f}, {:+,.0f}] tokens".format(
            *(row[key] for key in ("value", "low", "high"))
        )
    if row["unit"] == "nats":
        return "{:+.3f} [{:+.3f}, {:+.3f}] nats".format(
            *(row[key] for key in ("value", "low", "high"))
        )
    # A change is relative to the run's own start, so a difference of two changes is in points. A
    # difference of two NLL is relative, in percent.
    return f"{signed(row)} {'%' if row['metric'] == 'nll_relative' else 'points'}"


def censored_note(row: Mapping[str, Any]) -> str:
    """What follows a metric of rollout tokens if not all runs reached the reward."""
    if not row.get("censored"):
        return ""
    return f" (not reached in {row['censored']} of {row['seeds']} pairs)"


def plain_number(row: Mapping[str, Any], value: float) -> str:
    """A number in the unit of a row of `effects`, without a sign."""
    if row["unit"] == "tokens":
        return f"{value:,.0f} tokens"
    if row["unit"] == "nats":
        return f"{value:.3f} nats"
    return f"{100 * value:.1f} {'%' if row['metric'] == 'nll_relative' else 'points'}"


def p_text(row: Mapping[str, Any]) -> str:
    """The corrected p-value, or the uncorrected one for an exploratory arm."""
    corrected = row["p_corrected"] is not None
    p = row["p_corrected"] if corrected else row["p_value"]
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return shown if corrected else f"{shown}, not corrected"


def effect_text(row: Mapping[str, Any], *, stage: bool = False) -> str:
    """Metric, difference, interval and p; with `stage`, also where it was measured."""
    name = METRICS.get(row["metric"], row["metric"])
    places = [row["stage"], row["benchmark"]] if stage else []
    where = f" ({', '.join(place for place in places if place)})" if stage else ""
    return f"{name}{where} {effect_number(row)}, {p_text(row)}"


def interval(metric: Mapping[str, float]) -> str:
    """A value in 0–1 with its interval, in percent."""
    return f"{percent(metric['value'])} [{percent(metric['low'])}, {percent(metric['high'])}]"


def shape_text(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in shape.items()) or "cross-entropy"


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The text of a CSV file; a cell that is None is empty.

    Names in a study may be somebody else's. One that a spreadsheet would take for a formula has an
    apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return buffer.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
