"""A small file that claims to be large takes as little memory as it has rows."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.grade import MAX_SAMPLE_INDEX, _Marks
from shaped_eval.reporting.outcomes import MAX_SAMPLES, read_outcomes

NAMES = [f"p/{number}" for number in range(4)]


def memory_of(work: Callable[[], Any]) -> int:
    """The most bytes that `work` has at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("of_the_run", [True, False], ids=["the run's n", "a problem's own n"])
def test_samples_that_are_not_there_take_no_memory(of_the_run, tmp_path):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppaa"] * 4}, n=MAX_SAMPLES if of_the_run else 4)
    if not of_the_run:
        path = run / "problems.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        meta = {"n": MAX_SAMPLES}
        path.write_text("".join(json.dumps(row | {"meta": meta}) + "\n" for row in rows))

    def read() -> None:
        with pytest.raises(UserError, match="has 4 of n=10000000 samples"):
            read_outcomes(run)
        with pytest.raises(UserError, match=r"no problem .* has all its samples"):
            read_outcomes(run, interrupted=True)

    assert memory_of(read) < 10_000_000


def test_indices_far_beyond_the_rows_take_no_memory():
    marks = _Marks(NAMES)

    def mark() -> None:
        for name in NAMES:
            for sample_index in range(MAX_SAMPLE_INDEX, MAX_SAMPLE_INDEX - 10, -1):
                assert marks.add(name, sample_index)
                assert not marks.add(name, sample_index)

    assert memory_of(mark) < 1_000_000
    assert marks.count == 40


def test_samples_in_order_take_a_byte_each():
    marks = _Marks(["p"])

    def mark() -> None:
        for sample_index in range(100_000):
            marks.add("p", sample_index)

    assert memory_of(mark) < 500_000


def test_each_sample_is_new_once_in_any_order():
    rng = random.Random(0)
    for most in (10, 1_000, MAX_SAMPLE_INDEX):
        marks, seen = _Marks(NAMES), set()
        for _ in range(2_000):
            one = rng.choice(NAMES), min(rng.randrange(most), rng.randrange(most))
            assert marks.add(*one) == (one not in seen)
            seen.add(one)
        assert marks.count == len(seen)
