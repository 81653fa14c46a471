"""Progress of sampling on the terminal, and a check that samples differ from each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from shaped_eval.backends.base import Progress
from shaped_eval.records import Sample

LINE_EVERY_S = 30.0


class SamplingProgress:
    """A progress bar on a terminal, or a line on standard error every 30 seconds.

    It shows samples done of `total`, the batch that is running, the speed and the time left, for
    this process since the command began.

    Args:
        total: samples of the run, or of this process's share of it.
        done: samples that existed before.
        shown: whether anything is printed.
        name: label before the numbers.
        unit: what the speed counts.
        room: most tokens of a completion, to estimate when a batch ends.

    Attributes:
        at_once: samples that the backend has under way together, where it has no batches. Until so
            many have ended, most of the work that is done is in others, and nothing is estimated.
    """

    def __init__(
        self,
        total: int,
        done: int,
        shown: bool,
        name: str = "sampling",
        unit: str = "tokens",
        room: int = 1,
    ) -> None:
        self.total = total
        self.done = done
        self._name = name
        self._unit = unit
        self._room = room
        self._at_start = done
        self._amount = 0
        self._batch: Progress | None = None
        self.at_once = 0
        self._began = self._last_line = self._last_advance = time.monotonic()
        console = Console(stderr=True)
        self._lines = shown and not console.is_terminal
        self._bar = rich.progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, speed="", left="")

    def __enter__(self) -> SamplingProgress:
        self._began = self._last_line = self._last_advance = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, samples: int, amount: int) -> None:
        """Count `samples` more written samples, and `amount` of what the speed counts."""
        self.done += samples
        self._amount += amount
        self._batch = None
        self._last_advance = time.monotonic()
        self._show(self._last_advance)

    def step(self, batch: Progress) -> None:
        """Show how far the batch is that is running."""
        self._batch = batch
        self._show(time.monotonic())

    def seconds_left(self, now: float) -> float | None:
        """An estimate from the batches that are done, or else from the steps of the first one.

        None before anything is done, and before `at_once` samples are.
        """
        here, rest = self.done - self._at_start, self.total - self.done
        spent = now - self._last_advance
        batch = self._batch
        if here < self.at_once:
            return None
        if here:
            per_sample = (self._last_advance - self._began) / here
            rows = min(rest, batch.ended + batch.running) if batch is not None else 0
            return (rest - rows) * per_sample + max(rows * per_sample - spent, 0.0)
        if batch is None:
            return None
        rows = batch.ended + batch.running
        whole = spent * _whole(batch, self._room)
        return max(rest - rows, 0) * whole / rows + whole - spent

    @property
    def amount(self) -> int:
        """What the speed counts, with the batch that is running."""
        return self._amount + (self._batch.tokens if self._batch is not None else 0)

    @property
    def in_sight(self) -> int:
        """The samples that this command has finished or has in progress."""
        batch = self._batch
        return self.done - self._at_start + (batch.ended + batch.running if batch else 0)

    @property
    def has_ended(self) -> bool:
        """Whether a sample has ended in this command."""
        return self.done > self._at_start or (self._batch is not None and self._batch.ended > 0)

    def _show(self, now: float) -> None:
        batch = self._batch
        amount = self.amount
        speed = f"{amount / max(now - self._began, 1e-9):,.0f} {self._unit}/s"
        if batch is not None:
            rows = batch.ended + batch.running
            speed = f"{batch.ended:,} of {rows:,} in this batch, {amount:,} tokens, {speed}"
        left_s = self.seconds_left(now)
        left = "" if left_s is None else f"about {duration(left_s)} left"
        self._bar.update(self._task, completed=self.done, speed=speed, left=left)
        if self._lines and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            counts = f"{self.done:,} of {self.total:,} samples"
            text = ", ".join(filter(None, (counts, speed, left)))
            print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def _whole(batch: Progress, room: int) -> float:
    """The time of a batch, divided by the time that it has taken so far: an estimate.

    Lengths are taken as exponentially distributed. Their mean is estimated from all tokens so far
    by the number of rows that have ended. Of R rows the longest has that mean times the R-th
    harmonic number. The time of a step has a part for each row and a part for all, in unknown
    shares. If there was only the first, time would go with the tokens, and if there was only the
    second, with the steps. A geometric mean of both is taken, in which the tokens count twice.
    """
    mean = batch.tokens / batch.ended if batch.ended else room
    room_left = max(room - batch.length, 0)
    longest = mean * sum(1 / row for row in range(1, batch.running + 1))
    steps = 1 + min(room_left, longest) / batch.length
    tokens = 1 + batch.running * min(room_left, mean) / batch.tokens
    return (steps * tokens**2) ** (1 / 3)


class RepetitionCheck:
    """Checks whether samples of one problem ever differ; keeps one hash per problem."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._samples = 0
        self._differ = False

    def add(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            text = hash(sample.completion)
            first = self._first.setdefault(sample.problem_id, text)
            self._differ = self._differ or text != first
            self._samples += 1

    @property
    def suspicious(self) -> bool:
        """Whether none of at least eight samples differed from their problem's first sample."""
        return not self._differ and self._samples - len(self._first) >= 8


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
