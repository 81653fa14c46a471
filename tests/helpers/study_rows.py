"""Rows with known numbers, as the runs of a study write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from shaped_eval.records import Problem, Sample, Verdict, append_jsonl, write_atomic

BENCHMARK = "running_sums"
N = 8


def write_problems(folder: Path, count: int, seed: int) -> list[str]:
    """Write what precedes an evaluation's samples; return the ids of its problems."""
    settings = {"n": N, "temperature": 0.7, "top_p": 0.95, "seed": seed}
    record = {
        "settings": settings,
        "versions": {"torch": "2.0"},
        "commit": "abc123",
        "device": "cpu",
    }
    write_atomic(folder / "run.json", json.dumps(record))
    ids = [f"{BENCHMARK}/{number}" for number in range(count)]
    rows = [vars(Problem(key, BENCHMARK, "?", "1", BENCHMARK)) for key in ids]
    write_atomic(folder / "problems.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return ids


def write_evaluation(folder: Path, passes: Sequence[int], seed: int) -> None:
    """Write an evaluation in which `passes` of the N samples of each problem pass.

    Samples 0 to c−1 pass. The next one is unparsed and cut off, and the others agree on a wrong
    answer."""
    for key, c in zip(write_problems(folder, len(passes), seed), passes, strict=True):
        for index in range(N):
            cut = index == c
            append_jsonl(
                folder / "samples.jsonl", [Sample(key, index, "", "length" if cut else "stop", 5)]
            )
            status = "pass" if index < c else "unparsed" if cut else "fail"
            answer = {"pass": "1", "fail": "2", "unparsed": None}[status]
            append_jsonl(
                folder / "verdicts.jsonl", [Verdict(key, index, status, answer, BENCHMARK)]
            )
