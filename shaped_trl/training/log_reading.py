"""Reading a run's log. If a resumed run has repeated a step, its last row counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shaped_eval.records import read_jsonl
from shaped_eval.untrusted.rows import check_field, is_count

TRAIN_LOG = "train_log.jsonl"
RL_LOG = "rl_log.jsonl"


def with_step(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself.

    Raises:
        ValueError: the row does not name its step.
    """
    check_field("step", row.get("step"), is_count, "a whole number from 0")
    return row


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log in the order of their steps; none if the log does not exist.

    Rows of the same step are merged, such as those of training and evaluation. If a value is
    repeated, the last one counts.
    """
    if not path.exists():
        return []
    by_step: dict[int, dict[str, Any]] = {}
    for row in read_jsonl(path, with_step):
        by_step.setdefault(row["step"], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def perplexity(nll: float) -> float:
    """exp of a mean NLL in nats, infinite where a float does not hold it."""
    try:
        return math.exp(nll)
    except OverflowError:  # a run diverged
        return math.inf


def curve(rows: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column, at the steps where it was logged."""
    logged = [(int(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
    return [step for step, _ in logged], [value for _, value in logged]
