"""Chunks: the units of sampling, and which of them the files of a run already hold.

A chunk is a range of sample indices of one problem, or all samples of several problems. It is
generated together and appended in one write. The rows of an incomplete chunk are dropped, and the
chunk is generated again as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaped_eval.backends.base import BatchLimits, Completion, Request
from shaped_eval.config import ASKED_TOGETHER
from shaped_eval.errors import UserError
from shaped_eval.provenance import stable_hash
from shaped_eval.records import Problem, Sample
from shaped_eval.untrusted.files import replacing
from shaped_eval.untrusted.rows import parse_object, row_of


@dataclass(frozen=True)
class Chunk:
    """Samples [start, start + size) of each of `problems`.

    With several problems, start is 0 and size is their n.
    """

    problems: tuple[Problem, ...]
    start: int
    size: int

    def __len__(self) -> int:
        return self.size * len(self.problems)

    def seed(self, run_seed: int) -> int:
        """The seed of the chunk, 60 bits, the same on every machine."""
        ids = [problem.problem_id for problem in self.problems]
        return int(
            stable_hash([run_seed, ids if len(ids) > 1 else ids[0], self.start, self.size])[:15], 16
        )

    def request(self, run_seed: int) -> Request:
        prompts = tuple(problem.prompt for problem in self.problems)
        seeds = (stable_hash([run_seed, problem.problem_id]) for problem in self.problems)
        return Request(
            prompts,
            self.size,
            self.seed(run_seed),
            _stop(self.problems[0]),
            self.decoding == "greedy",
            tuple(int(seed[:16], 16) for seed in seeds),
            self.start,
        )

    @property
    def decoding(self) -> str | None:
        """The decoding that the benchmark prescribes, ``greedy`` or ``likelihood``; else None.

        It takes precedence over the run's temperature.
        """
        return self.problems[0].meta.get("decoding")

    def samples(self, completions: Sequence[Completion]) -> list[Sample]:
        """The rows of `completions`, which are ordered problem by problem."""
        assert len(completions) == len(self), f"{len(completions)} completions of {len(self)}"
        keys = [
            (problem, self.start + offset)
            for problem in self.problems
            for offset in range(self.size)
        ]
        return [
            Sample(problem.problem_id, index, done.text, done.finish_reason, done.tokens)
            for (problem, index), done in zip(keys, completions, strict=True)
        ]


def num_samples(problem: Problem, n: int) -> int:
    """Samples of `problem`: the run's `n`, unless the benchmark has its own in ``meta["n"]``."""
    return int(problem.meta.get("n", n))


def plan_chunks(
    problems: Sequence[Problem],
    n: int,
    limits: BatchLimits,
    prompt_tokens: Mapping[str, int] | None = None,
    max_new_tokens: int = 0,
    scored_together: int = ASKED_TOGETHER,
) -> list[Chunk]:
    """All chunks of a run, in the final order of samples.jsonl.

    Several problems share a chunk if their prompts' lengths are known (`prompt_tokens`, problem id
    → length), they have the same number of samples and the same stop strings, and `limits` allows
    it. Longer prompts come first, so that a chunk holds prompts of similar lengths.
    `scored_together` problems whose options are scored by likelihood share a chunk, regardless of
    length. The plan depends only on the arguments, so a killed run resumes with the same plan.
    """
    prompt_tokens = prompt_tokens or {}
    groups: dict[Any, list[Problem]] = {}
    for problem in problems:
        decoding = problem.meta.get("decoding")
        if decoding == "likelihood":
            key: Any = (decoding, problem.benchmark)
        elif problem.problem_id in prompt_tokens:
            key = (decoding, num_samples(problem, n), _stop(problem))
        else:
            key = problem.problem_id
        groups.setdefault(key, []).append(problem)
    chunks: list[Chunk] = []
    for members in groups.values():
        samples = num_samples(members[0], n)
        if members[0].meta.get("decoding") == "likelihood":
            chunks += _scored(members, scored_together)
        elif members[0].problem_id not in prompt_tokens:
            chunks += _split((members[0],), samples, max(1, limits.rows))
        else:
            chunks += _filled(members, samples, limits, prompt_tokens, max_new_tokens)
    return chunks


def _scored(members: Sequence[Problem], together: int) -> Iterator[Chunk]:
    for start in range(0, len(members), together):
        yield Chunk(tuple(members[start : start + together]), 0, 1)


def _filled(
    members: Sequence[Problem],
    samples: int,
    limits: BatchLimits,
    prompt_tokens: Mapping[str, int],
    max_new_tokens: int,
) -> Iterator[Chunk]:
    """Chunks of problems with `samples` each, as many in each as `limits` allows."""
    waiting = sorted(members, key=lambda problem: -prompt_tokens[problem.problem_id])
    while waiting:
        length = prompt_tokens[waiting[0].problem_id]
        rows = max(1, limits.rows)
        if limits.tokens is not None:
            rows = max(1, min(rows, limits.tokens // (length + max_new_tokens)))
        together = max(1, rows // samples)
        if limits.prompt_tokens is not None:
            together = max(1, min(together, limits.prompt_tokens // max(1, length)))
        chosen = [
            problem
            for problem in waiting[:together]
            if limits.padded or prompt_tokens[problem.problem_id] == length
        ]
        waiting = waiting[len(chosen) :]
        yield from _split(tuple(chosen), samples, rows)


def _split(problems: tuple[Problem, ...], samples: int, rows: int) -> Iterator[Chunk]:
    for start in range(0, samples, rows):
        yield Chunk(problems, start, min(rows, samples - start))


def _stop(problem: Problem) -> tuple[str, ...]:
    return tuple(problem.meta.get("stop", ()))


def samples_file(folder: Path, rank: int, num_processes: int) -> Path:
    """The file that a process writes to.

    It is samples.jsonl for a single process. Each of several has its own file; `collect` merges
    them.
    """
    return folder / ("samples.jsonl" if num_processes == 1 else f"samples-{rank}.jsonl")


def collect(folder: Path, chunks: Sequence[Chunk]) -> set[int]:
    """Merge the files of samples in `folder` into samples.jsonl; return the indices of its chunks.

    Afterwards samples.jsonl has the rows of these chunks, each once, in the order of `chunks`, and
    no other rows. Rows of incomplete chunks, repeated rows and an unfinished last line are dropped,
    and the processes' own files are removed. A kill at any moment loses nothing, because the new
    file replaces the old one before the others are removed. Memory grows only with the number of
    chunks.
    """
    target = folder / "samples.jsonl"
    others = sorted(folder.glob("samples-*.jsonl"))
    files = [path for path in (target, *others) if path.exists()]
    spans: dict[int, tuple[Path, int, int]] = {}
    tidy = not others
    position = 0
    last = -1
    for path in files:
        for index, start, end in _complete(path, chunks):
            if index not in spans:
                spans[index] = (path, start, end)
            tidy = tidy and start == position and index > last
            position = end
            last = index
    if files and not (tidy and position == target.stat().st_size):
        _write(target, [spans[index] for index in sorted(spans)])
    for path in others:
        path.unlink()
    return set(spans)


def complete_chunks(folder: Path, chunks: Sequence[Chunk]) -> set[int]:
    """The indices of the chunks that samples.jsonl holds after `collect`. Writes nothing."""
    target = folder / "samples.jsonl"
    return {index for index, _, _ in _complete(target, chunks)} if target.exists() else set()


def _complete(path: Path, chunks: Sequence[Chunk]) -> Iterator[tuple[int, int, int]]:
    """Yield the index of each chunk whose rows are contiguous in `path`, and their byte range."""
    places: _Places = {}
    for index, chunk in enumerate(chunks):
        for offset, problem in enumerate(chunk.problems):
            place = (chunk.start, chunk.size, index, offset * chunk.size)
            places.setdefault(problem.problem_id, []).append(place)
    current = -1
    expected = 0
    start = 0
    end = 0
    for line in _lines(path):
        begin, end = end, end + len(line)
        index, row = _place(line, path, places)
        if row == 0:
            current = index
            expected = 0
            start = begin
        if index != current or row != expected:
            current = -1
            continue
        expected += 1
        if expected == len(chunks[index]):
            yield index, start, end
            current = -1


# problem id -> first sample, number of samples, index of the chunk, and place in it of the first
_Places = dict[str, list[tuple[int, int, int, int]]]


def _place(line: bytes, path: Path, places: _Places) -> tuple[int, int]:
    """Index of the chunk that a row belongs to, and the row's position in it; (-1, -1) if none."""
    try:
        row = row_of(Sample, parse_object(line))
    except ValueError as error:
        raise UserError(
            f"{path}: not a row of this version ({error}): {line[:80]!r}: remove the line, then "
            "repeat the command"
        ) from error
    mine = places.get(row.problem_id, [])
    before = bisect_right(mine, row.sample_index, key=lambda place: place[0])
    if before == 0:
        return -1, -1
    start, size, index, offset = mine[before - 1]
    within = row.sample_index - start
    return (index, offset + within) if within < size else (-1, -1)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _write(target: Path, spans: Sequence[tuple[Path, int, int]]) -> None:
    sources = {path: open(path, "rb") for path in {path for path, _, _ in spans}}  # noqa: SIM115
    try:
        with replacing(target, "wb") as file:
            for path, start, end in spans:
                sources[path].seek(start)
                file.write(sources[path].read(end - start))
    finally:
        for source in sources.values():
            source.close()
