"""Outcomes of each problem of a run: counts of passes, votes, and how samples ended.

Notation: P problems, M = n samples per problem. n is the run's, or a benchmark's own, given as
``meta["n"]`` of its problems. Files are read row by row. Neither completions nor rows are kept:
only some numbers per sample, and the distinct answers to each problem. Memory grows with the rows
that are there, and not with the n that a foreign run claims.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shaped_eval.errors import UserError
from shaped_eval.grading.graders import counts_votes
from shaped_eval.provenance import stable_hash
from shaped_eval.records import Problem, Sample, Status, Verdict, read_jsonl
from shaped_eval.statistics import Ballot, Values, cons
from shaped_eval.untrusted.rows import Row, check_field, is_count, read_object, row_of

MAX_SAMPLES = 10_000_000  # per problem
NUMBER_OF_SAMPLES = f"a whole number from 1 to {MAX_SAMPLES:,}"
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Outcomes:
    """One benchmark of one run.

    Attributes:
        problem_ids: the benchmark's problems, in the order of problems.jsonl.
        n: samples per problem.
        passes_P: the number of samples that pass, for each problem.
        ballots_P: the votes of each problem.
        statuses: the number of verdicts with each status.
        graders: the graders that made the verdicts, with their versions.
        truncated: the number of samples that the token limit cut; None for answers from elsewhere,
            of which it is not known.
        tokens: the number of generated tokens; None likewise.
        accuracy: the meaning of a pass where there are several (``acc``, ``acc_norm``, ``exact
            match``).
        drawn: whether samples are drawn at random by the run's settings; otherwise they are greedy,
            or options chosen by likelihood.
        votes: whether the grader's answers can be voted on.
        tasks_P: a hash of each problem's gold and grader.
        tokens_PM: the generated tokens of each sample; None where they are not known, as for
            answers from elsewhere, or where nothing was generated.
        passed_PM: whether each sample passes; None likewise.
        left_out: problems of an interrupted run that lack samples or verdicts; nothing else here
            counts them.
    """

    benchmark: str
    problem_ids: list[str]
    n: int
    passes_P: NDArray[np.int64]
    ballots_P: list[Ballot]
    statuses: Counter[str]
    graders: list[str]
    truncated: int | None
    tokens: int | None
    accuracy: str | None = None
    drawn: bool = True
    votes: bool = True
    tasks_P: list[str] = field(default_factory=list)
    tokens_PM: NDArray[np.int64] | None = None
    passed_PM: NDArray[np.bool_] | None = None
    left_out: int = 0

    @property
    def votes_P(self) -> Values:
        """The value of the majority vote for each problem, in 0–1."""
        return np.array([cons(ballot) for ballot in self.ballots_P])

    @property
    def num_samples(self) -> int:
        return self.n * len(self.problem_ids)


@dataclass
class _Tally:
    """What has been read of one problem. Samples and verdicts are in the order of their rows.

    Attributes:
        n: how many samples the problem should have.
        meta: the fields of the problem's `meta` that the benchmark's numbers need.
        sampled: the sample_index of each sample.
        lengths: the generated tokens of each sample.
        graded: the sample_index of each verdict.
        statuses: the status of each verdict, as an index in STATUSES.
        rivals: the votes for each answer other than gold.
    """

    benchmark: str
    n: int
    meta: dict[str, Any]
    sampled: array[int] = field(default_factory=lambda: array("i"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    graded: array[int] = field(default_factory=lambda: array("i"))
    statuses: bytearray = field(default_factory=bytearray)
    rivals: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    tokens: int = 0
    graders: set[str] = field(default_factory=set)

    def count(self, status: Status) -> int:
        return self.statuses.count(STATUSES.index(status))

    def is_complete(self) -> bool:
        """Whether there are n samples and n verdicts, if none of them occurs twice."""
        return len(self.sampled) == len(self.graded) == self.n


def read_record(folder: str | Path) -> dict[str, Any]:
    """``run.json`` of the run: its model, settings and versions.

    Raises:
        UserError: the folder holds no run, or run.json is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} is not a run's folder: it has no run.json; create a run with the "
            "command sample or grade"
        )
    return read_object(path, _check_record)


@dataclass
class _Record:
    """The fields of run.json that are read. The file has others."""

    settings: dict[str, Any]
    model: str | None = None
    model_identity: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    benchmarks: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    confinement: list[str] = field(default_factory=list)


def _check_record(record: dict[str, Any]) -> None:
    read = row_of(
        _Record, {each.name: record[each.name] for each in fields(_Record) if each.name in record}
    )
    check_field("n", read.settings.get("n"), _is_number_of_samples, NUMBER_OF_SAMPLES)


def _is_number_of_samples(value: Any) -> bool:
    return is_count(value) and 1 <= value <= MAX_SAMPLES


def read_outcomes(folder: str | Path, interrupted: bool = False) -> dict[str, Outcomes]:
    """Benchmark → outcomes, from problems.jsonl, samples.jsonl and verdicts.jsonl.

    Args:
        interrupted: leave out the problems that have not all samples and verdicts, and count them.

    Raises:
        UserError: a problem has not exactly n samples and n verdicts (if `interrupted`, none has
            them), a row belongs to no problem, or a file is missing. The message says how to
            complete the run.
    """
    folder = Path(folder)
    record = read_record(folder)
    settings = record["settings"]
    n = settings["n"]
    tallies: dict[str, _Tally] = {}
    for problem in _rows(folder / "problems.jsonl", _problem, "sample"):
        if problem.problem_id in tallies:
            raise UserError(
                f"{folder / 'problems.jsonl'}: {problem.problem_id!r} occurs twice: use another "
                "folder"
            )
        tallies[problem.problem_id] = _empty(problem, n)
    for sample in _rows(folder / "samples.jsonl", Sample, "sample"):
        tally = _tally(tallies, sample, folder / "samples.jsonl")
        tally.sampled.append(sample.sample_index)
        tally.lengths.append(sample.tokens)
        tally.truncated += sample.finish_reason == "length"
        tally.tokens += sample.tokens
    _check_once(
        {problem_id: tally.sampled for problem_id, tally in tallies.items()},
        folder / "samples.jsonl",
        "repeat the sample command, which samples that chunk again",
    )
    for verdict in _rows(folder / "verdicts.jsonl", Verdict, "grade"):
        tally = _tally(tallies, verdict, folder / "verdicts.jsonl")
        tally.graded.append(verdict.sample_index)
        tally.statuses.append(STATUSES.index(verdict.status))
        if verdict.status != "pass" and verdict.answer is not None:
            tally.rivals[verdict.answer] += 1
        tally.graders.add(verdict.grader)
    _check_once(
        {problem_id: tally.graded for problem_id, tally in tallies.items()},
        folder / "verdicts.jsonl",
        "repeat the grade command, which keeps one verdict",
    )
    left_out: Counter[str] = Counter()
    if interrupted:
        tallies, left_out = _complete_ones(tallies, folder)
    else:
        _check_complete(tallies, folder)
    benchmarks = dict.fromkeys(tally.benchmark for tally in tallies.values())
    here = "answers" not in settings
    each_counted = here and not record.get("shared_tokens")
    return {
        name: _outcomes(name, tallies, here, each_counted, left_out[name]) for name in benchmarks
    }


def _rows(path: Path, row_type: Callable[..., Row], command: str) -> Iterator[Row]:
    if not path.exists():
        raise UserError(
            f"{str(path)!r} does not exist: complete the run with the command `{command}`"
        )
    return read_jsonl(path, row_type)


def _problem(values: dict[str, Any]) -> Problem:
    """A row of problems.jsonl, with the fields of its `meta` that are read checked."""
    problem = row_of(Problem, values)
    if "n" in problem.meta:
        check_field("n", problem.meta["n"], _is_number_of_samples, NUMBER_OF_SAMPLES)
    for name in ("metric", "decoding"):
        check_field(
            name, problem.meta.get(name, ""), lambda value: isinstance(value, str), "a text"
        )
    return problem


def _empty(problem: Problem, n: int) -> _Tally:
    meta = {key: value for key, value in problem.meta.items() if key in ("n", "metric", "decoding")}
    meta["grader"] = problem.grader
    meta["task"] = stable_hash([problem.gold, problem.grader])
    return _Tally(problem.benchmark, meta.get("n", n), meta)


def _tally(tallies: dict[str, _Tally], row: Sample | Verdict, path: Path) -> _Tally:
    tally = tallies.get(row.problem_id)
    if tally is None or not 0 <= row.sample_index < tally.n:
        n = "no such problem" if tally is None else f"n={tally.n}"
        raise UserError(
            f"{path}: sample {row.sample_index} of {row.problem_id!r} does not belong to this run "
            f"({n}): the folder mixes two runs; sample into another --out"
        )
    return tally


def _check_once(indices: Mapping[str, array[int]], path: Path, remedy: str) -> None:
    """Check that no sample_index of a problem occurs twice in the rows of a file."""
    for problem_id, own in indices.items():
        if len(np.unique(own)) < len(own):
            ((sample_index, _),) = Counter(own).most_common(1)
            raise UserError(
                f"{path}: sample {sample_index} of {problem_id!r} occurs twice, as happens when "
                f"two commands run at once: {remedy}"
            )


def _check_complete(tallies: dict[str, _Tally], folder: Path) -> None:
    for problem_id, tally in tallies.items():
        n, sampled, graded = tally.n, len(tally.sampled), len(tally.graded)
        if sampled != n:
            raise UserError(
                f"{problem_id} has {sampled} of n={n} samples: repeat the sample command of "
                f"{str(folder)!r}, which completes them, then grade the run"
            )
        if graded != n:
            raise UserError(
                f"{problem_id} has {graded} of n={n} verdicts: complete them with `shaped-trl "
                f"grade {folder}`"
            )


def _complete_ones(
    tallies: dict[str, _Tally], folder: Path
) -> tuple[dict[str, _Tally], Counter[str]]:
    """The problems with all samples and verdicts, and how many others each benchmark has."""
    complete = {key: tally for key, tally in tallies.items() if tally.is_complete()}
    if tallies and not complete:
        raise UserError(
            f"interrupted=True: no problem of {str(folder)!r} has all its samples and verdicts: "
            f"grade the run first, with `shaped-trl grade {folder}`, or sample more"
        )
    others = (tally.benchmark for key, tally in tallies.items() if key not in complete)
    return complete, Counter(others)


def _outcomes(
    benchmark: str,
    tallies: dict[str, _Tally],
    sampled_here: bool,
    each_counted: bool,
    left_out: int,
) -> Outcomes:
    chosen = {key: tally for key, tally in tallies.items() if tally.benchmark == benchmark}
    first = next(iter(chosen.values()))
    n = first.n
    if any(tally.n != n for tally in chosen.values()):
        raise UserError(
            f"{benchmark}: the problems have different numbers of samples: sample into another "
            "--out"
        )
    passes = [tally.count("pass") for tally in chosen.values()]
    lengths = np.zeros((len(chosen), n), dtype=np.int64)
    statuses = np.zeros((len(chosen), n), dtype=np.uint8)
    for row, tally in enumerate(chosen.values()):
        lengths[row, tally.sampled] = tally.lengths
        statuses[row, tally.graded] = tally.statuses
    return Outcomes(
        benchmark=benchmark,
        problem_ids=list(chosen),
        n=n,
        passes_P=np.array(passes, dtype=np.int64),
        ballots_P=[
            Ballot.of(gold, tally.rivals.values(), n)
            for gold, tally in zip(passes, chosen.values(), strict=True)
        ],
        statuses=Counter(
            {status: sum(tally.count(status) for tally in chosen.values()) for status in STATUSES}
        ),
        graders=sorted(set().union(*(tally.graders for tally in chosen.values()))),
        truncated=sum(tally.truncated for tally in chosen.values()) if sampled_here else None,
        tokens=sum(tally.tokens for tally in chosen.values()) if sampled_here else None,
        accuracy=first.meta.get("metric"),
        drawn="decoding" not in first.meta,
        votes=counts_votes(first.meta["grader"]),
        tasks_P=[tally.meta["task"] for tally in chosen.values()],
        tokens_PM=lengths if each_counted and lengths.any() else None,
        passed_PM=statuses == STATUSES.index("pass") if sampled_here else None,
        left_out=left_out,
    )
