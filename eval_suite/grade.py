"""Samples to verdicts: ``samples.jsonl`` → ``verdicts.jsonl``; and foreign answers to a run's folder.

Grading is a pass of its own: it can be repeated, resumed after a kill, and run again when a grader changes.
Only samples without a verdict of the grader's present version are graded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval_suite.answers import read_answers
from eval_suite.errors import UserError
from eval_suite.grading import Grade, GradeRequest, GraderPool, grader_spec
from eval_suite.provenance import package_versions, source_commit
from eval_suite.records import (
    Problem,
    Sample,
    Verdict,
    append_jsonl,
    drop_truncated_line,
    read_jsonl,
    write_atomic,
)

CHUNK_SAMPLES = 2048  # held in memory at once
FLUSH_VERDICTS = 128

Key = tuple[str, int]


def grade_run(folder: str | Path, *, num_workers: int | None = None, progress: bool = True) -> Path:
    """Grade what has no verdict yet in a run's folder, and return that folder.

    Reads problems.jsonl and samples.jsonl, appends to verdicts.jsonl, whose rows come in any order. Verdicts
    of another grader version, and second ones of a sample, are dropped first.

    Args:
        folder: the run.
        num_workers: grading processes; None for one per core.
        progress: show a bar where standard error is a terminal.

    Raises:
        UserError: no run there, a sample of no problem of it, or an unknown grader.
    """
    folder = Path(folder)
    for name in ("problems.jsonl", "samples.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} has no {name}: sample into it first, or grade a file with --answers")
    problems = {problem.problem_id: problem for problem in read_jsonl(folder / "problems.jsonl", Problem)}
    versions = {key: grader_spec(problem.grader).version for key, problem in problems.items()}
    verdicts_file = folder / "verdicts.jsonl"
    done = _keep_current(verdicts_file, versions)
    missing = _missing(folder / "samples.jsonl", problems, done)
    with GraderPool(num_workers) as pool, _bar(progress) as bar:
        task = bar.add_task("grading", total=_count_lines(folder / "samples.jsonl"), completed=len(done))
        while chunk := list(islice(missing, CHUNK_SAMPLES)):
            _grade_chunk(pool, chunk, problems, verdicts_file, lambda: bar.advance(task))
    verdicts_file.touch()
    return folder


def grade_answers(
    answers_file: str | Path,
    benchmark: str,
    out: str | Path,
    *,
    hub_mirror: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Grade completions from elsewhere into a run's folder `out`, and return that folder.

    Rows: ``{"problem_id", "completions": [...], "gold"?}``; see `eval_suite.answers.read_answers`.

    Args:
        answers_file: JSONL, one row a problem.
        benchmark: whose problems they answer; ``math`` grades any row that brings its gold.
        out: run.json, problems.jsonl, samples.jsonl and verdicts.jsonl go there. The same answers again go on
            where grading stopped.
        hub_mirror: folder to read the benchmark from, see `eval_suite.sources`.
        num_workers, progress: as `grade_run`.

    Raises:
        UserError: a bad row, with file, line and remedy; an unknown benchmark; `out` holds another run.
    """
    problems, samples = read_answers(answers_file, benchmark, hub_mirror)
    out = Path(out)
    contents = {"problems.jsonl": _lines(problems), "samples.jsonl": _lines(samples)}
    for name, text in contents.items():
        path = out / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"out={str(out)!r} holds another run ({name} differs): choose another --out")
    record = {
        "model": None,
        "benchmarks": [benchmark],
        "settings": {"n": len(samples) // len(problems), "answers": Path(answers_file).name},
        "versions": package_versions(),
        "commit": source_commit(),
    }
    for name, text in contents.items():
        write_atomic(out / name, text)
    write_atomic(out / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return grade_run(out, num_workers=num_workers, progress=progress)


def _keep_current(verdicts_file: Path, versions: dict[str, str]) -> set[Key]:
    """Keys with a verdict of the present grader version; the file keeps one row for each and no others."""
    drop_truncated_line(verdicts_file)
    if not verdicts_file.exists():
        return set()
    rows = 0
    current: dict[Key, Verdict] = {}
    for verdict in read_jsonl(verdicts_file, Verdict):
        rows += 1
        if verdict.grader == versions.get(verdict.problem_id):
            current.setdefault((verdict.problem_id, verdict.sample_index), verdict)
    if len(current) < rows:
        write_atomic(verdicts_file, _lines(current.values()))
    return set(current)


def _missing(samples_file: Path, problems: dict[str, Problem], done: set[Key]) -> Iterator[Sample]:
    seen = set(done)
    for sample in read_jsonl(samples_file, Sample):
        if sample.problem_id not in problems:
            raise UserError(
                f"{samples_file}: sample {sample.sample_index} is of {sample.problem_id!r}, which is not in "
                "problems.jsonl: the folder mixes two runs; sample into another --out"
            )
        key = (sample.problem_id, sample.sample_index)
        if key not in seen:
            seen.add(key)
            yield sample


def _grade_chunk(
    pool: GraderPool, chunk: list[Sample], problems: dict[str, Problem], verdicts_file: Path, advance: Any
) -> None:
    requests = []
    for sample in chunk:
        problem = problems[sample.problem_id]
        requests.append(GradeRequest(problem.grader, sample.completion, problem.gold))
    graded: list[Verdict] = []

    def flush() -> None:
        append_jsonl(verdicts_file, graded)
        graded.clear()

    def keep(index: int, grade: Grade) -> None:
        sample, version = chunk[index], grader_spec(requests[index].grader).version
        graded.append(Verdict(sample.problem_id, sample.sample_index, grade.status, grade.answer, version))
        advance()
        if len(graded) >= FLUSH_VERDICTS:
            flush()

    try:
        pool.grade(requests, on_done=keep)
    finally:
        flush()  # Ctrl-C keeps what is graded


def _lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextmanager
def _bar(shown: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        yield bar
