"""Which seeds have to start again because another machine has begun them.

The arms of a regime and seed are compared in pairs, and runs are comparable only if they were made
on equal machines. What is complete is kept, wherever it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shaped_trl.study.plan import StudyRun
from shaped_trl.study.running.machine import Machine, descriptions, recorded_machine
from shaped_trl.study.running.schedule import group_of
from shaped_trl.study.state import begun, is_done, outcome, retire


def begun_elsewhere(runs: Sequence[StudyRun], machine: Machine) -> dict[str, list[Machine | None]]:
    """The incomplete groups with runs of another machine than this one, and those machines.

    A group are the runs of a regime and seed. It is complete if all of `runs` in it are done. A
    machine is None if it is not known.
    """
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(group_of(run), []).append(run)
    found = {}
    for group, members in groups.items():
        if all(is_done(run) for run in members):
            continue
        states = [state for run in members if (state := outcome(run) or begun(run))]
        machines: list[Machine | None] = []
        for each in map(recorded_machine, states):
            if each != machine and each not in machines:
                machines.append(each)
        if machines:
            found[group] = machines
    return found


def start_again(runs: Sequence[StudyRun], found: Mapping[str, Sequence[Machine | None]]) -> None:
    """Move the folders and records of the groups that `begun_elsewhere` has found to stale/."""
    retired = [run for run in runs if group_of(run) in found]
    if retired:
        retire(retired)


def sentence(group: str, machines: Sequence[Machine | None], here: Machine) -> str:
    """Why the group starts again."""
    *before, now = descriptions([*machines, here])
    return (
        f"{group} starts again: it is incomplete and was begun on {' and on '.join(before)}; here "
        f"it is {now}. What was done moves to stale/."
    )
