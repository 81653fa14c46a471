"""The process that runs one program on one input: its standard input and output are two files.

Nothing here is trusted. The program can change this module as it likes, but only gains another
output, which it could have printed anyway: the expected output is not in this process.

Threads are not possible here. Many programs run their main function in a thread with a larger
stack, so a thread that is started runs at once, in its place.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import sys
import threading
import types
import warnings
from typing import Any

from shaped_eval.grading.sandbox.candidate import first_compiled, raised
from shaped_eval.grading.sandbox.wire import REQUEST_BYTES, Gone, recv_frame, send_frame

ENDED = {"ended": True}
MOST_DIGITS = 50_000  # of a printed integer, as in LiveCodeBench's evaluator
FILE = "solution.py"


def serve(channel: int, given: int, printed: int) -> None:
    """Receive programs from `channel`, run the first that compiles, and say that it has ended.

    Args:
        channel: the descriptor on which the request arrives and the reply leaves.
        given: descriptor of the file that becomes the program's standard input.
        printed: descriptor of the empty file that becomes its standard output.
    """
    try:
        message = recv_frame(channel, largest=REQUEST_BYTES)
        _take_place(given, printed)
        send_frame(channel, _run(message["programs"], message["before"]))
    except Gone:
        return


def _take_place(given: int, printed: int) -> None:
    for old, new in ((given, 0), (printed, 1)):
        os.dup2(old, new)
        os.close(old)
    streams = (
        os.fdopen(0, encoding="utf-8", closefd=False),
        os.fdopen(1, "w", encoding="utf-8", closefd=False),
    )
    for names in (("stdin", "stdout"), ("__stdin__", "__stdout__")):
        vars(sys).update(zip(names, streams, strict=True))
    sys.argv = [FILE]
    sys.set_int_max_str_digits(MOST_DIGITS)
    random.seed(0)  # so that a verdict can be repeated
    warnings.simplefilter("ignore")
    threading.Thread.start = threading.Thread.run  # type: ignore[method-assign]
    threading.Thread.join = _has_ended  # type: ignore[method-assign, assignment]


def _has_ended(thread: threading.Thread, timeout: float | None = None) -> None:
    """In place of ``Thread.join``: the thread has run when it was started."""


def _run(programs: list[str], before: str) -> dict[str, Any]:
    """Run `before` and the first of `programs` that compiles, up to what they do at their exit."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(first_compiled([before], "before"), main.__dict__)
        code = first_compiled(programs, FILE)
        with contextlib.suppress(SystemExit):
            exec(code, main.__dict__)
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except BaseException as error:  # whatever the program raises is its result
        return raised(error)
    return ENDED
