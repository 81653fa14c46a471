"""A grading worker: answers requests from its pipe within the soft timeout until the pipe closes.

Messages are JSON in both directions: nothing that graded text could influence is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, get_args

from shaped_eval.grading.base import Grade, SoftTimeout
from shaped_eval.grading.graders import grader_spec, load
from shaped_eval.grading.sandbox.checker import Limits
from shaped_eval.records import Status
from shaped_eval.untrusted.texts import one_line

REPEAT_ALARM_S = 0.25
RETIRE_SHARE = 0.25  # share of the memory limit; a worker whose peak exceeds it is replaced
PR_SET_PDEATHSIG = 1
LONGEST_REASON = 300


def serve(channel: Connection, parent_pid: int) -> None:
    """Grade until end of file.

    Each message has its own limits. A worker that must be replaced sends its answer and returns.
    """
    _die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory_limit_mb: int | None = None
    while True:
        try:
            message = json.loads(channel.recv_bytes())
        except EOFError:
            return
        if memory_limit_mb is None:
            memory_limit_mb = message["memory_limit_mb"]
            _limit_memory(memory_limit_mb * 2**20)
        limits = Limits(**message["limits"]) if message["limits"] else None
        reply = answer(
            message["grader"],
            message["completion"],
            message["gold"],
            message["soft_timeout_s"],
            limits,
            message["typed"],
        )
        forget = None if message["typed"] else grader_spec(message["grader"]).forget
        if forget is not None:
            load(forget)()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )
        # An interrupted algebra system may have inconsistent state, so its worker is replaced.
        retire = reply["status"] in ("timeout", "error") or peak_mb > RETIRE_SHARE * memory_limit_mb
        try:
            channel.send_bytes(json.dumps({**reply, "retire": retire}).encode())
        except BrokenPipeError:
            return  # the parent has ended
        if retire:
            return


def answer(
    grader: str,
    completion: str,
    gold: str,
    soft_timeout_s: float,
    limits: Limits | None = None,
    typed: bool = False,
) -> dict[str, Any]:
    """Grade one item; return the fields of `Grade`, the optional ones if they are set.

    Must run in the main thread of its process. `typed` says that the user typed the path `grader`;
    see `grader_spec`.
    """
    try:
        # Before the clock starts: importing a grader of the user's own may take long.
        function = load(grader_spec(grader, typed).function)
        with _soft_timeout(soft_timeout_s):
            grade = _checked(Grade(*function(completion, gold, *([limits] if limits else []))))
    except SoftTimeout:
        grade = Grade("timeout", None)
    except Exception as error:  # any fault of a grader, MemoryError included; the status reports it
        said = one_line(f"{type(error).__name__}: {error}")[:LONGEST_REASON]
        grade = Grade("error", None, f"grader {grader} raised {said}" if typed else None)
    return {
        name: value
        for name, value in grade._asdict().items()
        if name in ("status", "answer") or value is not None
    }


def _checked(grade: Grade) -> Grade:
    if grade.status not in get_args(Status):
        raise ValueError(f"status={grade.status!r} is not one of {', '.join(get_args(Status))}")
    for name in ("answer", "reason", "confinement"):
        if not isinstance(getattr(grade, name), str | None):
            raise TypeError(f"{name}={getattr(grade, name)!r} is not a text or None")
    return grade


@contextlib.contextmanager
def _soft_timeout(seconds: float) -> Iterator[None]:
    """Raise SoftTimeout after this much CPU time of the process itself.

    A busy machine therefore changes no verdict.
    """
    armed = True

    def expire(signum: int, frame: object) -> None:
        if armed:
            raise SoftTimeout

    signal.signal(signal.SIGPROF, expire)
    # The alarm repeats, because an exception raised inside a destructor or a callback is dropped.
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEAT_ALARM_S)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses this limit
        hard_bytes = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard_bytes != resource.RLIM_INFINITY:
            limit_bytes = min(limit_bytes, hard_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _die_with(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the request
            os._exit(1)
