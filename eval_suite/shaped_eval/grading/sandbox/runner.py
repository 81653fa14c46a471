"""The trusted side of a program that reads standard input: runs it once, and returns its output.

The program's process (`script`) has its input and an empty file for its output. What it printed is
read from that file when the process is gone, so nothing of it can change the text any more. The
expected output never leaves this side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shaped_eval.grading.sandbox.checker import Limits
from shaped_eval.grading.sandbox.confine import FILE_BYTES
from shaped_eval.grading.sandbox.script import ENDED
from shaped_eval.grading.sandbox.server import Ended, Role
from shaped_eval.grading.sandbox.server import SandboxServer as Server
from shaped_eval.grading.sandbox.wire import BadReply, Gone
from shaped_eval.records import Status

SCRIPT = Role("shaped_eval.grading.sandbox.script:serve")


@dataclass(frozen=True)
class Run:
    """What became of one run of a program.

    Attributes:
        status: ``pass`` if the program came to its end, whatever it printed; ``fail`` if it raised
            an exception or its process ended before; ``timeout``.
        reason: one line; empty for a pass.
        output: what it printed, if it came to its end.
    """

    status: Status
    reason: str = ""
    output: str = ""


def run_script(
    server: Server, programs: Sequence[str], before: str, given: str, limits: Limits
) -> Run:
    """Run the first of `programs` that compiles, with `given` as its standard input.

    Args:
        server: a fork server of the role `SCRIPT`.
        programs: Python texts.
        before: Python text that is run before the program, such as imports.
        given: what the program reads.
        limits: of this one run.

    Raises:
        SandboxUnavailable: the process could not be confined.
        OSError: the sandbox itself failed; use another server.
    """
    reply: Any = None
    problem: Exception | None = None
    with _file(given.encode(errors="replace")) as source, _file(b"") as printed:
        try:
            message = {"programs": list(programs), "before": before}
            reply = server.ask(
                message, limits.cpu_s, limits.memory_mb, limits.wall_s, source, printed
            )
        except (Gone, TimeoutError, BadReply) as error:
            problem = error
        finally:
            ended = server.reap()
        if reply == ENDED:
            return Run("pass", output=os.pread(printed, FILE_BYTES, 0).decode(errors="replace"))
    return _unfinished(reply, problem, ended, limits)


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[int]:
    """The descriptor of a file without a name that holds `content`, read from its beginning."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


def _unfinished(reply: Any, problem: Exception | None, ended: Ended, limits: Limits) -> Run:
    if ended.out_of_time(limits.cpu_s):
        return Run("timeout", f"more than {limits.cpu_s} s of CPU time")
    if isinstance(problem, TimeoutError):
        return Run("timeout", "no end within the wall time")
    if isinstance(problem, Gone):
        how = f" ({signal.strsignal(ended.signal)})" if ended.signal else ""
        return Run("fail", f"the process of the program ended{how}")
    if problem is None and isinstance(reply, dict) and "raised" in reply:
        words = f"{reply['raised']}: {reply.get('message', '')}"
        return Run("fail", f"the program raised {words[:300]}")
    return Run("fail", "the process of the program sent what is not a reply")
