"""Progress of sampling on the terminal, and a check that samples differ from each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shaped_eval.records import Sample

LINE_EVERY_S = 30.0


class SamplingProgress:
    """A progress bar on a terminal, or a line on standard error every 30 seconds.

    It shows samples done of `total`, tokens per second and time left, for this process since the
    command began.

    Args:
        total: samples of the run, or of this process's share of it.
        done: samples that existed before.
        shown: whether anything is printed.
        name: label before the numbers.
    """

    def __init__(self, total: int, done: int, shown: bool, name: str = "sampling") -> None:
        self.total = total
        self.done = done
        self._name = name
        self._at_start = done
        self._tokens = 0
        self._began = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._lines = shown and not console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, speed="")

    def __enter__(self) -> SamplingProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            print(
                f"stopped at {self.done} of {self.total} samples; the same command continues from "
                "there",
                file=sys.stderr,
            )

    def advance(self, samples: int, tokens: int) -> None:
        """Count `samples` more written samples, with `tokens` tokens in total."""
        self.done += samples
        self._tokens += tokens
        now = time.monotonic()
        seconds = max(now - self._began, 1e-9)
        speed = f"{self._tokens / seconds:,.0f} tokens/s"
        self._bar.update(self._task, completed=self.done, speed=speed)
        if self._lines and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            left_s = (self.total - self.done) * seconds / (self.done - self._at_start)
            counts = f"{self.done:,} of {self.total:,} samples"
            print(
                f"{self._name}: {counts}, {speed}, about {duration(left_s)} left",
                file=sys.stderr,
                flush=True,
            )


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
