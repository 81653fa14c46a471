"""Code: runs a completion's program in the sandbox against the tests that `gold` holds.

`gold` is a JSON object, or else the tests themselves:

    kind         "continuation": completions may be the rest of the preamble; "program": whole
                 programs, in whatever wrapping. Of both, only what the function needs is run
                 (`sandbox.selection`). "verbatim": the completion is the program, and all of it
                 is run unchanged.
    entry_point  the requested function
    preamble     code before the program and before the tests: the prompt's imports and helpers
    tests, names, setup   see `sandbox.checker.Tests`
    limits       fields of `sandbox.checker.Limits`, where they are below the defaults

The answer of a pass is "passes", and that of a fail describes the first failing test. Answers are
not votes: equal answers mean equal behaviour.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.base import Grade
from shaped_eval.grading.code.programs import find_programs
from shaped_eval.grading.extract import plain_answer
from shaped_eval.grading.sandbox.checker import Limits, Sandbox, TestResult, Tests, check
from shaped_eval.grading.sandbox.server import SandboxUnavailable

PASSES = "passes"
NO_CODE = "the completion has no code"
# Together, programs of these numbers fit in a frame of the sandbox's protocol.
LARGEST_PROGRAM = 500_000  # characters
MOST_PROGRAMS = 8
TOO_LARGE = "the program is too large"

_sandbox: Sandbox | None = None  # one per process, which grades one item at a time


def grade(completion: str, gold: str, limits: Limits | None = None) -> Grade:
    """Grade one completion.

    Runs in a worker of the pool. `limits` are the caller's own, and replace those of the gold.
    """
    task = _task(gold)
    try:
        limits = limits or Limits.of_gold(task.get("limits", {}))
    except UserError as error:
        return Grade("error", None, str(error))
    entry_point = task.get("entry_point", "")
    preamble = task.get("preamble", "")
    kind = task.get("kind", "program")
    programs = [completion]
    if kind != "verbatim":
        programs = find_programs(
            completion, entry_point, preamble, continues=kind == "continuation"
        )
    if not programs:
        return Grade("unparsed", None, NO_CODE)
    programs = that_fit(programs)
    if not programs:
        return Grade("fail", TOO_LARGE, TOO_LARGE)
    sent: list[Any] = list(programs)
    if kind != "verbatim":  # only what the function needs is run: see `sandbox.selection`
        sent = [{"text": program, "function": entry_point} for program in programs]
    tests = Tests(
        task["tests"], task.get("names"), entry_point, _closed(preamble), task.get("setup", "")
    )
    try:
        result = run(sent, tests, limits)
    except (OSError, SandboxUnavailable) as error:
        return Grade("error", None, str(error) or type(error).__name__)
    answers = {"pass": PASSES, "fail": plain_answer(result.reason)}
    return Grade(result.status, answers.get(result.status), result.reason, confinement())


def confinement() -> str | None:
    """What confines the programs of this process; None before the first one."""
    return _sandbox.confinement if _sandbox else None


def that_fit(programs: Sequence[str]) -> list[str]:
    """Those of `programs` that are sent to the sandbox."""
    return [program for program in programs if len(program) <= LARGEST_PROGRAM][:MOST_PROGRAMS]


def run(programs: Sequence[Any], tests: Tests, limits: Limits) -> TestResult:
    """Check in this process's own sandbox, which is started at the first call."""
    global _sandbox
    if _sandbox is None:
        _sandbox = Sandbox()
    try:
        return check(_sandbox, programs, tests, limits)
    except OSError:  # it was killed, perhaps by the system because memory ran out
        _sandbox.close()
        _sandbox = None
        raise


def _closed(preamble: str) -> str:
    """The preamble as a complete program, even if it ends with the head of a function.

    After ``def f():`` this adds ``pass``.
    """
    last = preamble.rstrip().rpartition("\n")[2]
    if not last.endswith(":"):
        return preamble
    indentation = last[: len(last) - len(last.lstrip())]
    return f"{preamble.rstrip()}\n{indentation}    pass\n"


def _task(gold: str) -> dict[str, Any]:
    try:
        task = json.loads(gold)
    except (ValueError, RecursionError):
        task = None
    return task if isinstance(task, dict) else {"tests": gold}
