"""Which run next, and how long the rest takes: pure functions on seconds.

The chain of waiting runs that is longest in seconds starts first (critical path), so that the last
runs of two workers end at about the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shaped_trl.study.plan import Run

# Where a stage has not been timed and its study says nothing: its share of a study's time, as in
# the demo. Only the order hangs on it.
_WEIGHT = {"train": 1.0, "rlvr": 1.0, "eval": 0.2, "match": 0.1}


def estimate_seconds(runs: Sequence[Run], measured: Mapping[str, float]) -> dict[str, float]:
    """Seconds per run key: measured, or the mean of its stage, or what the study says, or its
    command's weight at the measured pace.

    With nothing measured or said the numbers are weights: right for ordering, meaningless as
    seconds.
    """
    by_stage: dict[str, list[float]] = {}
    for run in runs:
        if run.key in measured:
            by_stage.setdefault(run.stage, []).append(measured[run.key])
    stage_means = {stage: sum(seconds) / len(seconds) for stage, seconds in by_stage.items()}
    timed = {run.stage: run.command for run in runs if run.stage in stage_means}
    weight = sum(_WEIGHT[command] for command in timed.values())
    pace = sum(stage_means.values()) / weight if weight else 1.0

    def expected(run: Run) -> float:
        said = _WEIGHT[run.command] * pace if run.seconds is None else run.seconds
        return measured.get(run.key, stage_means.get(run.stage, said))

    return {run.key: expected(run) for run in runs}


def path_seconds(runs: Sequence[Run], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from a run's start to the end of the longest chain that depends on it."""
    longest: dict[str, float] = {}
    for run in reversed(runs):
        after = [longest[later.key] for later in runs if run.key in later.depends_on]
        longest[run.key] = seconds[run.key] + max(after, default=0.0)
    return longest


def next_run(
    runs: Sequence[Run],
    waiting: Collection[str],
    done: Collection[str],
    seconds: Mapping[str, float],
) -> Run | None:
    """The ready run with the longest chain behind it, of equals the plan's first; None if none is
    ready."""
    longest = path_seconds(runs, seconds)
    ready = [
        run for run in runs if run.key in waiting and all(need in done for need in run.depends_on)
    ]
    return max(ready, key=lambda run: longest[run.key], default=None)


def remaining_seconds(runs: Sequence[Run], left: Mapping[str, float], max_parallel: int) -> float:
    """Time to the end, from the seconds left per unfinished run: the larger of work and longest
    chain."""
    unfinished = [run for run in runs if run.key in left]
    if not unfinished:
        return 0.0
    seconds = {run.key: left.get(run.key, 0.0) for run in runs}
    return max(sum(left.values()) / max_parallel, max(path_seconds(runs, seconds).values()))
