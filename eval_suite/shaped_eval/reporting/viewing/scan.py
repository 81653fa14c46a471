"""Reading a run's files once, into a `RunIndex`."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shaped_eval.errors import UserError
from shaped_eval.grading.graders import counts_votes
from shaped_eval.records import FinishReason, Place, Problem, Sample, Verdict, read_jsonl_places
from shaped_eval.reporting.examples import common_start, prompt_text
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.reporting.results import run_labels
from shaped_eval.reporting.viewing.index import (
    AGREEMENTS,
    UNGRADED,
    VERDICTS,
    Numbers,
    Rows,
    RunIndex,
)

_MAJORITY, _MINORITY, _NONE = range(len(AGREEMENTS))
_NO_VOTE = 0
# a row as this package writes it; a quotation mark inside the completion has a backslash
_SAMPLE = re.compile(
    rb'\{"problem_id": "([ !#-[\]-~]*)", "sample_index": (\d{1,9}), "completion": "(?s:.*)", '
    rb'"finish_reason": "(stop|length)", "tokens": (\d{1,9})\}\n'
)
_MOST_INDEX = 2**31  # sample_index is below it, as in a run that can be graded


@contextmanager
def read_indices(folders: Sequence[str | Path]) -> Iterator[list[RunIndex]]:
    """The indices of runs, whose files are closed at the end of the block.

    Raises:
        UserError: a folder is given twice, holds no run, or has a row that does not belong to it.
    """
    opened: list[RunIndex] = []
    try:
        for folder, label in zip(folders, run_labels(folders), strict=True):
            opened.append(_read_index(Path(folder), label))
        yield opened
    finally:
        for index in opened:
            index.close()


def _read_index(folder: Path, label: str) -> RunIndex:
    record = read_record(folder)
    for name in ("problems.jsonl", "samples.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} has no {name}: sample into it first")
    problems = _Problems(folder / "problems.jsonl")
    counts_tokens = "answers" not in record["settings"]
    samples = _Samples(folder / "samples.jsonl", problems, counts_tokens)
    verdicts = _Verdicts(folder / "verdicts.jsonl", problems)
    problem_S, index_S = np.divmod(samples.key_S, _MOST_INDEX)
    verdict_S, status_S, vote_S = verdicts.of(samples.key_S)
    same_S, agreement_S = _agreement(problem_S, vote_S)
    rows = Rows(
        problem_S=problem_S,
        index_S=index_S,
        place_S=samples.place_S,
        verdict_S=verdict_S,
        length_S=samples.length_S,
        truncated_S=samples.truncated_S,
        status_S=status_S,
        same_S=same_S,
        agreement_S=agreement_S,
    )
    names = ("problems.jsonl", "samples.jsonl", "verdicts.jsonl")
    return RunIndex(
        label=label,
        folder=folder,
        record=record,
        unit="tokens" if counts_tokens else "characters",
        problem_ids=list(problems.numbers),
        benchmarks=problems.benchmarks,
        starts=problems.starts,
        rows=rows,
        first_P=np.searchsorted(problem_S, np.arange(len(problems.numbers) + 1)),
        _problem_places=problems.places,
        _files={name: open(folder / name, "rb") for name in names if (folder / name).is_file()},
    )


class _Problems:
    """Ids, benchmarks and places of the problems; `votes` says whose answers can be voted on."""

    def __init__(self, path: Path) -> None:
        self.numbers: dict[str, int] = {}
        self.benchmarks: list[str] = []
        self.places: list[Place] = []
        self.votes: list[bool] = []
        self.starts = common_start(self._prompts(path))

    def _prompts(self, path: Path) -> Iterator[tuple[str, str]]:
        votes = cache(counts_votes)
        for place, problem in read_jsonl_places(path, Problem):
            if problem.problem_id in self.numbers:
                raise UserError(f"{path}: {problem.problem_id!r} occurs twice: use another folder")
            self.numbers[problem.problem_id] = len(self.numbers)
            self.benchmarks.append(problem.benchmark)
            self.places.append(place)
            self.votes.append(votes(problem.grader))
            yield problem.benchmark, prompt_text(problem.prompt)

    def key(self, row: Sample | Verdict, path: Path) -> int:
        """A number for a sample: its problem's number times `_MOST_INDEX`, plus sample_index."""
        number = self.numbers.get(row.problem_id)
        if number is None or row.sample_index >= _MOST_INDEX:
            raise UserError(
                f"{path}: sample {row.sample_index} of {row.problem_id!r} does not belong to this "
                "run: the folder mixes two runs; sample into another --out"
            )
        return number * _MOST_INDEX + row.sample_index


class _Samples:
    """The samples in ascending order of their keys, the first one of each key."""

    def __init__(self, path: Path, problems: _Problems, counts_tokens: bool) -> None:
        keys, places, lengths, truncated = array("q"), array("q"), array("q"), bytearray()
        quick = _without_completion if counts_tokens else _parsed
        for place, sample in read_jsonl_places(path, Sample, quick):
            keys.append(problems.key(sample, path))
            places.extend(place)
            lengths.append(sample.tokens if counts_tokens else len(sample.completion))
            truncated.append(sample.finish_reason == "length")
        self.key_S, first_S = np.unique(_numbers(keys), return_index=True)
        self.place_S = _numbers(places).reshape(-1, 2)[first_S]
        self.length_S = _numbers(lengths)[first_S]
        self.truncated_S = np.frombuffer(bytes(truncated), dtype=np.bool_)[first_S]


def _without_completion(line: bytes) -> Sample | None:
    """A sample whose completion is not read, which most of the time would go into."""
    found = _SAMPLE.fullmatch(line)
    if not found:
        return None
    reason: FinishReason = "length" if found[3] == b"length" else "stop"
    return Sample(found[1].decode(), int(found[2]), "", reason, int(found[4]))


def _parsed(line: bytes) -> None:
    """No sample: the line is parsed, since its completion is measured in characters."""


class _Verdicts:
    """The verdicts in ascending order of their keys, the last one of each key."""

    def __init__(self, path: Path, problems: _Problems) -> None:
        keys, places, statuses, votes = array("q"), array("q"), array("q"), array("q")
        rows: Iterator[Any] = read_jsonl_places(path, Verdict) if path.exists() else iter(())
        for place, verdict in rows:
            key = problems.key(verdict, path)
            keys.append(key)
            places.extend(place)
            statuses.append(VERDICTS.index(verdict.status))
            votes.append(_vote(verdict) if problems.votes[key // _MOST_INDEX] else _NO_VOTE)
        # `unique` keeps the first one of each key, and the last one stands first in reverse
        self._keys, last = np.unique(_numbers(keys)[::-1], return_index=True)
        self._places = _numbers(places).reshape(-1, 2)[::-1][last]
        self._statuses = _numbers(statuses)[::-1][last]
        self._votes = _numbers(votes)[::-1][last]

    def of(self, key_S: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Places, statuses and votes of the samples with these keys."""
        at_S = np.searchsorted(self._keys, key_S)
        has_S = at_S < len(self._keys)
        has_S[has_S] = self._keys[at_S[has_S]] == key_S[has_S]
        place_S = np.zeros((len(key_S), 2), dtype=np.int64)
        status_S = np.full(len(key_S), VERDICTS.index(UNGRADED), dtype=np.int64)
        vote_S = np.full(len(key_S), _NO_VOTE, dtype=np.int64)
        place_S[has_S] = self._places[at_S[has_S]]
        status_S[has_S] = self._statuses[at_S[has_S]]
        vote_S[has_S] = self._votes[at_S[has_S]]
        return place_S, status_S, vote_S


def _vote(verdict: Verdict) -> int:
    """A number that stands for the answer voted for, as in `shaped_eval.statistics.votes`.

    All passes vote for gold, and others for their answer if they have one. Python's hash is keyed
    anew in each process, so nobody can write two answers of the same number.
    """
    if verdict.status == "pass":
        return hash((verdict.problem_id, 0, ""))
    if verdict.answer is not None:
        return hash((verdict.problem_id, 1, verdict.answer))
    return _NO_VOTE


def _agreement(problem_S: Numbers, vote_S: Numbers) -> tuple[Numbers, Numbers]:
    """For each sample the number of equal votes, and whether no other vote has more."""
    _, kind_S, counts = np.unique(vote_S, return_inverse=True, return_counts=True)
    same_S = np.where(vote_S == _NO_VOTE, 0, counts[kind_S])
    most_P = np.zeros(int(problem_S.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(most_P, problem_S, same_S)
    agreement_S = np.where(same_S == most_P[problem_S], _MAJORITY, _MINORITY)
    return same_S, np.where(same_S == 0, _NONE, agreement_S)


def _numbers(values: array[int]) -> Numbers:
    return np.array(values, dtype=np.int64)
