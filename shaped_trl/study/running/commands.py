"""A study's command lines with their estimated cost, for a look before it runs.

The study may be somebody else's, so nothing in it has an effect on the terminal.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from shaped_eval.sampling.progress import duration
from shaped_eval.untrusted.texts import one_line, visible

from shaped_trl.study.definition import Study
from shaped_trl.study.plan import ADDED, StudyRun
from shaped_trl.study.power import planned_power, seeds_text
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
                print(one_line(f"# data: {name} {options} -> {folder}"))
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
            visible(shlex.join(["shaped-trl", *run.argv]))
            if run.command not in ADDED
            else one_line(f"# {shlex.join(run.argv)}")  # a second line would be no comment
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
    for line in _power_lines(study):
        print(f"# {line}")


def _power_lines(study: Study) -> Iterator[str]:
    """What the study's contrasts can find with its seeds, for each regime."""
    if study.contrasts is None:
        return
    for row in planned_power(study):
        where = _power_in(row["regime"])
        contrasts = f"{row['contrasts']} contrast{'s' if row['contrasts'] > 1 else ''}"
        start = f"{where}, {row['seeds']} seeds, {contrasts}, sd {row['sd']:g}"
        if row["seeds"] < 2:
            yield f"{start}: nothing is judged with fewer than two seeds"
            continue
        yield (
            f"{start}: {row['difference']:.0%} to find a difference of {row['margin']:g}, "
            f"{row['equivalence']:.0%} to show equivalence within it; 80% needs "
            f"{seeds_text(row['seeds_for_difference'])} seeds for a difference and "
            f"{seeds_text(row['seeds_for_equivalence'])} for equivalence"
        )
    unknown = [regime for regime in study.regimes or [""] if regime not in study.contrasts.sd]
    if unknown:
        yield (
            f"{_power_in(', '.join(unknown))}: not known, since contrasts gives no sd of paired "
            "differences from a pilot"
        )


def _power_in(regime: str) -> str:
    return f"power in {regime}" if regime else "power"
