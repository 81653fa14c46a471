"""From samples to verdicts, and from answers that were generated elsewhere to a run's folder.

Grading is a separate pass: it can be repeated, resumed after a kill, and run again when a grader
changes. Only samples without a verdict of the grader's current version are graded.
"""

from __future__ import annotations

import filecmp
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shaped_eval.benchmarks.own import name_of
from shaped_eval.errors import UserError
from shaped_eval.grading import Grade, GradeRequest, GraderPool, grader_spec
from shaped_eval.grading.base import DIED
from shaped_eval.grading.graders import KEPT
from shaped_eval.provenance import package_versions, source_commit
from shaped_eval.records import (
    Problem,
    Sample,
    Verdict,
    append_jsonl,
    drop_truncated_line,
    jsonl_line,
    read_jsonl,
    write_atomic,
)
from shaped_eval.sampling.answers import read_answers
from shaped_eval.untrusted.files import check_folder, replacing
from shaped_eval.untrusted.rows import read_object, row_of

# a killed run loses at most this much
FLUSH_VERDICTS = 128
FLUSH_S = 5.0
MAX_SAMPLE_INDEX = 10_000_000
BYTES_PER_ROW = 64  # to mark samples with; rows may stand in any order
_FILES = ("samples.jsonl", "problems.jsonl")  # in reverse order of replacement


class _Key(NamedTuple):
    """What is needed to grade a problem's samples."""

    grader: str
    version: str
    gold: str


class _Marks:
    """Records which samples were seen.

    Memory grows with the rows, whatever index a row names. A sample takes a byte, so that millions
    fit. A row whose index lies far beyond the number of rows of its problem takes an entry of a
    set: bytes up to that index could fill the memory with a few rows.
    """

    def __init__(self, problem_ids: Iterable[str]) -> None:
        self._marked = {problem_id: bytearray() for problem_id in problem_ids}
        self._rows = dict.fromkeys(self._marked, 0)
        self._far: set[tuple[str, int]] = set()
        self.count = 0

    def add(self, problem_id: str, sample_index: int) -> bool:
        """Mark the sample; return whether it was unmarked before."""
        marked = self._marked[problem_id]
        self._rows[problem_id] += 1
        if len(marked) <= sample_index < BYTES_PER_ROW * self._rows[problem_id]:
            marked.extend(bytes(sample_index + 1 - len(marked)))
        is_new = (problem_id, sample_index) not in self._far
        if sample_index < len(marked):
            is_new = is_new and not marked[sample_index]
            marked[sample_index] = 1
        else:
            self._far.add((problem_id, sample_index))
        self.count += is_new
        return is_new


def grade_run(
    folder: str | Path,
    *,
    num_workers: int | None = None,
    progress: bool = True,
    keep_reasoning: bool = False,
    graders: Sequence[str] = (),
) -> Path:
    """Grade the samples of a run that have no verdict yet, and return the run's folder.

    Reads problems.jsonl and samples.jsonl, and appends to verdicts.jsonl, whose rows are in no
    particular order. Verdicts of other grader versions and repeated verdicts of a sample are
    dropped first. If generated code is run, the list ``confinement`` in run.json names what
    confined it. Memory does not grow with the completions: it holds a byte per sample, and the
    samples being graded.

    Args:
        folder: the run.
        num_workers: grading processes; None for one per core.
        progress: show a progress bar if standard error is a terminal.
        keep_reasoning: grade the text in ``<think>`` tags like the rest; the grader in the verdicts
            then says so.
        graders: paths of the user's own graders that problems of the run name. Others are refused,
            since the run may come from anyone.

    Raises:
        UserError: the folder holds no run, a sample belongs to no problem, a grader is unknown, or
            no problem names one of `graders`.
    """
    for grader in graders:
        grader_spec(grader, typed=True)
    folder = Path(folder)
    for name in ("problems.jsonl", "samples.jsonl"):
        if not (folder / name).is_file():
            raise UserError(
                f"{str(folder)!r} has no {name}: sample into it first, or grade a file with "
                "--answers"
            )
    keys = {
        problem.problem_id: _Key(
            problem.grader,
            grader_spec(problem.grader).version + (KEPT if keep_reasoning else ""),
            problem.gold,
        )
        for problem in read_jsonl(folder / "problems.jsonl", Problem)
    }
    for grader in graders:
        if all(key.grader != grader for key in keys.values()):
            raise UserError(f"grader={grader!r}: no problem of {str(folder)!r} names it")
    verdicts_file = folder / "verdicts.jsonl"
    done = _keep_current(verdicts_file, keys)
    missing = _missing(folder / "samples.jsonl", done, keys)
    with GraderPool(num_workers, keep_reasoning=keep_reasoning) as pool, _bar(progress) as bar:
        task = bar.add_task(
            "grading", total=_count_lines(folder / "samples.jsonl"), completed=done.count
        )
        _grade(pool, missing, keys, folder, lambda: bar.advance(task))
    append_jsonl(verdicts_file, [])  # so that the file exists even for a run without samples
    return folder


def grade_answers(
    answers_file: str | Path,
    benchmark: str,
    out: str | Path,
    *,
    hub_mirror: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = True,
    keep_reasoning: bool = False,
    grader: str | None = None,
) -> Path:
    """Grade completions from elsewhere into a run's folder `out`, and return that folder.

    The rows are ``{"problem_id", "completions": [...], "gold"?}``; see
    `shaped_eval.sampling.answers.read_answers`.

    Args:
        answers_file: JSONL with one row per problem.
        benchmark: the benchmark whose problems are answered; ``math`` grades any row that has a
            gold.
        out: the folder for run.json, problems.jsonl, samples.jsonl and verdicts.jsonl. Grading the
            same answers again continues where it stopped.
        hub_mirror: folder to read the benchmark from, see `shaped_eval.sources`.
        num_workers, progress, keep_reasoning: as in `grade_run`.
        grader: a grader's name, or the path of the user's own, to use in place of the benchmark's.

    Raises:
        UserError: a row is invalid (with file, line and remedy), the benchmark is unknown, or `out`
            holds another run.
    """
    out = Path(out)
    check_folder(out)
    answers = read_answers(answers_file, benchmark, hub_mirror)
    if grader is not None:
        grader_spec(grader, typed=True)
        answers = ((replace(problem, grader=grader), samples) for problem, samples in answers)
    samples_per_problem = _write_answers(out, answers)
    record = {
        "model": None,
        "benchmarks": [name_of(benchmark)],
        "settings": {"n": samples_per_problem, "answers": Path(answers_file).name},
        "versions": package_versions(),
        "commit": source_commit(),
    }
    # of an earlier part of this run; a link leads to somebody else's file, which is replaced unread
    earlier = {} if (out / "run.json").is_symlink() else _run_record(out)
    if confinement := earlier.get("confinement"):
        record["confinement"] = confinement
    _write_record(out, record)
    return grade_run(
        out,
        num_workers=num_workers,
        progress=progress,
        keep_reasoning=keep_reasoning,
        graders=[grader] if grader is not None else [],
    )


def _run_record(folder: Path) -> dict[str, Any]:
    """run.json, whose field `confinement` has been checked; empty if there is no such file."""
    path = folder / "run.json"
    return read_object(path, _check_confinement) if path.is_file() else {}


def _check_confinement(record: dict[str, Any]) -> None:
    row_of(_Confined, {"confinement": record.get("confinement", [])})


@dataclass
class _Confined:
    confinement: list[str]


def _record_confinement(folder: Path, confinement: str) -> None:
    record = _run_record(folder)
    earlier = record.get("confinement", [])
    if record and confinement not in earlier:
        _write_record(folder, {**record, "confinement": [*earlier, confinement]})


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    write_atomic(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _write_answers(out: Path, rows: Iterator[tuple[Problem, list[Sample]]]) -> int:
    """Write problems.jsonl and samples.jsonl, or check that they are equal; return n.

    If this fails, the folder is left as it was.
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            samples, problems = (stack.enter_context(replacing(out / name)) for name in _FILES)
            for problem, own_samples in rows:
                problems.write(jsonl_line(problem))
                samples.writelines(map(jsonl_line, own_samples))
            for name, new in zip(_FILES, (samples, problems), strict=True):
                new.flush()
                if (out / name).exists() and not filecmp.cmp(out / name, new.name, shallow=False):
                    raise UserError(
                        f"out={str(out)!r} holds another run ({name} differs): choose another --out"
                    )
    finally:
        if is_new and not any(out.iterdir()):
            out.rmdir()
    return len(own_samples)


def _keep_current(verdicts_file: Path, keys: Mapping[str, _Key]) -> _Marks:
    """The samples with a verdict of the current grader version.

    Afterwards the file has one row for each of them, and no other rows.
    """
    drop_truncated_line(verdicts_file)
    done = _Marks(keys)
    if verdicts_file.exists():
        rows = sum(1 for _ in _current(verdicts_file, keys, done))
        if rows < _count_lines(verdicts_file):
            write_atomic(
                verdicts_file, map(jsonl_line, _current(verdicts_file, keys, _Marks(keys)))
            )
    return done


def _current(verdicts_file: Path, keys: Mapping[str, _Key], met: _Marks) -> Iterator[Verdict]:
    for row in read_jsonl(verdicts_file, Verdict):
        key = keys.get(row.problem_id)
        if not key or row.grader != key.version or not _is_index(row.sample_index):
            continue
        if met.add(row.problem_id, row.sample_index):
            yield row


def _missing(samples_file: Path, met: _Marks, keys: Mapping[str, _Key]) -> Iterator[Sample]:
    for sample in read_jsonl(samples_file, Sample):
        if sample.problem_id not in keys:
            raise UserError(
                f"{samples_file}: sample {sample.sample_index} belongs to {sample.problem_id!r}, "
                "which is not in problems.jsonl: the folder mixes two runs; sample into another "
                "--out"
            )
        if not _is_index(sample.sample_index):
            raise UserError(
                f"{samples_file}: sample_index={sample.sample_index!r} of {sample.problem_id!r} "
                f"is not a whole number from 0 to {MAX_SAMPLE_INDEX}: number each problem's "
                "samples from 0"
            )
        if met.add(sample.problem_id, sample.sample_index):
            yield sample


def _is_index(sample_index: Any) -> bool:
    return isinstance(sample_index, int) and 0 <= sample_index <= MAX_SAMPLE_INDEX


def _grade(
    pool: GraderPool,
    samples: Iterable[Sample],
    keys: Mapping[str, _Key],
    folder: Path,
    advance: Callable[[], None],
) -> None:
    in_work: dict[int, tuple[str, int]] = {}
    confined_by: set[str | None] = {None}
    graded: list[Verdict] = []
    is_told = False
    flushed = time.monotonic()

    def requests() -> Iterator[GradeRequest]:
        for index, sample in enumerate(samples):
            in_work[index] = (sample.problem_id, sample.sample_index)
            key = keys[sample.problem_id]
            yield GradeRequest(key.grader, sample.completion, key.gold)

    def flush() -> None:
        nonlocal flushed
        append_jsonl(folder / "verdicts.jsonl", graded)
        graded.clear()
        flushed = time.monotonic()

    def keep(index: int, grade: Grade) -> None:
        nonlocal is_told
        if grade.confinement not in confined_by:
            confined_by.add(grade.confinement)
            _record_confinement(folder, str(grade.confinement))
        problem_id, sample_index = in_work.pop(index)
        graded.append(
            Verdict(problem_id, sample_index, grade.status, grade.answer, keys[problem_id].version)
        )
        if grade.status == "error" and grade.reason not in (None, DIED) and not is_told:
            is_told = True  # the first error of one's own grader; the verdicts count the others
            print(grade.reason, file=sys.stderr)
        advance()
        if len(graded) >= FLUSH_VERDICTS or time.monotonic() - flushed > FLUSH_S:
            flush()

    try:
        pool.grade_stream(requests(), keep)
    finally:
        flush()  # so that Ctrl-C keeps what is graded


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextmanager
def _bar(shown: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        yield bar
