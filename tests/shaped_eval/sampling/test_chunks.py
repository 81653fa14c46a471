"""The plan of a run, and the merging of files that killed processes left."""

from __future__ import annotations

import json
import random
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest
from shaped_eval.backends import Completion
from shaped_eval.backends.base import BatchLimits
from shaped_eval.records import Problem, append_jsonl, read_jsonl
from shaped_eval.sampling.chunks import Chunk, collect, complete_chunks, plan_chunks


def problem(name: str, **meta) -> Problem:
    return Problem(name, "b", f"prompt of {name}", "1", "math", meta)


def rows_of(chunk: Chunk) -> list:
    return chunk.samples([Completion(f"{chunk.start} {i}", "stop", 3) for i in range(len(chunk))])


def write(path: Path, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        append_jsonl(path, rows_of(chunk))


def everything(chunks: list[Chunk]) -> str:
    return "".join(
        json.dumps(row.__dict__, ensure_ascii=False) + "\n"
        for chunk in chunks
        for row in rows_of(chunk)
    )


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (5, 2), (8, 8), (3, 8), (20, 8)])
@pytest.mark.parametrize("known", [False, True])
def test_a_plan_has_each_sample_once(n, batch_size, known):
    problems = [problem(f"p{i}", **({"n": 2} if i % 5 == 0 else {})) for i in range(23)]
    lengths = {one.problem_id: 10 + i % 3 for i, one in enumerate(problems)} if known else None
    chunks = plan_chunks(problems, n, BatchLimits(batch_size), lengths)
    planned = [
        (one.problem_id, index)
        for chunk in chunks
        for one in chunk.problems
        for index in range(chunk.start, chunk.start + chunk.size)
    ]
    wanted = {(one.problem_id, index) for one in problems for index in range(one.meta.get("n", n))}
    assert len(planned) == len(wanted)
    assert set(planned) == wanted
    assert all(len(chunk) <= batch_size for chunk in chunks)
    assert len({chunk.seed(0) for chunk in chunks}) == len(chunks)


def test_problems_of_one_length_and_one_stop_fill_the_batch():
    problems = [problem(f"p{i}", stop=["\nQ"] if i == 3 else []) for i in range(8)]
    lengths = {f"p{i}": 7 if i in (0, 2, 3, 4, 6) else 9 for i in range(8)}
    chunks = plan_chunks(problems, 2, BatchLimits(6), lengths)
    names = [[one.problem_id for one in chunk.problems] for chunk in chunks]
    assert names == [["p1", "p5", "p7"], ["p0", "p2", "p4"], ["p6"], ["p3"]], "the longest first"
    plans = (
        plan_chunks(problems, 4, BatchLimits(6), lengths),
        plan_chunks(problems, 2, BatchLimits(6)),
    )
    assert [len(one.problems) for one in plans[0]] == [1] * 8, "two do not fit"
    assert [len(one.problems) for one in plans[1]] == [1] * 8, "lengths are not known"


def test_padded_prompts_fill_the_tokens_and_the_longest_come_first():
    lengths = {"p0": 10, "p1": 100, "p2": 12, "p3": 90, "p4": 11, "p5": 95}
    problems = [problem(name) for name in lengths]

    def plan(n, **limits):
        chunks = plan_chunks(problems, n, BatchLimits(padded=True, **limits), lengths, 50)
        assert sum(map(len, chunks)) == 6 * n
        return [[one.problem_id for one in chunk.problems] for chunk in chunks]

    assert plan(1, rows=6) == [["p1", "p5", "p3", "p2", "p4", "p0"]]
    assert plan(1, rows=6, tokens=450) == [["p1", "p5", "p3"], ["p2", "p4", "p0"]], "3 x (100 + 50)"
    assert plan(1, rows=6, prompt_tokens=220) == [["p1", "p5"], ["p3", "p2"], ["p4", "p0"]]
    assert plan(2, rows=4) == [["p1", "p5"], ["p3", "p2"], ["p4", "p0"]]
    assert plan(3, rows=4, tokens=300)[:4] == [["p1"], ["p1"], ["p5"], ["p5"]], "2 samples fit"
    assert plan(1, rows=6, tokens=1) == [[name] for name in ("p1", "p5", "p3", "p2", "p4", "p0")]


def test_a_sample_has_the_same_seed_in_every_plan():
    problems = [problem(f"p{i}") for i in range(5)]
    lengths = {f"p{i}": 10 + i for i in range(5)}

    def seeds(n, **limits):
        found = {}
        for chunk in plan_chunks(problems, n, BatchLimits(**limits), lengths):
            request = chunk.request(7)
            for one, seed in zip(chunk.problems, request.problem_seeds, strict=True):
                found |= {
                    (one.problem_id, request.start + i): (seed, request.start + i)
                    for i in range(request.num_samples)
                }
        assert len(set(found.values())) == 5 * n
        return found

    whole = seeds(6, rows=100, padded=True)
    assert whole == seeds(6, rows=4)
    assert seeds(2, rows=1).items() < whole.items()


def test_rows_with_an_index_that_the_run_does_not_have_are_dropped(tmp_path):
    chunks = plan_chunks(
        [problem(f"p{i}") for i in range(2)], 2, BatchLimits(8), {"p0": 3, "p1": 3}
    )
    assert len(chunks) == 1
    lines = everything(chunks).splitlines(keepends=True)
    beyond = lines[1].replace('"sample_index": 1', '"sample_index": 2')
    (tmp_path / "samples.jsonl").write_text("".join([lines[0], lines[1], beyond, *lines[3:]]))
    assert collect(tmp_path, chunks) == set(), "the third row is not the first of p1"


def test_a_single_problems_seed_is_what_it_always_was():
    """Runs that an earlier version began continue with the same samples."""
    chunk = plan_chunks([problem("gsm8k/0")], 5, BatchLimits(2))[1]
    text = b'[3,"gsm8k/0",2,2]'
    assert (chunk.start, chunk.size, chunk.seed(3)) == (
        2,
        2,
        int(sha256(text).hexdigest()[:15], 16),
    )


def test_files_of_killed_processes_become_one(tmp_path):
    chunks = plan_chunks([problem(f"p{i}") for i in range(6)], 5, BatchLimits(2))
    order = random.Random(0).sample(chunks, len(chunks))
    write(tmp_path / "samples.jsonl", order[:5])
    write(tmp_path / "samples-0.jsonl", order[3:9])  # two of them are also in samples.jsonl
    write(tmp_path / "samples-7.jsonl", order[9:13])
    half = everything([order[13]]).encode()
    with open(tmp_path / "samples-7.jsonl", "ab") as file:
        file.write(half[:-8])  # a kill in the middle of the last row
    done = collect(tmp_path, chunks)
    expected = sorted(chunks.index(chunk) for chunk in order[:13])
    assert sorted(done) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]
    assert (tmp_path / "samples.jsonl").read_text() == everything([chunks[i] for i in expected])
    write(tmp_path / "samples-1.jsonl", [chunk for i, chunk in enumerate(chunks) if i not in done])
    assert complete_chunks(tmp_path, chunks) == done, "what the others write is not looked at"
    assert collect(tmp_path, chunks) == set(range(len(chunks)))
    assert (tmp_path / "samples.jsonl").read_text() == everything(chunks)


def test_a_complete_file_in_order_is_not_written_again(tmp_path):
    chunks = plan_chunks([problem("p")], 5, BatchLimits(2))
    write(tmp_path / "samples.jsonl", chunks)
    before = (tmp_path / "samples.jsonl").stat()
    assert collect(tmp_path, chunks) == {0, 1, 2}
    after = (tmp_path / "samples.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("spoil", ["row_missing", "row_twice", "rows_swapped", "foreign_row"])
def test_a_chunk_whose_rows_are_not_as_written_is_dropped(tmp_path, spoil):
    chunks = plan_chunks([problem(f"p{i}") for i in range(3)], 4, BatchLimits(4))
    lines = everything(chunks).splitlines(keepends=True)
    foreign = json.dumps({"problem_id": "other", "sample_index": 0, "completion": ""}) + "\n"
    changed = {
        "row_missing": lines[:5] + lines[6:],
        "row_twice": lines[:6] + lines[5:],
        "rows_swapped": [*lines[:5], lines[6], lines[5], *lines[7:]],
        "foreign_row": [*lines[:5], foreign, *lines[5:]],
    }[spoil]
    (tmp_path / "samples.jsonl").write_text("".join(changed))
    assert collect(tmp_path, chunks) == {0, 2}
    assert (tmp_path / "samples.jsonl").read_text() == everything([chunks[0], chunks[2]])


def test_merging_needs_no_more_memory_for_longer_completions(tmp_path):
    chunks = plan_chunks([problem(f"p{i}") for i in range(50)], 8, BatchLimits(8))
    peaks = []
    for length in (100, 10_000):
        folder = tmp_path / str(length)
        folder.mkdir()
        for rank in range(2):
            for chunk in chunks[rank::2]:
                done = [Completion("x" * length, "stop", 1)] * len(chunk)
                append_jsonl(folder / f"samples-{rank}.jsonl", chunk.samples(done))
        tracemalloc.start()
        collect(folder, chunks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(1 for _ in read_jsonl(folder / "samples.jsonl")) == 400
    chunk_bytes = 8 * 10_000
    assert peaks[1] - peaks[0] < 3 * chunk_bytes, f"{peaks}: the file has 4 MB"
