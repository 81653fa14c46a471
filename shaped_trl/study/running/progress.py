"""The progress of runs, read from the rows that they write, as live bars or as plain lines."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from shaped_eval.sampling.progress import duration
from shaped_eval.untrusted.rows import parse_object

from shaped_trl.study.plan import StudyRun
from shaped_trl.study.running.schedule import FINISHED, remaining_seconds
from shaped_trl.training.log_reading import RL_LOG, TRAIN_LOG, with_step

LAST_ENDED = 5  # how many of the runs that ended well are still shown


class Meter:
    """Counts a run's steps or samples from its files, and reads only what was added."""

    def __init__(self, run: StudyRun):
        self.run = run
        self._inode: int | None = None
        self._offset = 0
        self._count = 0

    def read(self) -> tuple[int, int | None]:
        """Steps or samples so far, and in total (None if not known yet)."""
        if self.run.command == "eval":
            added = self._added(self.run.folder / "samples.jsonl")  # may reset the count
            self._count += added.count(b"\n")
            return self._count, self._num_samples()
        log = TRAIN_LOG if self.run.command == "train" else RL_LOG
        for line in self._added(self.run.folder / log).splitlines():
            with suppress(ValueError):  # the reader of the log will report a damaged row
                self._count = max(self._count, with_step(parse_object(line))["step"])
        total = self.run.settings.get("max_steps", -1)
        return self._count, total if total > 0 else None

    def _added(self, path: Path) -> bytes:
        """The complete lines appended since the last call."""
        if not path.exists():
            return b""
        with open(path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            # The file was replaced: a resumed run has dropped the rows that it will repeat.
            if inode != self._inode:
                self._inode, self._offset, self._count = inode, 0, 0
            file.seek(self._offset)
            added = file.read()
        added = added[: added.rfind(b"\n") + 1]
        self._offset += len(added)
        return added

    def _num_samples(self) -> int | None:
        problems, n = self.run.folder / "problems.jsonl", self.run.settings.get("n")
        return problems.read_bytes().count(b"\n") * n if n and problems.exists() else None


class Board:
    """The states of all runs and their seconds, for the display and the scheduler."""

    def __init__(self, runs: Sequence[StudyRun], max_parallel: int):
        self.runs = runs
        self.max_parallel = max_parallel
        self.states = {run.key: "waiting" for run in runs}
        self.begun_s = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.started_s: dict[str, float] = {}
        self.meters = {run.key: Meter(run) for run in runs}

    def elapsed_seconds(self, key: str) -> float:
        if key in self.seconds:
            return self.seconds[key]
        return time.monotonic() - self.started_s[key] if key in self.started_s else 0.0

    def projected_seconds(self) -> dict[str, float]:
        """Seconds per run: measured if it has ended, extrapolated after a tenth of its work."""
        projected = dict(self.seconds)
        for run in self.runs:
            if self.states[run.key] == "running":
                done, total = self.meters[run.key].read()
                if total and done >= total / 10:
                    projected[run.key] = self.elapsed_seconds(run.key) * max(1.0, total / done)
        return projected

    def eta_seconds(self, estimates: dict[str, float]) -> float | None:
        """Seconds to the end, or None as long as nothing has been timed."""
        if not self.projected_seconds():
            return None
        left = {
            key: max(0.0, estimates[key] - self.elapsed_seconds(key))
            for key, state in self.states.items()
            if state not in FINISHED
        }
        return remaining_seconds(self.runs, left, self.max_parallel)


class Display(Protocol):
    """Shows a board. `changed` follows the start or end of a run; `refresh` is called regularly."""

    def changed(self, board: Board, run: StudyRun) -> None: ...
    def refresh(self, board: Board, eta_seconds: float | None) -> None: ...
    def close(self) -> None: ...


class PlainDisplay:
    """Prints a line when a run starts and when it ends, for logs and pipes."""

    def __init__(self, console: Console):
        self.console = console

    def changed(self, board: Board, run: StudyRun) -> None:
        state = board.states[run.key]
        ended = sum(state in FINISHED for state in board.states.values())
        if state == "done" and run.key not in board.started_s:
            state = "kept"
        took = f" in {duration(board.seconds[run.key])}" if run.key in board.seconds else ""
        line = f"{state:<8} {run.key}{took}  [{ended}/{len(board.runs)}]"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, board: Board, eta_seconds: float | None) -> None:
        pass

    def close(self) -> None:
        pass


class LiveDisplay:
    """Shows a bar for the study, and bars for some runs below it, redrawn in place.

    These are the runs that are running, have failed or were among the last to end, since a study
    may have more runs than a terminal has lines.
    """

    def __init__(self, console: Console, runs: Sequence[StudyRun]):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[clock]}", justify="right"),
            console=console,
            expand=True,
            refresh_per_second=2,
        )
        self._whole = self._add("[bold]all runs")
        self._tasks: dict[str, TaskID] = {
            run.key: self._add(run.key, visible=False) for run in runs
        }
        self._ended: deque[TaskID] = deque()
        self._progress.start()

    def _add(self, name: str, visible: bool = True) -> TaskID:
        return self._progress.add_task(
            name, total=None, start=False, visible=visible, count="", state="waiting", clock=""
        )

    def changed(self, board: Board, run: StudyRun) -> None:
        state = board.states[run.key]
        task = self._tasks[run.key]
        clock = duration(board.elapsed_seconds(run.key)) if state != "skipped" else ""
        self._progress.update(task, state=state, clock=clock, visible=state != "skipped")
        if state == "done":
            done, _ = board.meters[run.key].read()
            self._progress.update(task, total=1, completed=1, count=str(done or ""))
            self._ended.append(task)
            if len(self._ended) > LAST_ENDED:
                self._progress.update(self._ended.popleft(), visible=False)

    def refresh(self, board: Board, eta_seconds: float | None) -> None:
        for run in board.runs:
            if board.states[run.key] == "running":
                done, total = board.meters[run.key].read()
                clock = duration(board.elapsed_seconds(run.key))
                count = f"{done}/{total}" if total else str(done or "")
                self._progress.update(
                    self._tasks[run.key], total=total, completed=done, count=count, clock=clock
                )
        ended = sum(state in FINISHED for state in board.states.values())
        left = f", about {duration(eta_seconds)} left" if eta_seconds else ""
        self._progress.update(
            self._whole,
            total=len(board.runs),
            completed=ended,
            count=f"{ended}/{len(board.runs)}",
            state="running" if ended < len(board.runs) else "ended",
            clock=duration(time.monotonic() - board.begun_s) + left,
        )

    def close(self) -> None:
        self._progress.stop()


def open_display(console: Console, runs: Sequence[StudyRun]) -> Display:
    """A display of bars on a terminal that can redraw them, and of lines elsewhere."""
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        return LiveDisplay(console, runs)
    return PlainDisplay(console)
