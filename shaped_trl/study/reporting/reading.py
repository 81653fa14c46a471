"""The finished runs of one regime: the rows of their logs and the outcomes of evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shaped_eval.errors import UserError
from shaped_eval.reporting.outcomes import Outcomes

from shaped_trl.study.definition import Study
from shaped_trl.study.finished import Rows, finished_run, outcomes_of, rows_of
from shaped_trl.study.records import RECORDS
from shaped_trl.study.running.machine import Machine, descriptions, recorded_machine
from shaped_trl.study.state import PLANNED, read_state, why_failed

Value = TypeVar("Value")
Run = tuple[str, int, str]  # (arm, seed, stage)
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
    failures: (arm, seed, stage) → why a run with its present settings has failed.
    """

    study: Study
    logs: Logs
    evaluations: Evaluations
    records: dict[Run, dict[str, Any]]
    failures: dict[Run, str] = field(default_factory=dict)

    def machines(self, arm: str, stage: str, seed: int) -> list[Machine | None]:
        """The different machines of a run and of the runs before it.

        None is the machine of records that do not name theirs, such as those of earlier versions.
        """
        found: list[Machine | None] = []
        for each in self._chain(arm, stage):
            kept = self.records.get((each[0], seed, each[1]))
            machine = recorded_machine(kept["outcome"]) if kept else None
            if kept and machine not in found:
                found.append(machine)
        return found

    def _chain(self, arm: str, stage: str) -> Iterator[tuple[str, str]]:
        """(arm, stage) of a run and of all runs that it builds on."""
        yield arm, stage
        for each in self.study.needs(arm, stage):
            yield from self._chain(*each)

    def paired(
        self, by_seed: Mapping[int, Value], own: tuple[str, str], base: tuple[str, str]
    ) -> dict[int, Value]:
        """The values of the seeds for which the two (arm, stage) may be compared.

        Others were made on different machines.
        """
        return {seed: v for seed, v in by_seed.items() if self.is_paired(seed, own, base)}

    def is_paired(self, seed: int, own: tuple[str, str], base: tuple[str, str]) -> bool:
        """Whether all runs behind the two (arm, stage) of a seed were made on equal machines.

        A machine that is not known equals only another one that is not known.
        """
        machines = [*self.machines(*own, seed), *self.machines(*base, seed)]
        return all(machine == machines[0] for machine in machines)


def read_runs(study: Study) -> RegimeRuns:
    """Read the finished runs of a study, seen in one regime.

    Only runs with the settings of the last start count, if the study's folder has them.
    """
    fingerprints = read_state(study.out, PLANNED)
    records, failures = {}, {}
    for run in planned(study):
        key, folder = study.key(*run), study.folder(*run)
        if kept := finished_run(study, *run, fingerprints.get(key)):
            records[run] = kept
        if why := why_failed(folder, key, study.out, fingerprints.get(key)):
            failures[run] = why
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
        _check_content(study, (arm, seed, stage), kept)
        if "evaluation" in kept:
            evaluations[arm, stage][seed] = outcomes_of(kept)
        elif rows := _rows(kept):
            logs[arm, stage][seed] = rows
    return RegimeRuns(study, logs, evaluations, records, failures)


def _check_content(study: Study, run: tuple[str, int, str], kept: dict[str, Any]) -> None:
    """Check that a record, which may be somebody else's, is of the kind of its stage."""
    spec = study.stages.get(run[2])  # None of a stage that finds a temperature
    expected = "found" if spec is None else "evaluation" if spec.command == "eval" else "log"
    if expected not in kept:
        raise UserError(f"{study.out / RECORDS}: {study.key(*run)}: its record has no {expected}")


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


def next_evaluations(study: Study) -> Iterator[tuple[str, str]]:
    """Pairs of evaluations of two models at one temperature; the second was trained further."""
    stages = stages_of(study, "eval")
    for number, after in enumerate(stages):
        for before in reversed(stages[:number]):
            one, other = study.stages[before], study.stages[after]
            if one.temperature == other.temperature and one.model != other.model:
                yield before, after
                break


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


def unlike_machines(runs: RegimeRuns) -> list[dict[str, Any]]:
    """The seeds whose runs were made on different machines.

    Each is {"regime", "seed", "machines": [{"machine": its description, "arms"}, ...]}. An arm with
    runs on several machines is named with each of them.
    """
    found = []
    for seed in dict.fromkeys(seed for _, seed, _ in runs.records):
        arms: dict[str, list[str]] = {}
        machines: dict[str, Machine | None] = {}
        for (arm, other, _), kept in runs.records.items():
            if other == seed:
                machine = recorded_machine(kept["outcome"])
                name = json.dumps(machine, sort_keys=True)
                machines[name] = machine
                if arm not in arms.setdefault(name, []):
                    arms[name].append(arm)
        if len(machines) > 1:
            words = zip(descriptions(list(machines.values())), arms.values(), strict=True)
            each = [{"machine": machine, "arms": names} for machine, names in words]
            found.append({"regime": runs.study.regime, "seed": seed, "machines": each})
    return found


def runs_not_finite(runs: RegimeRuns) -> Iterator[str]:
    """The keys of the runs whose log has a NaN or an infinity, as after a loss that diverged."""
    for (arm, stage), by_seed in runs.logs.items():
        for seed, rows in by_seed.items():
            if not all(math.isfinite(value) for row in rows for value in row.values()):
                yield runs.study.key(arm, seed, stage)


def temperatures(runs: RegimeRuns) -> dict[str, dict[str, float]]:
    """Arm → seed → its temperature; if it was found for several models, that of the last one."""
    found: dict[str, dict[str, float]] = {}
    for (arm, seed, _), kept in runs.records.items():
        if "found" in kept:
            found.setdefault(arm, {})[str(seed)] = kept["found"]["temperature"]
    return found
