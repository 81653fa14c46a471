"""The bar of sampling: the batch that is running, and when the run will end."""

from __future__ import annotations

import random

import pytest
from shaped_eval.backends.base import Progress
from shaped_eval.sample import sample
from shaped_eval.sampling import progress
from shaped_eval.sampling.progress import SamplingProgress

ROOM = 400


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def batch_of(lengths: list[int], clock: Clock, bar: SamplingProgress):
    """Run one batch whose steps take 30 ms and 4 ms a row; yield after each step."""
    for step in range(1, max(lengths) + 1):
        running = sum(length >= step for length in lengths)
        clock.now += 0.03 + 0.004 * running
        ended = sum(length <= step for length in lengths)
        tokens = sum(min(length, step) for length in lengths)
        bar.step(Progress(ended, len(lengths) - ended, step, tokens))
        yield ended
    bar.advance(len(lengths), sum(lengths))


@pytest.mark.parametrize("mean", [30, 120, 5_000])
@pytest.mark.parametrize("batches", [1, 4])
def test_the_estimate_is_right_within_a_factor_of_two(monkeypatch, mean, batches):
    """From where a third of the first batch has ended, or after 50 s if they end later."""
    rng = random.Random(mean)
    all_lengths = [
        [min(ROOM, 1 + int(rng.expovariate(1 / mean))) for _ in range(64)] for _ in range(batches)
    ]
    clock = Clock(monkeypatch)
    with SamplingProgress(64 * batches, 0, shown=False, room=ROOM) as bar:
        estimates = []
        for lengths in all_lengths:
            for ended in batch_of(lengths, clock, bar):
                early = bar.done == 0 and ended < 22 and clock.now - 100 < 50
                if not early:
                    estimates.append((clock.now, bar.seconds_left(clock.now)))
    whole = clock.now - 100
    assert len(estimates) > 20
    for now, left in estimates:
        total = now - 100 + left
        assert whole / 2 <= total <= 2 * whole, (now - 100, left, whole)


@pytest.mark.parametrize("mean", [30, 120, 5_000])
def test_an_estimate_without_batches_is_right_within_a_factor_of_two(monkeypatch, mean):
    """Sixteen requests of eight samples are under way at a time, and each is counted at its end."""
    rng = random.Random(mean)
    longest = [
        max(min(ROOM, 1 + int(rng.expovariate(1 / mean))) for _ in range(8)) for _ in range(100)
    ]
    clock = Clock(monkeypatch)
    estimates = []
    with SamplingProgress(800, 0, shown=False, room=ROOM) as bar:
        bar.at_once = 128
        running, waiting = longest[:16], longest[16:]
        while running:
            step = min(running)
            clock.now += 0.05 * step
            left = [length - step for length in running]
            for _ in range(left.count(0)):
                bar.advance(8, 8 * mean)
                estimates.append((clock.now - 100, bar.seconds_left(clock.now)))
            running = [length for length in left if length]
            started = 16 - len(running)
            running, waiting = running + waiting[:started], waiting[started:]
    whole = clock.now - 100
    assert [left for _, left in estimates[:15]] == [None] * 15
    for spent, left in estimates[15:]:
        assert whole / 2 <= spent + left <= 2 * whole, (spent, left, whole)


def test_nothing_is_estimated_before_anything_is_done():
    with SamplingProgress(5, 0, shown=False) as bar:
        assert bar.seconds_left(0.0) is None


def test_a_line_shows_rows_and_tokens_while_a_batch_runs(make_config, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    sample(make_config(batch_size="auto", limit=2))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sampling")]
    assert len(lines) > 5
    first = lines[0].split(", ")
    assert first[0] == "sampling: 0 of 10 samples"
    assert first[1].endswith(" of 10 in this batch")
    assert first[2] == "10 tokens"
    assert first[3].endswith(" tokens/s")
    assert lines[-1].startswith("sampling: 10 of 10 samples, ")


def test_scoring_counts_requests(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with SamplingProgress(8, 0, True, "scoring", "requests") as bar:
        bar.advance(4, 16)
    line = capsys.readouterr().err
    assert line.startswith("scoring: 4 of 8 samples, ")
    assert " requests/s, about " in line
