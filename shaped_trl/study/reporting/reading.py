"""The finished runs of one regime: the rows of their logs and the outcomes of evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shaped_eval.reporting.outcomes import Outcomes

from shaped_trl.study.definition import Study
from shaped_trl.study.finished import Rows, finished_run, outcomes_of, rows_of
from shaped_trl.study.state import PLANNED, read_state

Logs = dict[tuple[str, str], dict[int, Rows]]  # (arm, stage) → seed → rows
# (arm, stage) → seed → benchmark
Evaluations = dict[tuple[str, str], dict[int, dict[str, Outcomes]]]


@dataclass(frozen=True)
class RegimeRuns:
    """The finished runs of a study in one of its regimes.

    study: the study, seen in this regime.
    logs: of every arm and train or rlvr stage; a seed without rows is left out.
    evaluations: of every arm and eval stage. Arms that skip a stage have no seeds there.
    records: (arm, seed, stage) → the record of the run.
    """

    study: Study
    logs: Logs
    evaluations: Evaluations
    records: dict[tuple[str, int, str], dict[str, Any]]


def read_runs(study: Study) -> RegimeRuns:
    """Read the finished runs of a study, seen in one regime.

    Only runs with the settings of the last start count, if the study's folder has them.
    """
    fingerprints = read_state(study.out, PLANNED)
    found = {
        run: finished_run(study, *run, fingerprints.get(study.key(*run))) for run in planned(study)
    }
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
    return RegimeRuns(study, logs, evaluations, records)


def _rows(kept: dict[str, Any]) -> Rows:
    rows = rows_of(kept) if "log" in kept else []
    for row in rows:
        # Without dynamic sampling, every group is kept, and both rewards are the same.
        if "reward" in row:
            row.setdefault("raw_reward", row["reward"])
    return rows


def stages_of(study: Study, command: str) -> list[str]:
    """The study's stages with this command, in order."""
    return [name for name, stage in study.stages.items() if stage.command == command]


def planned(study: Study) -> Iterator[tuple[str, int, str]]:
    """(arm, seed, stage) of every run in this regime, including those that find temperatures."""
    for arm in study.arms:
        for seed in study.seeds_of(arm):
            for stage in dict.fromkeys(
                stage for name in study.stages for stage in _runs_for(study, arm, name)
            ):
                yield arm, seed, stage


def _runs_for(study: Study, arm: str, stage: str) -> Iterator[str]:
    if study.runs_stage(arm, stage):
        if added := study.added_stage(arm, stage):
            yield added
        yield stage


def temperatures(runs: RegimeRuns) -> dict[str, dict[str, float]]:
    """Arm → seed → its temperature; if it was found for several models, that of the last one."""
    found: dict[str, dict[str, float]] = {}
    for (arm, seed, _), kept in runs.records.items():
        if "found" in kept:
            found.setdefault(arm, {})[str(seed)] = kept["found"]["temperature"]
    return found
