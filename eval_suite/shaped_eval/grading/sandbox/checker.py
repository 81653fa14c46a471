"""The trusted side of one piece of code: runs it and its tests, and makes the verdict.

Both run in confined processes, and nothing of either runs here. The verdict is the first message of
the tests' process (`examiner`). A pass does not count if the code's process has ended.
"""

from __future__ import annotations

import os
import reprlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.sandbox.examiner import START_S
from shaped_eval.grading.sandbox.server import Ended, Role, SandboxServer, SandboxUnavailable
from shaped_eval.grading.sandbox.wire import BadReply, Gone, GoneAfterCall
from shaped_eval.records import Status

EXAMINER = Role("shaped_eval.grading.sandbox.examiner:serve", preloaded=("numpy",), threads=True)
TESTS_MEMORY_MB = 4096
TESTS_WALL_S = 20.0 + START_S  # what the tests may take beyond the wall time of the code
_REASON_CHARACTERS = 1_000
_DAY_S = 86_400
_RANGES: dict[str, tuple[float, float]] = {
    "cpu_s": (1, _DAY_S),
    "memory_mb": (64, 2**20),
    "wall_s": (0.1, _DAY_S),
    "tests_cpu_s": (1, _DAY_S),
}
_STATUSES: tuple[Status, ...] = ("pass", "fail", "timeout", "error")


@dataclass(frozen=True)
class TestResult:
    """The result of a piece of code.

    Attributes:
        status: ``pass``; ``fail`` (a wrong result, an exception, or the end of its process);
            ``timeout``; or ``error`` (of the tests themselves, or of the sandbox).
        reason: one line; for a pass, the number of calls that the code answered.
    """

    __test__ = False  # tells pytest that this is not a test

    status: Status
    reason: str


@dataclass(frozen=True)
class Tests:
    """The tests of a piece of code.

    Attributes:
        tests: Python text. The code passes if the text ends without an exception and has called it.
        names: the names that the tests take from the code; None for all names that they use and
            that neither they nor `before` define.
        entry_point: a name that the code must define in any case.
        before: Python text run before the tests, in their process, whose definitions they use;
            `names`, if given, and `entry_point` replace its definitions.
        setup: Python text run after the code, in its process, for example to create objects that
            cannot be written as literals.
    """

    __test__ = False

    tests: str
    names: Sequence[str] | None = None
    entry_point: str = ""
    before: str = ""
    setup: str = ""


@dataclass(frozen=True)
class Limits:
    """Limits of one piece of code with all its calls.

    CPU time is decisive, so that a busy machine changes no verdict.

    Attributes:
        cpu_s: CPU time in whole seconds.
        memory_mb: address space in MiB.
        wall_s: seconds for code that waits without working.
        tests_cpu_s: CPU seconds of the tests' own work, which large or hostile results of the code
            can prolong.

    Raises:
        UserError: a limit is not a number, or is out of its range.
    """

    cpu_s: int = 10
    memory_mb: int = 1024
    wall_s: float = 60.0
    tests_cpu_s: int = 10

    def __post_init__(self) -> None:
        for name, (smallest, largest) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if (
                not is_number or not smallest <= value <= largest
            ):  # every comparison with NaN is false
                what = f"{name}={reprlib.repr(value)}"
                raise UserError(
                    f"{what} is not a valid limit: give a number from {smallest} to {largest}"
                )
            object.__setattr__(self, name, float(value) if name == "wall_s" else int(value))

    @classmethod
    def of_gold(cls, given: Any) -> Limits:
        """The limits that a task sets itself.

        They come from a file, and can lower the defaults but not raise them.

        Raises:
            UserError: there is no such limit, or one is not a number or out of its range.
        """
        if not isinstance(given, dict):
            raise UserError(
                f"limits={reprlib.repr(given)}: give an object with some of {', '.join(_RANGES)}"
            )
        for name in given:
            if name not in _RANGES:
                raise UserError(f"limits has no {reprlib.repr(name)}: use {', '.join(_RANGES)}")
        own = cls(**given)
        default = cls()
        return cls(**{name: min(getattr(own, name), getattr(default, name)) for name in _RANGES})


class Sandbox:
    """Two fork servers: for the code's processes and for the tests'. Not thread-safe.

    Args:
        namespaces: enter namespaces, and a private root, if the kernel allows it. Otherwise there
            are only Landlock and seccomp.

    Attributes:
        confinement: what confines its processes; see `SandboxServer`.

    Raises:
        SandboxUnavailable: a protection is missing, and a weak sandbox is not allowed.
    """

    def __init__(self, namespaces: bool = True) -> None:
        self.code = SandboxServer(namespaces=namespaces)
        self.tests = SandboxServer(EXAMINER, namespaces)
        both = (self.code.confinement, self.tests.confinement)
        self.confinement = " / ".join(dict.fromkeys(both))

    def close(self) -> None:
        self.code.close()
        self.tests.close()


def check(sandbox: Sandbox, programs: Sequence[str], tests: Tests, limits: Limits) -> TestResult:
    """Run the first of `programs` that compiles, and `tests` against it.

    Raises:
        OSError: the sandbox itself failed; use another one.
    """
    task = {
        "programs": list(programs),
        "tests": tests.tests,
        "names": None if tests.names is None else list(tests.names),
        "entry_points": [tests.entry_point] if tests.entry_point else [],
        "before": tests.before,
        "setup": tests.setup,
        "wall_s": limits.wall_s,
    }
    report: Any = None
    problem: Exception | None = None
    channel = sandbox.code.start(limits.cpu_s, limits.memory_mb)
    try:
        report = sandbox.tests.ask(
            task, limits.tests_cpu_s, TESTS_MEMORY_MB, limits.wall_s + TESTS_WALL_S, channel
        )
    except (Gone, TimeoutError, BadReply, SandboxUnavailable) as error:
        problem = error
    finally:
        # while both ends of its channel are open, so that it has not ended because its caller did
        ended = sandbox.code.reap()
        examined = sandbox.tests.reap()
        os.close(channel)
    if problem is not None:
        return _without_result(problem, examined, limits)
    return _result(report, ended, limits)


def _result(report: Any, ended: Ended, limits: Limits) -> TestResult:
    """The result that the tests' process reported, if it is valid."""
    report = report if isinstance(report, dict) else {}
    status = report.get("status")
    reason = report.get("reason")
    if status not in _STATUSES or not isinstance(reason, str):
        return TestResult("error", "the process of the tests sent no result")
    if report.get("gone") is True or (status == "pass" and ended.before):
        return _why(ended, limits)
    text = "".join(
        character if character.isprintable() else "?" for character in reason[:_REASON_CHARACTERS]
    )
    return TestResult(status, text)


def _without_result(problem: Exception, examined: Ended, limits: Limits) -> TestResult:
    if examined.out_of_time(limits.tests_cpu_s):
        return TestResult("timeout", f"more than {limits.tests_cpu_s} s of CPU time in the tests")
    if isinstance(problem, TimeoutError):
        return TestResult("timeout", "no end of the tests within the wall time")
    if isinstance(problem, Gone):
        how = f" ({signal.strsignal(examined.signal)})" if examined.signal else ""
        of_the_code = isinstance(problem, GoneAfterCall) and examined.signal != 0
        return TestResult(
            "fail" if of_the_code else "error", f"the process of the tests ended{how}"
        )
    return TestResult("error", f"the tests could not be run: {problem}")


def _why(ended: Ended, limits: Limits) -> TestResult:
    """The result of code whose process ended by itself or was ended by the kernel."""
    if ended.out_of_time(limits.cpu_s):
        return TestResult("timeout", f"more than {limits.cpu_s} s of CPU time")
    how = f" ({signal.strsignal(ended.signal)})" if ended.signal else ""
    return TestResult("fail", f"the process of the code ended{how}")
