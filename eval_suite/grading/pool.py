"""Grade completions in killable worker processes.

An item has two limits. After `soft_timeout_s` of CPU time an alarm in the worker stops it (its status is
``timeout``, and the worker is replaced); CPU time, so that a busy machine changes no verdict. Where that does
not reach, as inside one long C call, the parent kills the worker after `hard_timeout_s` of wall time. A
worker that dies (killed, out of memory, a crash in C) makes its item an ``error``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from eval_suite.errors import UserError
from eval_suite.grading.base import Grade, GradeRequest
from eval_suite.grading.graders import grader_spec, load
from eval_suite.grading.nursery import Nursery

OnDone = Callable[[int, Grade], None]


@dataclass
class _Job:
    """One distinct grading and the requests it answers."""

    request: GradeRequest  # its completion reduced to what decides
    indices: list[int] = field(default_factory=list)
    deaths: int = 0  # of workers at this job


@dataclass(eq=False)
class _Worker:
    pid: int
    channel: Connection
    job: _Job | None = None
    deadline_s: float = 0.0


class GraderPool:
    """Workers that stay between calls of `grade`, so that a trainer can reuse one pool at every step.

    Use it as a context manager, or `close` it. Workers start when the first isolated grader needs them, by
    forking from a fresh interpreter: safe from any thread, beside torch or CUDA, and in scripts without an
    ``if __name__ == "__main__"`` guard, because the caller's script is never imported again. They ignore
    Ctrl-C and end with the process that made the pool, however it ends. POSIX only. Calls of `grade` from
    several threads run one after another; do not use one pool on both sides of a fork.

    Args:
        num_workers: processes; None for one per available core.
        soft_timeout_s: limit on one item's CPU time.
        hard_timeout_s: limit on one item's wall time.
        memory_limit_mb: address space of a worker, in MiB; Linux only.

    Raises:
        UserError: num_workers < 1, memory_limit_mb < 1, or not 0 < soft_timeout_s < hard_timeout_s.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        soft_timeout_s: float = 3.0,
        hard_timeout_s: float = 6.0,
        memory_limit_mb: int = 4096,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise UserError(f"num_workers={num_workers} must be at least 1, or left out for one per core")
        if not 0 < soft_timeout_s < hard_timeout_s:
            raise UserError(
                f"soft_timeout_s={soft_timeout_s} must be above 0 and below hard_timeout_s={hard_timeout_s}"
            )
        if memory_limit_mb < 1:
            raise UserError(f"memory_limit_mb={memory_limit_mb} must be at least 1")
        self.num_workers = num_workers or _available_cores()
        self._hard_timeout_s = hard_timeout_s
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
        """Grade all requests; the grades come in their order. Equal gradings are done once.

        `on_done(index, grade)` is called in this thread as soon as a request has its grade, in any order.

        Raises:
            UserError: an unknown grader.
        """
        grades: list[Grade | None] = [None] * len(requests)

        def finish(job: _Job, grade: Grade) -> None:
            for index in job.indices:
                grades[index] = grade
                if on_done is not None:
                    on_done(index, grade)

        jobs: dict[GradeRequest, _Job] = {}
        for index, request in enumerate(requests):
            reduce = grader_spec(request.grader).reduce
            if reduce is not None:
                request = request._replace(completion=load(reduce)(request.completion))
            jobs.setdefault(request, _Job(request)).indices.append(index)
        isolated: deque[_Job] = deque()
        for job in jobs.values():
            if grader_spec(job.request.grader).isolated:
                isolated.append(job)
            else:
                finish(job, _grade_here(job.request))
        if isolated:
            with self._lock:
                self._run(isolated, finish)
        return [grade for grade in grades if grade is not None]

    def _run(self, queue: deque[_Job], finish: Callable[[_Job, Grade], None]) -> None:
        try:
            while queue or any(worker.job for worker in self._workers):
                self._assign(queue)
                busy = [worker for worker in self._workers if worker.job is not None]
                patience_s = max(0.0, min(worker.deadline_s for worker in busy) - time.monotonic())
                ready = set(wait([worker.channel for worker in busy], patience_s))
                for worker in busy:
                    if worker.channel in ready:
                        self._collect(worker, queue, finish)
                    elif time.monotonic() >= worker.deadline_s:
                        self._end(worker, finish, Grade("timeout", None))
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._discard(worker)  # only after an exception, Ctrl-C among them, is one still busy

    def _assign(self, queue: deque[_Job]) -> None:
        """Give each idle worker a job, starting workers up to num_workers."""
        idle = [worker for worker in self._workers if worker.job is None]
        while queue and (idle or len(self._workers) < self.num_workers):
            worker = idle.pop() if idle else self._spawn()
            message = {**queue[0].request._asdict(), **self._limits}
            worker.deadline_s = time.monotonic() + self._hard_timeout_s
            try:
                worker.channel.send_bytes(json.dumps(message).encode())
            except (BrokenPipeError, ConnectionResetError):
                self._discard(worker)  # it died while idle; the job stays in the queue for another
            else:
                worker.job = queue.popleft()

    def _collect(self, worker: _Worker, queue: deque[_Job], finish: Callable[[_Job, Grade], None]) -> None:
        job = worker.job
        assert job is not None
        try:
            reply = json.loads(worker.channel.recv_bytes())
        except (EOFError, ConnectionResetError):  # the worker died, perhaps through no fault of the item
            job.deaths += 1
            if job.deaths > 1:
                self._end(worker, finish, Grade("error", None))
            else:
                self._discard(worker)
                queue.append(job)
            return
        grade = Grade(reply["status"], reply["answer"])
        if reply["retire"]:
            self._end(worker, finish, grade)
            return
        worker.job = None
        finish(job, grade)

    def _end(self, worker: _Worker, finish: Callable[[_Job, Grade], None], grade: Grade) -> None:
        job = worker.job
        assert job is not None
        self._discard(worker)
        finish(job, grade)

    def _spawn(self) -> _Worker:
        if self._nursery is None:
            self._nursery = Nursery()
        try:
            pid, channel = self._nursery.spawn()
        except ConnectionError:
            self._nursery.close()
            self._nursery = Nursery()  # something killed it; if a new one ends too, that is an error of ours
            pid, channel = self._nursery.spawn()
        worker = _Worker(pid, channel)
        self._workers.append(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.channel.close()
        if self._nursery is None:
            return  # gone, and the worker with it
        try:
            self._nursery.kill(worker.pid)
        except ConnectionError:
            self._nursery.close()
            self._nursery = None  # the next spawn starts another


def _grade_here(request: GradeRequest) -> Grade:
    try:
        return Grade(*load(grader_spec(request.grader).function)(request.completion, request.gold))
    except Exception:  # any fault of a grader: the item's status says so
        return Grade("error", None)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
