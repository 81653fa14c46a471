"""A run's rows by their places in its files; the texts stay on the disk until they are read.

Notation: P problems, S samples, ordered by problem and sample_index. The memory is a few numbers
per sample and the ids of the problems, however long the completions are. A run that is not complete
is read as far as it goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shaped_eval.errors import UserError
from shaped_eval.records import Place, Problem, Sample, Verdict
from shaped_eval.reporting.outcomes import STATUSES
from shaped_eval.untrusted.rows import Row, parse_object, row_of

UNGRADED = "ungraded"
VERDICTS = (*STATUSES, UNGRADED)
AGREEMENTS = ("majority", "minority", "none")

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Shown:
    """A sample with its texts.

    Attributes:
        row: its place in the order of the index.
        status: of the verdict, or `UNGRADED`.
        length: in the index's `unit`.
        same: the number of the problem's samples with the same vote, including this one; 0 if it
            does not vote.
    """

    row: int
    sample: Sample
    status: str
    answer: str | None
    length: int
    agreement: str
    same: int

    @property
    def truncated(self) -> bool:
        return self.sample.finish_reason == "length"


@dataclass(frozen=True)
class Rows:
    """What is known of each sample [S] without its texts.

    Attributes:
        problem_S: the problem's number in `RunIndex.problem_ids`.
        index_S: sample_index.
        place_S: [S, 2] offset and length of the row in samples.jsonl.
        verdict_S: [S, 2] the same in verdicts.jsonl; zeros where there is no verdict.
        length_S: length of the completion.
        truncated_S: whether the token limit cut it.
        status_S: a number in `VERDICTS`.
        same_S: the number of the problem's samples with the same vote; 0 for those that do not
            vote.
        agreement_S: a number in `AGREEMENTS`.
    """

    problem_S: Numbers
    index_S: Numbers
    place_S: Numbers
    verdict_S: Numbers
    length_S: Numbers
    truncated_S: NDArray[np.bool_]
    status_S: Numbers
    same_S: Numbers
    agreement_S: Numbers


@dataclass(frozen=True)
class RunIndex:
    """One run; its files stay open, so that a run that is written on meanwhile is still read as it
    was.

    Attributes:
        label: short, and unique among the runs that are shown together.
        unit: of lengths: "tokens", or "characters" for answers from elsewhere.
        problem_ids, benchmarks: of each problem, in the order of problems.jsonl.
        starts: benchmark → the common beginning of its prompts.
        first_P: for each problem, the row of its first sample; then the number of all samples.
    """

    label: str
    folder: Path
    record: dict[str, Any]
    unit: str
    problem_ids: list[str]
    benchmarks: list[str]
    starts: dict[str, str]
    rows: Rows
    first_P: Numbers
    _problem_places: list[Place] = field(repr=False)
    _files: dict[str, IO[bytes]] = field(repr=False)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.rows.problem_S)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Problem id → its number."""
        return {problem_id: number for number, problem_id in enumerate(self.problem_ids)}

    def problem(self, number: int) -> Problem:
        """The problem with this number, read from the file."""
        return self._read(Problem, "problems.jsonl", self._problem_places[number])

    def samples_of(self, number: int) -> range:
        """The rows of a problem's samples."""
        return range(int(self.first_P[number]), int(self.first_P[number + 1]))

    def row_of(self, problem_id: str, sample_index: int) -> int | None:
        """The row of a sample, if the run has it."""
        number = self.numbers.get(problem_id)
        if number is None:
            return None
        rows = self.samples_of(number)
        indices = self.rows.index_S[rows.start : rows.stop]
        place = int(np.searchsorted(indices, sample_index))
        found = place < len(indices) and indices[place] == sample_index
        return rows.start + place if found else None

    def completion(self, row: int) -> str:
        """The completion of a sample, read from the file."""
        return self._sample(row).completion

    def raw(self, row: int) -> bytes:
        """The line of a sample in its file."""
        return self._line("samples.jsonl", Place(*map(int, self.rows.place_S[row])))

    def shown(self, row: int) -> Shown:
        """A sample with its texts, read from the files."""
        rows = self.rows
        place = Place(*map(int, rows.verdict_S[row]))
        verdict = self._read(Verdict, "verdicts.jsonl", place) if place.length else None
        return Shown(
            row=row,
            sample=self._sample(row),
            status=VERDICTS[rows.status_S[row]],
            answer=verdict.answer if verdict else None,
            length=int(rows.length_S[row]),
            agreement=AGREEMENTS[rows.agreement_S[row]],
            same=int(rows.same_S[row]),
        )

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _sample(self, row: int) -> Sample:
        return self._read(Sample, "samples.jsonl", Place(*map(int, self.rows.place_S[row])))

    def _read(self, row_type: Callable[..., Row], name: str, place: Place) -> Row:
        try:
            return row_of(row_type, parse_object(self._line(name, place)))
        except ValueError as error:
            raise UserError(
                f"{self.folder / name} has changed since it was opened ({error}): start the "
                "command again"
            ) from error

    def _line(self, name: str, place: Place) -> bytes:
        # unlike seek and read, this can be done by several threads at once
        return os.pread(self._files[name].fileno(), place.length, place.offset)
