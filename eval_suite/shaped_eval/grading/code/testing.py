"""`run_tests`: the sandbox as a function of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from shaped_eval.errors import UserError
from shaped_eval.grading.base import GradeRequest
from shaped_eval.grading.pool import GraderPool
from shaped_eval.grading.sandbox.checker import TESTS_WALL_S, Limits, TestResult

_SLACK_S = 15.0


def run_tests(
    code: str,
    tests: str,
    *,
    names: Sequence[str] | None = None,
    before: str = "",
    setup: str = "",
    cpu_s: int = 10,
    memory_mb: int = 1024,
    wall_s: float = 60.0,
) -> TestResult:
    """Run untrusted `code` in the sandbox against `tests`.

        >>> run_tests("def add(a, b): return a + b", "assert add(1, 2) == 3")
        TestResult(status='pass', reason='1 calls')

    The tests and the code run in two processes, both confined, and the code never sees the tests.
    The tests may call what the code defines, with literals as arguments. Results come back as
    literals; any other object comes back as a handle, which is true, equal to nothing else, and can
    be iterated or passed on. The tests have the standard library, numpy and threads, and 10 s of
    CPU time of their own. They do not have files, sockets, asyncio and multiprocessing.

    `SHAPED_TRL_ALLOW_WEAK_SANDBOX=1` lets code run where it cannot be confined. What the sandbox
    does not prevent is documented in `shaped_eval.grading.sandbox`. Processes start at the first
    call (seconds) and are kept for later calls (milliseconds). Calls from several threads wait for
    each other; for many at once, give requests of the grader ``code`` to a `GraderPool`.

    Args:
        code: Python text, which is run unchanged as the module ``solution``.
        tests: Python text. The code passes if the tests end without an exception and have called
            it.
        names: the names that the tests take from the code; by default all names that they use and
            that are not defined elsewhere.
        before: Python text that the tests need, run in their process before them.
        setup: Python text run after the code, in its process, to create objects that tests pass and
            that cannot be written as literals.
        cpu_s: CPU seconds of the code and all its calls together.
        memory_mb: address space of the code in MiB.
        wall_s: seconds after which code that waits is ended.

    Returns:
        status ``pass``, ``fail`` (a wrong result, an exception, or the end of its process),
        ``timeout`` or ``error`` (of the tests or the sandbox), and the reason in one line. After
        the first reply of the code, an OSError or a crash of the tests may be caused by the code,
        and is then a ``fail``.

    Raises:
        UserError: code cannot be confined on this machine, a limit is not a number in its range, or
            code or tests are not text.
    """
    limits = Limits(cpu_s, memory_mb, wall_s)
    for name, text in (("code", code), ("tests", tests)):
        if not isinstance(text, str):
            raise UserError(f"{name} has type {type(text).__name__}: give Python text")
    if isinstance(names, str):
        raise UserError(
            f"names={names!r} is a single text: give a list of names, such as [{names!r}]"
        )
    task = {
        "kind": "verbatim",
        "tests": tests,
        "names": None if names is None else list(names),
        "preamble": before,
        "setup": setup,
    }
    request = GradeRequest("code", code, json.dumps(task), limits)
    (grade,) = _pool(limits.wall_s + TESTS_WALL_S + _SLACK_S).grade([request])
    return TestResult(grade.status, grade.reason or "the checking process was ended")


@cache
def _pool(hard_timeout_s: float) -> GraderPool:
    return GraderPool(1, hard_timeout_s=hard_timeout_s)
