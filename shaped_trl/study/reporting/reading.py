"""What the finished runs of one regime have left: the rows of their logs and the outcomes of their
evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shaped_eval.reporting.outcomes import Outcomes

from shaped_trl.study.definition import TEMPERATURE, Study
from shaped_trl.study.finished import Rows, finished, outcomes_of, rows_of
from shaped_trl.study.state import PLANNED, read_state

Logs = dict[tuple[str, str], dict[int, Rows]]  # (arm, stage) → seed → rows
# (arm, stage) → seed → benchmark
Evaluations = dict[tuple[str, str], dict[int, dict[str, Outcomes]]]


@dataclass(frozen=True)
class Runs:
    """The finished runs of a study as seen in one of its regimes.

    logs: of every arm and train or rlvr stage; a seed without a row is left out. evaluations: of
        every arm and eval
    stage. Arms that skip a stage have no seeds there. records: (arm, seed, stage) → what is kept of
    the run.
    """

    study: Study
    logs: Logs
    evaluations: Evaluations
    records: dict[tuple[str, int, str], dict[str, Any]]


def read_runs(study: Study) -> Runs:
    """Read what is done, of the study as seen in one regime: with the settings that it was last
    started with, where its folder says which."""
    wanted = read_state(study.out, PLANNED)
    found = {run: finished(study, *run, wanted.get(study.key(*run))) for run in planned(study)}
    records = {run: kept for run, kept in found.items() if kept is not None}
    logs: Logs = {
        (arm, name): {}
        for arm in study.arms
        for name, stage in study.stages.items()
        if stage.command != "eval"
    }
    evaluations: Evaluations = {
        (arm, name): {} for arm in study.arms for name in stages_of(study, "eval")
    }
    for (arm, seed, stage), kept in records.items():
        if "evaluation" in kept:
            evaluations[arm, stage][seed] = outcomes_of(kept)
        elif rows := _rows(kept):
            logs[arm, stage][seed] = rows
    return Runs(study, logs, evaluations, records)


def _rows(kept: dict[str, Any]) -> Rows:
    rows = rows_of(kept) if "log" in kept else []
    for row in rows:
        # Without dynamic sampling every group is kept, and the two are one.
        if "reward" in row:
            row.setdefault("raw_reward", row["reward"])
    return rows


def stages_of(study: Study, command: str) -> list[str]:
    """The study's stages of one command, in order."""
    return [name for name, stage in study.stages.items() if stage.command == command]


def planned(study: Study) -> Iterator[tuple[str, int, str]]:
    """(arm, seed, stage) of every run that the study has in this regime, those that find
    temperatures included."""
    for arm in study.arms:
        for seed in study.seeds_of(arm):
            for stage in dict.fromkeys(
                stage for name in study.stages for stage in _runs_for(study, arm, name)
            ):
                yield arm, seed, stage


def _runs_for(study: Study, arm: str, stage: str) -> Iterator[str]:
    if study.runs_stage(arm, stage):
        trained = study.trained(arm, stage)
        if study.arms[arm].entropy_of and study.stages[stage].command != "train" and trained:
            yield f"{TEMPERATURE}-{trained[1]}"
        yield stage


def temperatures(runs: Runs) -> dict[str, dict[str, float]]:
    """Arm → seed → the temperature that was found for it; of several models the last one's
    counts."""
    found: dict[str, dict[str, float]] = {}
    for (arm, seed, _), kept in runs.records.items():
        if "found" in kept:
            found.setdefault(arm, {})[str(seed)] = kept["found"]["temperature"]
    return found
