"""Which run is next, and how long the rest takes: pure functions on seconds.

All runs of a seed end before those of the next seed begin, so that a study that is interrupted has
complete pairs. Within a seed, the chain of waiting runs that is longest in seconds starts first
(critical path), so that the last runs of two workers end at about the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shaped_trl.study.plan import StudyRun

FINISHED = ("done", "failed", "skipped")  # the states of a run that has ended
# The share of a study's time, as in the demo, for a stage that has not been timed and for which the
# study gives no seconds. Only the order depends on it.
_WEIGHT = {"train": 1.0, "rlvr": 1.0, "eval": 0.2, "match": 0.1, "divide": 0.1}


def estimate_seconds(runs: Sequence[StudyRun], measured: Mapping[str, float]) -> dict[str, float]:
    """The seconds that each run takes, by its key.

    These are, in this order: measured; the mean of its stage; what the study says; its command's
    weight at the measured pace.

    If nothing is measured and the study says nothing, the numbers are weights: right for the order,
    meaningless as seconds.
    """
    by_stage: dict[str, list[float]] = {}
    for run in runs:
        if run.key in measured:
            by_stage.setdefault(run.stage, []).append(measured[run.key])
    stage_means = {stage: sum(seconds) / len(seconds) for stage, seconds in by_stage.items()}
    timed = {run.stage: run.command for run in runs if run.stage in stage_means}
    weight = sum(_WEIGHT[command] for command in timed.values())
    pace = sum(stage_means.values()) / weight if weight else 1.0

    def expected(run: StudyRun) -> float:
        unmeasured = _WEIGHT[run.command] * pace if run.seconds is None else run.seconds
        return measured.get(run.key, stage_means.get(run.stage, unmeasured))

    return {run.key: expected(run) for run in runs}


def path_seconds(runs: Sequence[StudyRun], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from a run's start to the end of the longest chain that depends on it."""
    longest: dict[str, float] = {}
    for run in reversed(runs):
        after = [longest[later.key] for later in runs if run.key in later.depends_on]
        longest[run.key] = seconds[run.key] + max(after, default=0.0)
    return longest


def next_run(
    runs: Sequence[StudyRun], states: Mapping[str, str], seconds: Mapping[str, float]
) -> StudyRun | None:
    """The ready run with the longest chain behind it, or None.

    Only runs of the first seed that is not finished count. Of equal ones, it is
    the first in the plan.
    """
    seeds = (run.seed for run in runs if states[run.key] not in FINISHED)
    seed = next(seeds, None)
    candidates = [run for run in runs if run.seed == seed]
    longest = path_seconds(candidates, seconds)
    ready = [
        run
        for run in candidates
        if states[run.key] == "waiting" and all(states[need] == "done" for need in run.depends_on)
    ]
    return max(ready, key=lambda run: longest[run.key], default=None)


def remaining_seconds(
    runs: Sequence[StudyRun], left: Mapping[str, float], max_parallel: int
) -> float:
    """Seconds to the end, the sum over seeds.

    For a seed, it is the larger of the total work per worker and the longest chain. `left` are the
    seconds left of each unfinished run.
    """
    by_seed: dict[int, list[StudyRun]] = {}
    for run in runs:
        if run.key in left:
            by_seed.setdefault(run.seed, []).append(run)
    return sum(
        max(
            sum(left[run.key] for run in unfinished) / max_parallel,
            max(path_seconds(unfinished, left).values()),
        )
        for unfinished in by_seed.values()
    )


def share_of(runs: Sequence[StudyRun], part: int, parts: int) -> list[StudyRun]:
    """The runs of part number `part`, from 1 on, of `parts`.

    The runs of a regime and seed stay together, since they need each other or are compared in
    pairs.
    """
    groups = list(dict.fromkeys(group_of(run) for run in runs))
    mine = groups[part - 1 :: parts]
    return [run for run in runs if group_of(run) in mine]


def group_of(run: StudyRun) -> str:
    return f"{run.regime}-seed{run.seed}".lstrip("-")
