"""Runs a study: prepares data, starts runs as they become ready, keeps what is done, reports at the
end.

A study that was killed, or in which a run failed, continues when it is started again on the same
folder: runs that are done with the settings they have now are kept, a started one continues where
its stage can.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path

from rich.console import Console
from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.files import check_folder
from shaped_eval.untrusted.locks import LOCK as FOLDER_LOCK
from shaped_eval.untrusted.locks import lock
from shaped_eval.untrusted.texts import one_line, visible

from shaped_trl import recipes
from shaped_trl.study.definition import Study
from shaped_trl.study.finished import finished
from shaped_trl.study.plan import MATCH, Run, bound, check_options, fingerprint, plan
from shaped_trl.study.running.child import run_child
from shaped_trl.study.running.progress import Board, Display, duration, open_display
from shaped_trl.study.running.schedule import estimate_seconds, next_run, remaining_seconds
from shaped_trl.study.state import (
    DONE,
    FAILED,
    LOG,
    PLANNED,
    claim,
    is_done,
    is_here,
    keep_failure,
    log_tail,
    outcome,
    read_state,
    write_state,
)

ENTRY = "shaped_trl.cli:main"
ENTRY_OF_MATCH = "shaped_trl.study.running.temperature:main"
# Imported once by the server that every run is forked from: about 5 s saved on each run.
PRELOAD = (
    "shaped_trl.training.run",
    "shaped_trl.rlvr.run",
    "shaped_eval.sample",
    "shaped_eval.grade",
    "shaped_eval.report",
    "transformers.models.qwen3.modeling_qwen3",
)
GRACE_SECONDS = 5.0
INTERRUPTED = 130


def run_study(
    study: Study,
    *,
    dry_run: bool = False,
    share: tuple[int, int] = (1, 1),
    entry: str = ENTRY,
    preload: Sequence[str] = PRELOAD,
) -> int:
    """Run what is not done yet, then write the report. Must be called from the main thread.

    `dry_run` prints the command lines with their estimated cost and does nothing else. `share` (i,
    n) is the i-th of n parts, which may run on other machines with the same folder. `entry`
    ("module:function") is what a run calls with its command line, `preload` what the server imports
    beforehand.

    Returns:
        0, or 1 where a run failed (its log's end is shown, runs that need it are skipped), or 130
        after Ctrl-C.

    Raises:
        UserError: `study.out` is a file, or another process is running a part of this study's share
            there; an option that its command does not have, or refuses by its kind.
    """
    check_folder(study.out)
    planned = plan(study)
    runs = share_of(planned, *share)
    left = not all(is_done(run) for run in runs)
    try:
        if left and not dry_run:
            _start_server(preload)
        if left and entry == ENTRY:
            check_options(runs)
        if dry_run:
            _print_commands(study, runs)
            return 0
        with _locked(study.out, runs):
            _prepare(study, planned, data=left)
            return _run_and_report(study, runs, entry)
    except (UserError, KeyboardInterrupt, BrokenPipeError):
        _kill_server()
        raise


def _prepare(study: Study, planned: Sequence[Run], *, data: bool) -> None:
    """What lies in the study's folder before its runs."""
    with folder_lock(study.out):
        _say_what_was_there(study)
        write_atomic(study.out / "study.yaml", study.to_yaml())
        write_state(study.out, PLANNED, {run.key: run.fingerprint for run in planned})
        if data:
            prepare_data(study)


class _Output(Console):
    """Leaves it to the command what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise


def _run_and_report(study: Study, runs: Sequence[Run], entry: str) -> int:
    console = _Output()
    runner = Runner(study, runs, entry, open_display(console, runs))
    interrupted = False
    try:
        runner.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        runner.close()
    if interrupted:
        _kill_server()
        console.print("Interrupted. The same command continues where this one stopped.")
        return INTERRUPTED
    failed = [run for run in runs if runner.board.states[run.key] == "failed"]
    for run in failed:
        console.print(
            f"\n{run.key} failed; the end of {run.folder / LOG}:", markup=False, soft_wrap=True
        )
        console.print(visible(log_tail(run.folder)), markup=False, highlight=False, soft_wrap=True)
    from shaped_trl.study.report import report_study

    with folder_lock(study.out):
        console.print(f"Report: {report_study(study.out)}", markup=False, soft_wrap=True)
    return 1 if failed else 0


def _say_what_was_there(study: Study) -> None:
    """One line where the folder holds another study: `state.claim` moves what the two do not
    share."""
    path = study.out / "study.yaml"
    before = recipes.load(path).get("name") if path.is_file() else study.name
    if before != study.name:
        held = f"{study.out} held the study {one_line(str(before))}"
        print(f"{held}: runs that the two share are kept, others go to stale/")


def share_of(runs: Sequence[Run], part: int, parts: int) -> list[Run]:
    """The runs of the `part`-th of `parts` parts, from 1 on. Runs that need or are paired with each
    other, those of a regime and seed, stay together."""
    groups = list(dict.fromkeys(_group(run) for run in runs))
    mine = groups[part - 1 :: parts]
    return [run for run in runs if _group(run) in mine]


def _group(run: Run) -> str:
    return f"{run.regime}-seed{run.seed}".lstrip("-")


def to_keep(runs: Sequence[Run]) -> list[Run]:
    """The runs that are done, but for those whose models, which others start from, were left
    elsewhere."""
    again: set[str] = set()
    needed: set[str] = set()
    for run in reversed(runs):
        if not is_done(run) or (run.key in needed and not is_here(run)):
            again.add(run.key)
            needed.update(run.depends_on)
    return [run for run in runs if run.key not in again]


def prepare_data(study: Study) -> None:
    """Write the data of every regime once, and of arms with their own; again where options have
    changed or a writer was killed."""
    for view in study.each_regime():
        for arm in view.arms:
            folder, preparation = view.data(arm), view.preparation(arm)
            wanted = fingerprint(sorted(preparation.items()))
            if not preparation or read_state(folder, DONE).get("fingerprint") == wanted:
                continue
            (folder / DONE).unlink(missing_ok=True)
            for name, options in preparation.items():
                importlib.import_module(f"shaped_trl.data.{name}").write_corpus(folder, **options)
            write_state(folder, DONE, {"prepare": preparation, "fingerprint": wanted})


class Runner:
    """Starts runs in their order, up to `max_parallel` at a time, and follows them to their end."""

    def __init__(self, study: Study, runs: Sequence[Run], entry: str, display: Display):
        self.study = study
        self.runs = runs
        self.entry = entry
        self.display = display
        self.board = Board(runs, study.max_parallel)
        self.context = multiprocessing.get_context("forkserver")
        self.processes: dict[str, multiprocessing.context.ForkServerProcess] = {}
        self.num_threads = max(1, num_cores() // study.max_parallel)
        self.devices = visible_devices()
        self.slots: dict[str, int] = {}  # of what runs: the lowest numbers that are free

    def with_state(self, *states: str) -> list[str]:
        return [key for key, state in self.board.states.items() if state in states]

    def run(self) -> None:
        """Until nothing runs and nothing is ready."""
        for run in to_keep(self.runs):
            self._keep(run)
            self.board.seconds[run.key] = outcome(run)["wall_seconds"]
            self._set(run, "done")
        while True:
            estimates = estimate_seconds(self.runs, self.board.projected_seconds())
            while len(self.processes) < self.study.max_parallel:
                chosen = next_run(
                    self.runs, self.with_state("waiting"), self.with_state("done"), estimates
                )
                if chosen is None:
                    break
                self._start(chosen)
            if not self.processes:
                return
            connection.wait([process.sentinel for process in self.processes.values()], timeout=0.5)
            for run in self.runs:
                if run.key in self.processes and self.processes[run.key].exitcode is not None:
                    self._finish(run)
            self.display.refresh(self.board, self.board.eta_seconds(estimates))

    def _start(self, run: Run) -> None:
        attempt = claim(run, self.study.out / "stale")
        entry = ENTRY_OF_MATCH if run.command == MATCH else self.entry
        slot = min(
            set(range(self.study.max_parallel)) - {self.slots[key] for key in self.processes}
        )
        self.slots[run.key] = slot
        alone = not any(run.settings.get(key) for key in ("num_processes", "accelerate_config"))
        device = self.devices[slot % len(self.devices)] if self.devices and alone else None
        arguments = (
            entry,
            bound(run),
            run.folder,
            run.fingerprint,
            attempt,
            self.num_threads,
            device,
        )
        process = self.context.Process(target=run_child, args=arguments, name=run.key)
        # before the start, so that an interrupted one is ended too
        self.processes[run.key] = process
        process.start()
        self.board.started_s[run.key] = time.monotonic()
        self._set(run, "running")

    def _finish(self, run: Run) -> None:
        code = self.processes.pop(run.key).exitcode
        # it has said so as its last act: how its process ended after that is of no interest
        if is_here(run):
            self._keep(run)
            self.board.seconds[run.key] = self.board.elapsed_seconds(run.key)
            self._set(run, "done")
            return
        if not (run.folder / FAILED).exists():  # killed: it could not say so itself
            write_state(
                run.folder,
                FAILED,
                {"argv": run.argv, "fingerprint": run.fingerprint, "exit_code": code},
            )
        keep_failure(run, self.study.out)
        self._set(run, "failed")
        dropped = {run.key}
        for later in self.runs:
            if dropped.intersection(later.depends_on):
                dropped.add(later.key)
                self._set(later, "skipped")

    def _keep(self, run: Run) -> None:
        """Its JSON; also of one that was killed between done.json and that."""
        finished(
            replace(self.study, regime=run.regime), run.arm, run.seed, run.stage, run.fingerprint
        )

    def _set(self, run: Run, state: str) -> None:
        self.board.states[run.key] = state
        self.display.changed(self.board, run)

    def close(self) -> None:
        """End every process group that still runs: politely, then for good, whatever else is
        pressed."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes = [process for process in self.processes.values() if process.pid is not None]
        _signal_groups(processes, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        # The groups again: what a run had started may outlive it.
        _signal_groups(processes, signal.SIGKILL)
        for process in processes:
            process.join()
        self.display.close()
        signal.signal(signal.SIGINT, previous)


def _signal_groups(processes: Sequence[multiprocessing.process.BaseProcess], number: int) -> None:
    for process in processes:
        assert process.pid is not None
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # the group is gone, or the process has not made it yet
            if process.exitcode is None:
                os.kill(process.pid, number)


def _start_server(preload: Sequence[str]) -> None:
    """Start the fork server without waiting for its imports."""
    multiprocessing.set_forkserver_preload(list(preload))
    # A run that is ended leaves locks to Python's resource tracker, which frees them and need not
    # warn of it.
    with _environment("PYTHONWARNINGS", "ignore:resource_tracker"):
        resource_tracker.ensure_running()
    # While importing, the server would die of the terminal's Ctrl-C with a traceback of its own.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, previous)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    yield
    del os.environ[name]
    if before is not None:
        os.environ[name] = before


def _kill_server() -> None:
    """It ends with this process, but not before its imports, seconds after the prompt is back."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def visible_devices() -> list[str]:
    """GPUs that this process may use, as CUDA numbers or names them; runs side by side are dealt
    out to them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    # CUDA counts from 0 what there is, whatever the machine's own number of it is
    there = [
        path
        for path in Path("/dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    ]
    return [str(number) for number in range(len(there))]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_commands(study: Study, runs: Sequence[Run]) -> None:
    for view in study.each_regime():
        for folder, preparation in {
            view.data(arm): view.preparation(arm) for arm in view.arms
        }.items():
            for name, options in preparation.items():
                print(f"# data: {name} {options} -> {folder}")
    estimates = estimate_seconds(
        runs, {run.key: outcome(run)["wall_seconds"] for run in runs if is_done(run)}
    )
    for run in runs:
        command = (
            shlex.join(["shaped-trl", *run.argv])
            if run.command != MATCH
            else f"# {shlex.join(run.argv)}"
        )
        said = f": {duration(estimates[run.key])}" if run.seconds or is_done(run) else ""
        print(f"# {run.key}{', done' if is_done(run) else ''}{said}\n{command}")
    kept = {run.key for run in to_keep(runs)}
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
            r.stage for r in runs if r.key in left and r.stage not in timed and r.command != MATCH
        )
        print(f"; {', '.join(unknown)}: nobody has said how long" if unknown else "", end="")
    print()


@contextmanager
def _locked(out: Path, runs: Sequence[Run]) -> Iterator[None]:
    """One process per regime and seed of a folder; the locks end with the process that holds
    them."""
    with ExitStack() as stack:
        for group in dict.fromkeys(_group(run) for run in runs):
            stack.enter_context(lock(out / ".locks" / group, partial(_in_use, out, group)))
        yield


def _in_use(out: Path, group: str) -> UserError:
    return UserError(
        f"out: {out} is in use by another study process ({group}); wait for it or choose another folder"
    )


def folder_lock(out: Path) -> AbstractContextManager[None]:
    """Wait for, and hold, what lies in a study's folder before and after its runs."""
    return lock(out / FOLDER_LOCK)
