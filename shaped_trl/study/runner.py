"""Runs a study: prepares data, starts runs as they become ready, and writes the report at the end.

A study that was killed, or in which a run failed, continues when it is started again on the same
folder. Runs that are done with their present settings are kept, and a run that has started
continues if its stage can.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import connection
from pathlib import Path

from rich.console import Console
from shaped_eval.errors import UserError
from shaped_eval.provenance import source_commit
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.files import check_folder, own_folder
from shaped_eval.untrusted.locks import LOCK as FOLDER_LOCK
from shaped_eval.untrusted.locks import lock_in
from shaped_eval.untrusted.texts import one_line, visible

from shaped_trl import recipes
from shaped_trl.study.contents import fingerprint
from shaped_trl.study.contrasts_loading import check_measured
from shaped_trl.study.definition import Study
from shaped_trl.study.finished import finished_run
from shaped_trl.study.plan import ADDED, StudyRun, bound, check_options, plan
from shaped_trl.study.records import read_records, take_over
from shaped_trl.study.registration import register
from shaped_trl.study.running.child import run_child
from shaped_trl.study.running.commands import print_commands
from shaped_trl.study.running.devices import gpu_names
from shaped_trl.study.running.machine import Machine, this_machine
from shaped_trl.study.running.progress import Board, Display, open_display
from shaped_trl.study.running.schedule import estimate_seconds, group_of, next_run, share_of
from shaped_trl.study.running.seeds import begun_elsewhere, sentence, start_again
from shaped_trl.study.running.server import kill_server, start_server
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
    runs_to_keep,
    write_state,
)

ENTRY = "shaped_trl.cli:main"
ENTRY_OF_MATCH = "shaped_trl.study.running.temperature:main"
# Imported once by the server from which every run is forked. This saves each run about 5 s.
PRELOAD = (
    "shaped_trl.training.run",
    "shaped_trl.rlvr.run",
    "shaped_eval.sample",
    "shaped_eval.grade",
    "shaped_eval.report",
    "transformers.models.qwen3.modeling_qwen3",
)
GRACE_SECONDS = 5.0
LOCKS = ".locks"  # in a study's folder: a lock for each regime and seed
INTERRUPTED = 130


def run_study(
    study: Study,
    *,
    file: Path | None = None,
    dry_run: bool = False,
    share: tuple[int, int] = (1, 1),
    entry: str = ENTRY,
    preload: Sequence[str] = PRELOAD,
) -> int:
    """Run what is not done yet, then write the report. Call it from the main thread.

    Args:
        study: the study to run.
        file: the file that it was read from, for its pre-registration.
        dry_run: only print the command lines with their estimated cost.
        share: (i, n) for the i-th of n parts; the others may run on other machines with the same
            folder.
        entry: the "module:function" that a run calls with its command line.
        preload: the modules that the server imports in advance.

    Returns:
        0; 1 if a run failed (the end of its log is shown, and runs that need it are skipped); 130
        after Ctrl-C.

    Raises:
        UserError: `study.out` is a file; another process is running a part of this share there; or
            a command does not have an option, or refuses its type; or a contrast needs another
            number of samples than its evaluation draws.
    """
    check_folder(study.out)
    planned = plan(study)
    check_measured(study.contrasts, planned)
    runs = share_of(planned, *share)
    left = not all(is_done(run) for run in runs)
    try:
        if left and not dry_run:
            start_server(preload)
        if left and entry == ENTRY:
            check_options(runs)
        if dry_run:
            print_commands(study, runs)
            return 0
        with _locked(study.out, runs):
            _prepare(study, planned, runs, file)
            return _run_and_report(study, runs, entry)
    except (UserError, KeyboardInterrupt, BrokenPipeError):
        kill_server()
        raise


def _prepare(
    study: Study, planned: Sequence[StudyRun], runs: Sequence[StudyRun], file: Path | None
) -> None:
    """Write what a study's folder contains before its runs."""
    with folder_lock(study.out):
        take_over(study.out)
        _print_replaced_study(study)
        before = read_state(study.out, PLANNED)
        changed = dict.fromkeys(
            run.stage for run in planned if before.get(run.key, run.fingerprint) != run.fingerprint
        )
        register(study, file, len(read_records(study.out).finished), [*changed])
        write_atomic(study.out / "study.yaml", study.to_yaml())
        write_state(study.out, PLANNED, {run.key: run.fingerprint for run in planned})
        prepare_data(study, [run for run in runs if not is_done(run)])


class _Output(Console):
    """A console that leaves a broken pipe to the command."""

    def on_broken_pipe(self) -> None:
        raise


def _run_and_report(study: Study, runs: Sequence[StudyRun], entry: str) -> int:
    console = _Output()
    machine = this_machine(study.max_parallel)
    elsewhere = begun_elsewhere(runs, machine)
    for group, machines in elsewhere.items():
        words = sentence(group, machines, machine)
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    start_again(runs, elsewhere)
    runner = Runner(study, runs, entry, machine, open_display(console, runs))
    interrupted = False
    try:
        runner.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        runner.close()
    if interrupted:
        kill_server()
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


def _print_replaced_study(study: Study) -> None:
    """Print a line if the folder holds another study.

    `state.claim` moves the runs that the two studies do not share.
    """
    path = study.out / "study.yaml"
    before = recipes.load(path).get("name") if path.is_file() else study.name
    if before != study.name:
        replaced = f"{study.out} contained the study {one_line(str(before))}"
        print(f"{replaced}: runs that both share are kept, others move to stale/")


def prepare_data(study: Study, runs: Sequence[StudyRun]) -> None:
    """Write the data of these runs' regimes, seeds and arms, unless it is complete.

    Data is written again if its options have changed or its writer was killed.
    """
    views = {view.regime: view for view in study.each_regime()}
    for group in dict.fromkeys(map(group_of, runs)):
        members = [run for run in runs if group_of(run) == group]
        view, seed = views[members[0].regime], members[0].seed
        # The other arms' too, since a run of this one may start from their models.
        for arm in view.arms:
            folder, preparation = view.data(arm, seed), view.preparation(arm, seed)
            current = fingerprint(sorted(preparation.items()))
            if not preparation or read_state(folder, DONE).get("fingerprint") == current:
                continue
            folder = own_folder(study.out, *folder.relative_to(study.out).parts)
            (folder / DONE).unlink(missing_ok=True)
            for name, options in preparation.items():
                importlib.import_module(f"shaped_trl.data.{name}").write_corpus(folder, **options)
            write_state(folder, DONE, {"prepare": preparation, "fingerprint": current})


class Runner:
    """Starts runs in their order, up to `max_parallel` at a time, and follows them to the end."""

    def __init__(
        self,
        study: Study,
        runs: Sequence[StudyRun],
        entry: str,
        machine: Machine,
        display: Display,
    ):
        self.study = study
        self.runs = runs
        self.entry = entry
        self.machine = machine
        self.commit = source_commit()
        self.display = display
        self.board = Board(runs, study.max_parallel)
        self.context = multiprocessing.get_context("forkserver")
        self.processes: dict[str, multiprocessing.context.ForkServerProcess] = {}
        self.devices = gpu_names()
        self.slots: dict[str, int] = {}  # of each run: the lowest free number when it started

    def run(self) -> None:
        """Start and follow runs until nothing is running and nothing is ready."""
        for run in runs_to_keep(self.runs):
            self._keep(run)
            self.board.seconds[run.key] = outcome(run)["wall_seconds"]
            self._set(run, "done")
        while True:
            estimates = estimate_seconds(self.runs, self.board.projected_seconds())
            while len(self.processes) < self.study.max_parallel:
                chosen = next_run(self.runs, self.board.states, estimates)
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

    def _start(self, run: StudyRun) -> None:
        attempt = claim(run, self.machine)
        entry = ENTRY_OF_MATCH if run.command in ADDED else self.entry
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
            self.machine,
            self.commit,
            device,
        )
        process = self.context.Process(target=run_child, args=arguments, name=run.key)
        # Registered before the start, so that an interrupted start is ended too.
        self.processes[run.key] = process
        process.start()
        self.board.started_s[run.key] = time.monotonic()
        self._set(run, "running")

    def _finish(self, run: StudyRun) -> None:
        code = self.processes.pop(run.key).exitcode
        # Writing done.json is the last thing that a run does, so the exit code does not matter.
        if is_here(run):
            self._keep(run)
            self.board.seconds[run.key] = self.board.elapsed_seconds(run.key)
            self._set(run, "done")
            return
        if not (run.folder / FAILED).exists():  # a killed run could not write it itself
            write_state(
                run.folder,
                FAILED,
                {"argv": run.argv, "fingerprint": run.fingerprint, "exit_code": code},
            )
        keep_failure(run)
        self._set(run, "failed")
        dropped = {run.key}
        for later in self.runs:
            # One that is kept from an earlier start is not lost, nor is what starts from it.
            waits = self.board.states[later.key] == "waiting"
            if waits and dropped.intersection(later.depends_on):
                dropped.add(later.key)
                self._set(later, "skipped")

    def _keep(self, run: StudyRun) -> None:
        """Record the run, also if an earlier study was killed before it could do so."""
        finished_run(
            replace(self.study, regime=run.regime), run.arm, run.seed, run.stage, run.fingerprint
        )

    def _set(self, run: StudyRun, state: str) -> None:
        self.board.states[run.key] = state
        self.display.changed(self.board, run)

    def close(self) -> None:
        """End every process group that is still running, first with SIGTERM, then with SIGKILL.

        Ctrl-C is ignored meanwhile.
        """
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes = [process for process in self.processes.values() if process.pid is not None]
        _signal_groups(processes, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        # The groups again, since what a run has started may outlive it.
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
        except ProcessLookupError:  # the group has ended, or the process has not created it yet
            if process.exitcode is None:
                os.kill(process.pid, number)


@contextmanager
def _locked(out: Path, runs: Sequence[StudyRun]) -> Iterator[None]:
    """Allow one process per regime and seed of a folder.

    The locks end with the process that holds them.

    Raises:
        UserError: another process holds a lock, the folder cannot be written, or the folder of the
            locks is a symbolic link.
    """
    with ExitStack() as stack:
        if (out / LOCKS).is_symlink():
            own_folder(out, LOCKS)  # raises; a folder that is missing is created by `lock_in`
        for group in dict.fromkeys(group_of(run) for run in runs):
            in_use = partial(_in_use, out, group)
            stack.enter_context(lock_in(out, f"{LOCKS}/{group}", "out", in_use))
        yield


def _in_use(out: Path, group: str) -> UserError:
    return UserError(
        f"out: {out} is in use by another study process ({group}); wait for it or choose another "
        "folder"
    )


def folder_lock(out: Path) -> AbstractContextManager[None]:
    """Wait for the lock of what a study's folder contains before and after its runs.

    Raises:
        UserError: the folder cannot be made or written.
    """
    return lock_in(out, FOLDER_LOCK, "out")
