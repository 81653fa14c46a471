"""Grades completions in killable worker processes.

An item has two limits. After `soft_timeout_s` of CPU time, an alarm in the worker stops it: its
status is ``timeout``, and the worker is replaced. CPU time is used so that a busy machine changes
no verdict. If the alarm has no effect, as inside one long C call, the parent kills the worker after
`hard_timeout_s` of wall time. If a worker dies (killed, out of memory, a crash in C), its item is
tried once more and then becomes an ``error``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait

from shaped_eval.errors import UserError
from shaped_eval.grading.base import DIED, Grade, GradeRequest
from shaped_eval.grading.extract import without_reasoning, without_tags
from shaped_eval.grading.graders import grader_spec, load, typed_graders
from shaped_eval.grading.nursery import Nursery

OnDone = Callable[[int, Grade], None]

WINDOW_REQUESTS = 2_048  # most requests that are read but not done
READ_AHEAD_JOBS = 64
REMEMBERED_GRADES = 8_192
# longest deciding part of a completion that is remembered; hostile answers are longer
REMEMBERED_CHARACTERS = 2_000


@dataclass
class _Job:
    """One distinct grading, and the requests that it answers."""

    request: GradeRequest  # with the completion reduced to its deciding part
    indices: list[int] = field(default_factory=list)
    deaths: int = 0  # number of workers that died at this job


@dataclass(eq=False)
class _Worker:
    pid: int
    channel: Connection
    job: _Job | None = None
    deadline_s: float = 0.0


class _Stream:
    """Reads requests when there is room, and merges equal ones into one job.

    The jobs in `queue` wait for a worker.
    """

    def __init__(
        self,
        requests: Iterable[GradeRequest],
        on_done: OnDone,
        window: int,
        read_ahead: int,
        keep_reasoning: bool,
    ) -> None:
        self.queue: deque[_Job] = deque()
        self._source = enumerate(requests)
        self._on_done = on_done
        self._room = window
        self._read_ahead = read_ahead
        self._without_reasoning = without_tags if keep_reasoning else without_reasoning
        self._checked: set[str] = set()
        self._open: dict[GradeRequest, _Job] = {}
        self._done: OrderedDict[GradeRequest, Grade] = OrderedDict()

    def read(self) -> bool:
        """Read until enough jobs are queued; return whether there is one to assign."""
        while self._room > 0 and len(self.queue) < self._read_ahead:
            index, request = next(self._source, (0, None))
            if request is None:
                break
            self._room -= 1
            self._take(index, request)
        return bool(self.queue)

    def _take(self, index: int, request: GradeRequest) -> None:
        spec = grader_spec(request.grader)
        if spec.check is not None and request.grader not in self._checked:
            load(spec.check)()
            self._checked.add(request.grader)
        request = request._replace(completion=self._without_reasoning(request.completion))
        if spec.reduce is not None:
            request = request._replace(completion=load(spec.reduce)(request.completion))
        if request in self._done:
            self._done.move_to_end(request)
            self._report(index, self._done[request])
        elif request in self._open:
            self._open[request].indices.append(index)
        else:
            job = self._open[request] = _Job(request, [index])
            if spec.isolated:
                self.queue.append(job)
            else:
                self.finish(job, _grade_here(request))

    def finish(self, job: _Job, grade: Grade) -> None:
        del self._open[job.request]
        if len(job.request.completion) <= REMEMBERED_CHARACTERS:
            self._done[job.request] = grade
            if len(self._done) > REMEMBERED_GRADES:
                self._done.popitem(last=False)
        for index in job.indices:
            self._report(index, grade)

    def _report(self, index: int, grade: Grade) -> None:
        self._room += 1
        self._on_done(index, grade)


class GraderPool:
    """Worker processes that persist between calls of `grade`, so that a trainer can reuse one pool.

    Use it as a context manager, or `close` it. Workers start when the first isolated grader needs
    them, by forking from a fresh interpreter. This is safe from any thread, beside torch or CUDA,
    and in scripts without an ``if __name__ == "__main__"`` guard, because the caller's script is
    never imported again. Workers ignore Ctrl-C and end with the process that made the pool, however
    that ends. POSIX only. Calls of `grade` from several threads run one after another. Do not use
    one pool on both sides of a fork.

    Args:
        num_workers: number of processes; None for one per available core.
        soft_timeout_s: limit of an item's CPU time.
        hard_timeout_s: limit of an item's wall time.
        memory_limit_mb: address space of a worker in MiB; Linux only.
        keep_reasoning: grade the text in ``<think>`` tags like the rest of a completion. By default
            it is dropped before any grader sees it.

    Raises:
        UserError: num_workers < 1, memory_limit_mb < 1, or not 0 < soft_timeout_s < hard_timeout_s.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        soft_timeout_s: float = 3.0,
        hard_timeout_s: float = 6.0,
        memory_limit_mb: int = 4096,
        keep_reasoning: bool = False,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise UserError(
                f"num_workers={num_workers} must be at least 1, or left out for one per core"
            )
        if not 0 < soft_timeout_s < hard_timeout_s:
            raise UserError(
                f"soft_timeout_s={soft_timeout_s} must be above 0 and below "
                f"hard_timeout_s={hard_timeout_s}"
            )
        if memory_limit_mb < 1:
            raise UserError(f"memory_limit_mb={memory_limit_mb} must be at least 1")
        self.num_workers = num_workers or _available_cores()
        self._hard_timeout_s = hard_timeout_s
        self._keep_reasoning = keep_reasoning
        self._limits = {"soft_timeout_s": soft_timeout_s, "memory_limit_mb": memory_limit_mb}
        self._nursery: Nursery | None = None
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. A later `grade` starts new ones."""
        while self._workers:
            self._workers.pop().channel.close()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def grade(self, requests: Sequence[GradeRequest], on_done: OnDone | None = None) -> list[Grade]:
        """Grade all requests and return the grades in the same order. Equal gradings are done once.

        `on_done(index, grade)` is called in this thread as soon as a request has its grade, in any
        order.

        Raises:
            UserError: a grader is unknown, or cannot run on this machine.
        """
        grades: list[Grade | None] = [None] * len(requests)

        def keep(index: int, grade: Grade) -> None:
            grades[index] = grade
            if on_done is not None:
                on_done(index, grade)

        with self._lock:
            self._run(_Stream(requests, keep, len(requests), len(requests), self._keep_reasoning))
        return [grade for grade in grades if grade is not None]

    def grade_stream(self, requests: Iterable[GradeRequest], on_done: OnDone) -> None:
        """Grade requests as they arrive and keep none of them.

        At most 2,048 requests are read but not done. `on_done(index, grade)` is called in this
        thread, in any order. Equal gradings are done once, unless 8,192 others lie between them.

        Raises:
            UserError: a grader is unknown, or cannot run on this machine.
        """
        with self._lock:
            self._run(
                _Stream(requests, on_done, WINDOW_REQUESTS, READ_AHEAD_JOBS, self._keep_reasoning)
            )

    def _run(self, stream: _Stream) -> None:
        try:
            while stream.read() or any(worker.job for worker in self._workers):
                self._assign(stream.queue)
                stream.read()  # while the workers are busy
                busy = [worker for worker in self._workers if worker.job is not None]
                patience_s = max(0.0, min(worker.deadline_s for worker in busy) - time.monotonic())
                ready = set(wait([worker.channel for worker in busy], patience_s))
                for worker in busy:
                    if worker.channel in ready:
                        self._collect(worker, stream)
                    elif time.monotonic() >= worker.deadline_s:
                        self._end(worker, stream, Grade("timeout", None))
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                # a worker is still busy only after an exception, which includes Ctrl-C
                self._discard(worker)

    def _assign(self, queue: deque[_Job]) -> None:
        """Give each idle worker a job, and start workers up to num_workers."""
        idle = [worker for worker in self._workers if worker.job is None]
        while queue and (idle or len(self._workers) < self.num_workers):
            worker = idle.pop() if idle else self._spawn()
            spec = grader_spec(queue[0].request.grader)
            message = {**queue[0].request._asdict(), **self._limits}
            message["typed"] = queue[0].request.grader in typed_graders()
            message["soft_timeout_s"] = max(self._limits["soft_timeout_s"], spec.soft_timeout_s)
            worker.deadline_s = time.monotonic() + max(self._hard_timeout_s, spec.hard_timeout_s)
            try:
                worker.channel.send_bytes(json.dumps(message, default=asdict).encode())
            except (BrokenPipeError, ConnectionResetError):
                self._discard(
                    worker
                )  # it died while idle; the job stays in the queue for another worker
            else:
                worker.job = queue.popleft()

    def _collect(self, worker: _Worker, stream: _Stream) -> None:
        job = worker.job
        assert job is not None
        try:
            reply = json.loads(worker.channel.recv_bytes())
        # the worker died, perhaps through no fault of the item
        except (EOFError, ConnectionResetError):
            job.deaths += 1
            if job.deaths > 1:
                self._end(worker, stream, Grade("error", None, DIED))
            else:
                self._discard(worker)
                stream.queue.append(job)
            return
        retire = reply.pop("retire")
        grade = Grade(**reply)
        if retire:
            self._end(worker, stream, grade)
            return
        worker.job = None
        stream.finish(job, grade)

    def _end(self, worker: _Worker, stream: _Stream, grade: Grade) -> None:
        job = worker.job
        assert job is not None
        self._discard(worker)
        stream.finish(job, grade)

    def _spawn(self) -> _Worker:
        if self._nursery is None:
            self._nursery = Nursery()
        try:
            pid, channel = self._nursery.spawn()
        except ConnectionError:
            self._nursery.close()
            # something killed it; if the new one ends too, that is a bug here
            self._nursery = Nursery()
            pid, channel = self._nursery.spawn()
        worker = _Worker(pid, channel)
        self._workers.append(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.channel.close()
        if self._nursery is None:
            return  # it ended, and the worker with it
        try:
            self._nursery.kill(worker.pid)
        except ConnectionError:
            self._nursery.close()
            self._nursery = None  # the next spawn starts another


def _grade_here(request: GradeRequest) -> Grade:
    try:
        return Grade(*load(grader_spec(request.grader).function)(request.completion, request.gold))
    except Exception:  # any fault of a grader, which the item's status reports
        return Grade("error", None)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
