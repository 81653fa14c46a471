"""A study's command lines with their estimated cost, for a look before it runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from shaped_eval.sampling.progress import duration

from shaped_trl.study.definition import Study
from shaped_trl.study.plan import ADDED, StudyRun
from shaped_trl.study.running.machine import this_machine
from shaped_trl.study.running.schedule import estimate_seconds, group_of, remaining_seconds
from shaped_trl.study.running.seeds import begun_elsewhere, sentence
from shaped_trl.study.state import is_done, outcome, runs_to_keep


def print_commands(study: Study, runs: Sequence[StudyRun]) -> None:
    for view in study.each_regime():
        for folder, preparation in {
            view.data(arm, seed): view.preparation(arm, seed)
            for arm in view.arms
            for seed in view.seeds_of(arm)
        }.items():
            for name, options in preparation.items():
                print(f"# data: {name} {options} -> {folder}")
    estimates = estimate_seconds(
        runs, {run.key: outcome(run)["wall_seconds"] for run in runs if is_done(run)}
    )
    here = this_machine(study.max_parallel)
    elsewhere = begun_elsewhere(runs, here)
    for group, machines in elsewhere.items():
        print(f"# {sentence(group, machines, here)}")
    done = {run.key for run in runs if is_done(run) and group_of(run) not in elsewhere}
    for run in runs:
        command = (
            shlex.join(["shaped-trl", *run.argv])
            if run.command not in ADDED
            else f"# {shlex.join(run.argv)}"
        )
        cost = f": {duration(estimates[run.key])}" if run.seconds or is_done(run) else ""
        print(f"# {run.key}{', done' if run.key in done else ''}{cost}\n{command}")
    kept = {run.key for run in runs_to_keep(runs)} & done
    left = {run.key: estimates[run.key] for run in runs if run.key not in kept}
    print(f"# {len(runs)} runs, {len(left)} to do", end="")
    timed = {run.stage for run in runs if run.seconds or is_done(run)}
    if timed:
        total, wall = sum(left.values()), remaining_seconds(runs, left, study.max_parallel)
        print(
            f": about {duration(total)}, {duration(wall)} with {study.max_parallel} at a time",
            end="",
        )
        unknown = dict.fromkeys(
            r.stage
            for r in runs
            if r.key in left and r.stage not in timed and r.command not in ADDED
        )
        print(f"; no estimate for {', '.join(unknown)}" if unknown else "", end="")
    print()
