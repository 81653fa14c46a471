"""What the runs of one regime have left: rows of their logs and outcomes of their evaluations, each file read once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_suite.outcomes import Outcomes, read_outcomes
from shaped_trl.study.definition import TEMPERATURE, Study
from shaped_trl.study.logs import RL_LOG, TRAIN_LOG, read_log
from shaped_trl.study.plan import FOUND
from shaped_trl.study.state import DONE

Rows = list[dict[str, Any]]
Logs = dict[tuple[str, str], dict[int, Rows]]  # (arm, stage) → seed → rows
Evaluations = dict[tuple[str, str], dict[int, dict[str, Outcomes]]]  # (arm, stage) → seed → benchmark


@dataclass(frozen=True)
class Runs:
    """The finished runs of a study as seen in one of its regimes.

    logs: of every arm and train or rlvr stage; a seed without a row is left out. evaluations: of every arm and eval
    stage. Arms that skip a stage have no seeds there.
    """

    study: Study
    logs: Logs
    evaluations: Evaluations


def read_runs(study: Study) -> Runs:
    """Read what is done, of the study as seen in one regime."""
    logs: Logs = {}
    evaluations: Evaluations = {}
    for name, stage in study.stages.items():
        for arm in study.arms:
            folders = {seed: study.folder(arm, seed, name) for seed in _done_seeds(study, arm, name)}
            if stage.command == "eval":
                evaluations[arm, name] = {seed: read_outcomes(folder) for seed, folder in folders.items()}
            else:
                found = {seed: _log(folder, stage.command) for seed, folder in folders.items()}
                logs[arm, name] = {seed: rows for seed, rows in found.items() if rows}
    return Runs(study, logs, evaluations)


def _log(folder: Path, command: str) -> Rows:
    rows = read_log(folder / (TRAIN_LOG if command == "train" else RL_LOG))
    if command != "train":
        for row in rows:
            # Without dynamic sampling every group is kept, and the two are one.
            row.setdefault("raw_reward", row.get("reward"))
    return rows


def _done_seeds(study: Study, arm: str, stage: str) -> list[int]:
    if not study.runs_stage(arm, stage):
        return []
    return [seed for seed in study.seeds_of(arm) if (study.folder(arm, seed, stage) / DONE).exists()]


def stages_of(study: Study, command: str) -> list[str]:
    """The study's stages of one command, in order."""
    return [name for name, stage in study.stages.items() if stage.command == command]


def key_of(study: Study, arm: str, seed: int, stage: str) -> str:
    """What a run is called, its regime first where there are several."""
    return "/".join([*([study.regime] if study.regime else []), arm, f"seed{seed}", stage])


def planned(study: Study) -> Iterator[tuple[str, int, str]]:
    """(arm, seed, stage) of every run that the study has in this regime, those that find temperatures included."""
    for arm in study.arms:
        for seed in study.seeds_of(arm):
            for stage in dict.fromkeys(stage for name in study.stages for stage in _runs_for(study, arm, name)):
                yield arm, seed, stage


def _runs_for(study: Study, arm: str, stage: str) -> Iterator[str]:
    if study.runs_stage(arm, stage):
        trained = trained_model(study, arm, stage)
        if study.arms[arm].entropy_of and study.stages[stage].command != "train" and trained:
            yield f"{TEMPERATURE}-{trained[1]}"
        yield stage


def trained_model(study: Study, arm: str, stage: str) -> tuple[str, str] | None:
    """(arm, stage) of the pre- or mid-trained model that a stage starts from, before any RL; None if there is none."""
    found = study.start(arm, stage)
    if found is None or study.stages[found[1]].command == "train":
        return found
    return trained_model(study, found[0], found[1])


def temperatures(study: Study) -> dict[str, dict[str, float]]:
    """Arm → seed → the temperature that was found for it; of several models the last one's counts."""
    found: dict[str, dict[str, float]] = {}
    for arm, seed, stage in planned(study):
        folder = study.folder(arm, seed, stage)
        if stage.startswith(f"{TEMPERATURE}-") and (folder / DONE).exists():
            value = json.loads((folder / FOUND).read_text(encoding="utf-8"))["temperature"]
            found.setdefault(arm, {})[str(seed)] = value
    return found
