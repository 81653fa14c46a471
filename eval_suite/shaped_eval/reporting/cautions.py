"""What a reader of a report must not miss: where its numbers mean less than they seem to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shaped_eval.grading.graders import is_current
from shaped_eval.reporting.results import Run
from shaped_eval.statistics import near_edge

FEW_PROBLEMS = 30
LOST = 0.05  # share of samples cut at the token limit, or without an answer
MANY = 5  # benchmarks, more than which are not listed where a sentence is about all of them
UNGRADED = 0.01  # share of samples on which the grader gave up

Entry = Mapping[str, Any]


def cautions(run: Run) -> list[str]:
    """Sentences about one run, each naming its benchmarks."""
    return list(_cautions(run))


def cautions_of_many(runs: Sequence[Run]) -> list[str]:
    """Sentences about several runs, each with the run it is about; then what keeps them from
    comparing."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for sentence in _cautions(run):
            about.setdefault(sentence, []).append(run.label)
    said = [
        f"{'All runs' if len(labels) == len(runs) else ', '.join(labels)}: {sentence}"
        for sentence, labels in about.items()
    ]
    limits = {run.record["settings"].get("max_new_tokens") for run in runs}
    tasks = {run.record.get("task_hash") for run in runs}
    if len(limits) > 1:
        said.append(
            "The runs have other token limits: a longer one can pass where a shorter one is cut."
        )
    if len(tasks) > 1 and None not in tasks:
        said.append(
            "The runs have other problems or prompts; only benchmarks with the same problems are paired."
        )
    return said


def _cautions(run: Run) -> Iterable[str]:
    yield from _named(
        "{}: of the suite, but left out: the mirror had no data.", run.record.get("left_out", [])
    )
    if limit := run.record["settings"].get("limit"):
        yield f"Of each benchmark only the first {limit:,} problems at most."
    if run.greedy:
        yield "Greedy decoding: one sample a problem, nothing is drawn, so there is no sampling error."
    for test, sentence in (
        (
            lambda entry: entry["problems"] < FEW_PROBLEMS,
            f"{{}}: fewer than {FEW_PROBLEMS} problems; of differences, trust p before the interval.",
        ),
        (
            _near_an_end,
            "{}: a value near 0 or 100%; its interval is the exact one there, wider than 95% needs.",
        ),
        (
            lambda entry: (entry["truncated"] or 0) > LOST,
            "{}: more than 5% of samples were cut at the token limit.",
        ),
        (
            lambda entry: entry["unparsed"] > LOST,
            "{}: more than 5% of samples gave no answer that could be read.",
        ),
    ):
        found = [name for name, entry in run.results.items() if test(entry)]
        yield from _named(
            sentence, ["all benchmarks"] if len(found) == len(run.results) > MANY else found
        )
    stale = [name for name, one in run.outcomes.items() if not all(map(is_current, one.graders))]
    yield from _named(
        "{}: graded by another version than the present one; `shaped-trl grade` grades again.",
        stale,
    )
    lost = [
        name
        for name, one in run.outcomes.items()
        if one.statuses["timeout"] + one.statuses["error"] > UNGRADED * one.num_samples
    ]
    yield from _named(
        "{}: on more than 1% of samples grading timed out or failed; they count as not passed.",
        lost,
    )


def _near_an_end(entry: Entry) -> bool:
    return any(
        near_edge(metric["value"], entry["problems"]) for metric in entry["metrics"].values()
    )


def _named(sentence: str, names: Iterable[str]) -> list[str]:
    named = ", ".join(names)
    return [sentence.format(named)] if named else []
