"""The process that workers are forked from (the nursery), and the handle to it.

It is a fresh interpreter with one thread that has imported and warmed up the isolated graders, and
never sees the caller's ``__main__``, CUDA context or threads. Forking from it takes milliseconds,
while starting a worker from scratch takes seconds. ``multiprocessing``'s fork server would import
the caller's script into each worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection

from shaped_eval.grading.graders import grader_spec, load, typed_graders
from shaped_eval.grading.worker import answer, serve

_MESSAGE = struct.Struct("=cqq")  # an operation, its number and a process id
_SPAWN, _KILL = b"S", b"K"
_CLOSE_TIMEOUT_S = 10.0
# The parser learns its grammar during use, and forked workers inherit what it has learnt.
_WARM_UP = (
    (r"\frac{\sqrt{2}}{2}+x", r"x+\sqrt{2}/3"),
    (r"(1,\frac{\pi}{2}]", r"[1,\sqrt{3})"),
    (r"(-\infty,5) \cup (5,\infty)", r"x \in [-2,7]"),
    (r"x^5 - 2x^4 + 3", r"x^4(x - 2) + 5"),
    (r"y = 2x + 3", r"y = \frac{1}{2}x + 3"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/3 \\ 2 \end{pmatrix}"),
    (r"3 \pm 2\sqrt{2}", r"\{1, -2\}"),
    (r"1 - 12i", r"145^\circ"),
)
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from shaped_eval.grading.nursery import main; main(int(sys.argv[1]), sys.argv[3:])"
)


class Nursery:
    """Starts and kills workers. Not thread-safe. Its process ends on `close` or with the caller."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), json.dumps(sys.path), *typed_graders()]
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self.close = weakref.finalize(self, _close, self._control, process)
        self._process = process
        self._number = 0

    def spawn(self) -> tuple[int, Connection]:
        """Start a worker; return its process id and the pipe to it.

        The first call waits for the nursery's imports.

        Raises:
            ConnectionError: the nursery has ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._ask(_SPAWN, fds=[theirs.fileno()])
        return pid, Connection(ours.detach())

    def kill(self, pid: int) -> None:
        """Kill and reap a worker; one that has already ended is only reaped.

        Raises:
            ConnectionError: the nursery has ended, and its workers with it.
        """
        self._ask(_KILL, pid)

    def _ask(self, operation: bytes, pid: int = 0, fds: Sequence[int] = ()) -> int:
        self._number += 1
        socket.send_fds(self._control, [_MESSAGE.pack(operation, self._number, pid)], fds)
        while True:
            reply = self._control.recv(_MESSAGE.size, socket.MSG_WAITALL)
            if len(reply) < _MESSAGE.size:
                raise ConnectionError(
                    f"the nursery of grading processes ended (exit code {self._process.poll()})"
                )
            _, number, pid = _MESSAGE.unpack(reply)
            if (
                number == self._number
            ):  # not the reply to an earlier request that Ctrl-C interrupted
                return pid


def _close(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    try:
        process.wait(_CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(control_fd: int, own_graders: Sequence[str]) -> None:
    """Run the nursery: warm up, then fork and kill on request until the caller's socket closes.

    Graders of the user's own are imported here, once for all workers. One that cannot be imported
    makes its items errors, in the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles Ctrl-C
    control = socket.socket(fileno=control_fd)
    from shaped_eval.grading.math import algebra

    for given, gold in _WARM_UP:
        answer("math", f"\\boxed{{{given}}}", gold, soft_timeout_s=60.0)
    algebra.remember()
    for name in own_graders:
        with contextlib.suppress(Exception):
            load(grader_spec(name, typed=True).function)
    gc.collect()
    gc.freeze()  # keep the imported pages shared between the workers
    workers: set[int] = set()
    try:
        while True:
            message, fds, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
            if not message:
                return
            operation, number, pid = _MESSAGE.unpack(message)
            if operation == _SPAWN:
                pid = _fork(control, fds[0])
                workers.add(pid)
            elif pid in workers:
                workers.remove(pid)
                _kill(pid)
            control.sendall(_MESSAGE.pack(operation, number, pid))
    except (BrokenPipeError, ConnectionResetError):
        return  # the caller has ended
    finally:
        for pid in workers:
            _kill(pid)


def _fork(control: socket.socket, channel_fd: int) -> int:
    own_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            control.close()
            serve(Connection(channel_fd), own_pid)
            status = 0
        finally:
            os._exit(status)
    os.close(channel_fd)
    return pid


def _kill(pid: int) -> None:
    # a worker that has ended is not reaped yet, so its id is not reused
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
