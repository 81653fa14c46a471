"""Warnings for the reader of a report, where its numbers mean less than they seem to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shaped_eval.benchmarks.terms import MANY_SAMPLES, SMALL_SET
from shaped_eval.grading.graders import is_current
from shaped_eval.reporting.contamination import published_before
from shaped_eval.reporting.results import GradedRun
from shaped_eval.statistics import near_edge

FEW_PROBLEMS = 30
LOST = 0.05  # share of samples cut at the token limit or without an answer
MANY = (
    5  # where a warning is about all benchmarks and there are more than this, they are not listed
)
UNGRADED = 0.01  # share of samples on which the grader gave up

Entry = Mapping[str, Any]


def cautions(run: GradedRun) -> list[str]:
    """The warnings about one run, each naming the benchmarks that it is about."""
    return list(_cautions(run))


def cautions_of_many(runs: Sequence[GradedRun]) -> list[str]:
    """The warnings about several runs, each naming its runs, then what makes the runs differ."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for sentence in _cautions(run):
            about.setdefault(sentence, []).append(run.label)
    sentences = [
        f"{'All runs' if len(labels) == len(runs) else ', '.join(labels)}: {sentence}"
        for sentence, labels in about.items()
    ]
    limits = {run.record["settings"].get("max_new_tokens") for run in runs}
    # a run from before dtypes were recorded may have had any
    samplers = [
        (run.record["settings"].get("backend"), run.record["settings"].get("sampler"))
        for run in runs
    ]
    dtypes = [run.record.get("dtype") for run in runs if run.record.get("dtype") is not None]
    tasks = {run.record.get("task_hash") for run in runs}
    if len(limits) > 1:
        sentences.append(
            "The runs have different token limits: a sample can pass under the larger limit that "
            "is cut under the smaller one."
        )
    if len({str(sampler) for backend, sampler in samplers if backend == "transformers"}) > 1:
        sentences.append(
            "The runs' samples were drawn by different versions of the sampler: the same seed gave "
            "other random numbers, so that differences hold the noise of both."
        )
    if len(set(map(str, dtypes))) > 1:
        sentences.append(
            "The runs have weights of different dtypes: samples differ by rounding, even those of "
            "the same checkpoint."
        )
    if len(tasks) > 1 and None not in tasks:
        sentences.append(
            "The runs have different problems or prompts; only benchmarks with the same problems "
            "are paired."
        )
    return sentences


def _cautions(run: GradedRun) -> Iterable[str]:
    yield from _named(
        "{}: part of the suite, but left out, because its data was not at hand.",
        run.record.get("left_out", []),
    )
    for name, one in run.outcomes.items():
        if one.left_out:
            yield (
                f"{name}: the run was interrupted. {one.left_out:,} of "
                f"{one.left_out + len(one.problem_ids):,} problems lack samples or verdicts and "
                "are left out. Longer prompts are sampled first, so the others are not a random "
                "part."
            )
    if limit := run.record["settings"].get("limit"):
        yield f"At most the first {limit:,} problems of each benchmark are used."
    if since := run.record["settings"].get("since"):
        yield f"Of benchmarks with dates, only problems from {since} on are used."
    for name, (before, count) in published_before(run.folder, run.record).items():
        cutoff = run.record["model_cutoff"]
        yield (
            f"{name}: {before:,} of {count:,} problems were published up to {cutoff}, the last day "
            "of the model's training data. It may have seen them; --since leaves them out."
        )
    if run.greedy:
        yield (
            "Greedy decoding: each problem has one sample and nothing is drawn, so there is no "
            "sampling error."
        )
    for test, sentence in (
        (
            lambda entry: entry["problems"] < FEW_PROBLEMS,
            f"{{}}: fewer than {FEW_PROBLEMS} problems; for differences, rely on the p-value "
            "rather than on the interval.",
        ),
        (
            lambda entry: (
                entry["problems"] < SMALL_SET and not run.greedy and 1 < entry["n"] < MANY_SAMPLES
            ),
            f"{{}}: fewer than {SMALL_SET} problems and fewer than {MANY_SAMPLES} samples of each; "
            f"with --n {MANY_SAMPLES} or more the values depend less on chance.",
        ),
        (
            _near_an_end,
            "{}: a value is near 0 or 100%; its interval there is the exact one, which is "
            "wider than necessary for 95% coverage.",
        ),
        (
            lambda entry: (entry["truncated"] or 0) > LOST,
            "{}: more than 5% of samples were cut at the token limit.",
        ),
        (
            lambda entry: entry["unparsed"] > LOST,
            "{}: no answer could be extracted from more than 5% of samples.",
        ),
    ):
        found = [name for name, entry in run.results.items() if test(entry)]
        yield from _named(
            sentence, ["all benchmarks"] if len(found) == len(run.results) > MANY else found
        )
    stale = [name for name, one in run.outcomes.items() if not all(map(is_current, one.graders))]
    yield from _named(
        "{}: graded by another version of the grader than the installed one; `shaped-trl "
        "grade` grades it again.",
        stale,
    )
    lost = [
        name
        for name, one in run.outcomes.items()
        if one.statuses["timeout"] + one.statuses["error"] > UNGRADED * one.num_samples
    ]
    yield from _named(
        "{}: grading timed out or failed on more than 1% of samples; they count as not passed.",
        lost,
    )


def _near_an_end(entry: Entry) -> bool:
    return any(
        near_edge(metric["value"], entry["problems"]) for metric in entry["metrics"].values()
    )


def _named(sentence: str, names: Iterable[str]) -> list[str]:
    named = ", ".join(names)
    return [sentence.format(named)] if named else []
