"""Checks of the lines of records.jsonl, which may be somebody else's or damaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.untrusted.rows import MOST, check_field, is_count, row_of

# In a column of a log. Null says that the row has no value; the log itself has null for both.
NOT_FINITE = "NaN"


@dataclass
class _Finished:
    """The fields of a record of a run that is done. One of the last three is its content."""

    outcome: dict[str, Any]
    version: int = 1
    log: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    found: dict[str, Any] | None = None


@dataclass
class _Failed:
    why: str
    fingerprint: str | None = None


@dataclass
class _Evaluated:
    """The fields of a benchmark in a record, as in `Outcomes`, without passes and ballots."""

    benchmark: str
    problem_ids: list[str]
    n: int
    statuses: dict[str, Any]
    graders: list[str]
    truncated: int | None
    tokens: int | None
    accuracy: str | None = None
    drawn: bool = True
    votes: bool = True
    tasks_P: list[str] = field(default_factory=list)


def checked(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The key and the record of a line.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type. The message names it.
    """
    record = dict(row)
    key = record.pop("key", None)
    check_field("key", key, lambda value: isinstance(value, str), "a text")
    if "why" in record:
        row_of(_Failed, record)
        return key, record
    finished = row_of(_Finished, record)
    _check_outcome(finished.outcome)
    contents = [
        name for name in ("log", "evaluation", "found") if getattr(finished, name) is not None
    ]
    check_field("contents", contents, lambda names: len(names) == 1, "log, evaluation or found")
    if finished.log is not None:
        _check_log(finished.log)
    if finished.found is not None:
        check_field("temperature", finished.found.get("temperature"), _is_finite, "a number")
    if finished.evaluation is not None:
        _check_evaluation(finished.evaluation)
    return key, record


def _check_outcome(outcome: dict[str, Any]) -> None:
    for name in ("wall_seconds", "cpu_seconds"):
        check_field(name, outcome.get(name), _is_finite, "a number")
    check_field("attempt", outcome.get("attempt"), is_count, "a whole number")
    for name in ("fingerprint", "commit"):
        check_field(name, outcome.get(name, ""), _is_text_or_none, "a text, or null")
    check_field("versions", outcome.get("versions", {}), _is_flat, "an object of texts")
    # In earlier records, it is the kind of the processor only, such as x86_64.
    machine = outcome.get("machine", "")
    if not isinstance(machine, str):
        check_field("machine", machine, _is_machine, "an object of texts and numbers")


def _check_log(log: dict[str, Any]) -> None:
    columns = list(log.values())
    for name, values in log.items():
        check_field(name, values, _is_column, "a list of numbers")
    if len({len(values) for values in columns}) > 1:
        raise ValueError("the columns of its log are not equally long")
    if columns:
        check_field("step", log.get("step"), _are_steps, "a list of whole numbers from 0")


def _check_evaluation(evaluation: dict[str, Any]) -> None:
    for name in ("run", "outcomes"):
        check_field(name, evaluation.get(name), _is_object, "an object")
    check_field("outcomes", evaluation["outcomes"], bool, "at least one benchmark")
    check_field("settings", evaluation["run"].get("settings"), _is_object, "an object")
    for name, plain in evaluation["outcomes"].items():
        check_field(name, plain, _is_object, "an object")
        _check_benchmark(plain)


def _check_benchmark(plain: dict[str, Any]) -> None:
    # Imported here, since it imports scipy, for which the process of a run would wait.
    from shaped_eval.reporting.outcomes import MAX_SAMPLES

    named = {name: value for name, value in plain.items() if name not in ("passes_P", "ballots_P")}
    rest = row_of(_Evaluated, named)
    check_field("n", rest.n, lambda n: 1 <= n <= MAX_SAMPLES, f"from 1 to {MAX_SAMPLES:,}")
    check_field("statuses", list(rest.statuses.values()), _are_counts, "an object of counts")
    for name in ("passes_P", "ballots_P"):
        values = plain.get(name)
        if not isinstance(values, list) or len(values) != len(rest.problem_ids):
            raise ValueError(f"it does not have one value of {name} for each problem")
    passes_P, ballots_P = plain["passes_P"], plain["ballots_P"]
    fit = _are_counts(passes_P) and all(passes <= rest.n for passes in passes_P)
    check_field("passes_P", passes_P, lambda _: fit, "counts up to n")
    fit = all(_is_ballot(ballot, rest.n) for ballot in ballots_P)
    check_field("ballots_P", ballots_P, lambda _: fit, "votes of up to n samples")


def _is_ballot(ballot: Any, n: int) -> bool:
    """Whether it is [votes for gold, [[votes, number of rivals], ...], without an answer]."""
    if not isinstance(ballot, list) or len(ballot) != 3 or not isinstance(ballot[1], list):
        return False
    gold, pairs, silent = ballot
    if not all(isinstance(pair, list) and len(pair) == 2 and _are_counts(pair) for pair in pairs):
        return False
    # Each rival has votes; otherwise, their number would have no bound.
    return (
        _are_counts([gold, silent])
        and all(votes > 0 for votes, _ in pairs)
        and gold + silent + sum(votes * rivals for votes, rivals in pairs) <= n
    )


def _are_counts(values: list[Any]) -> bool:
    return all(map(is_count, values))


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_number(value: Any) -> bool:
    # A larger whole number may be too large for a float.
    return type(value) is float or (type(value) is int and abs(value) <= MOST)


def _is_column(values: Any) -> bool:
    return isinstance(values, list) and all(
        value is None or value == NOT_FINITE or _is_number(value) for value in values
    )


def _are_steps(values: Any) -> bool:
    return isinstance(values, list) and _are_counts(values)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text_or_none, value.values()))


def _is_machine(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, str | int) or each is None or _is_flat(each) for each in value.values()
    )
