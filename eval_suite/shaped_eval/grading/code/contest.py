"""Contest problems: programs that read standard input and print, and methods of ``Solution``.

`gold` is a JSON object:

    function  the name of the method; "" for programs
    public    the public tests, see `cases`
    private   the private tests

The rules are those of LiveCodeBench's evaluator (arXiv 2403.07974): its imports stand before the
program, a test has 6 seconds, all tests must pass, and outputs are compared as in `outputs`. A
method's result must equal the expected one, and a tuple counts as a list. Seconds are of CPU time
here, so that a busy machine changes no verdict. A program runs in a process of its own for each
test, where LiveCodeBench runs all tests in one; ``os._exit`` fails in both.

A method is tried on all tests in one process, in 6 seconds together. If that is too short, each
test gets a process and 6 seconds of its own.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from shaped_eval.grading.base import Grade
from shaped_eval.grading.code import grader
from shaped_eval.grading.code.cases import Case, cases_of, literals_of
from shaped_eval.grading.code.grader import NO_CODE, PASSES, TOO_LARGE
from shaped_eval.grading.code.outputs import difference
from shaped_eval.grading.code.programs import find_programs, find_scripts
from shaped_eval.grading.extract import plain_answer
from shaped_eval.grading.sandbox.checker import Limits, TestResult, Tests
from shaped_eval.grading.sandbox.runner import SCRIPT, Run, run_script
from shaped_eval.grading.sandbox.script import MOST_DIGITS
from shaped_eval.grading.sandbox.server import SandboxServer, SandboxUnavailable
from shaped_eval.untrusted.rows import parse_object
from shaped_eval.untrusted.texts import one_line

LIMITS = Limits(cpu_s=6, memory_mb=2048)
# LiveCodeBench's order: a later name replaces an earlier one, such as `operator.pow` that of `math`
_IMPORTS = """\
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from builtins import *
from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
"""
BEFORE = f"{_IMPORTS}sys.setrecursionlimit(50000)\nsys.set_int_max_str_digits({MOST_DIGITS})\n"
_CALL = "_shaped_eval_call"  # a name that no program has by chance
_TESTS = f"""\
import json
for given, expected in json.loads(CASES):
    found = {_CALL}(*given)
    found = list(found) if isinstance(found, tuple) else found
    assert found == expected, "the result is another one"
"""
_REASON_CHARACTERS = 300

_server: SandboxServer | None = None  # one per process, which grades one item at a time


class _Task(NamedTuple):
    function: str
    cases: list[Case]


def grade(completion: str, gold: str, limits: Limits | None = None) -> Grade:
    """Grade one completion, with the reason in words.

    Runs in a worker of the pool. `limits` are those of one test.
    """
    try:
        task = _task(gold)
    except ValueError as error:
        return Grade("error", None, one_line(str(error))[:_REASON_CHARACTERS])
    programs = (
        find_programs(completion, "Solution", BEFORE) if task.function else find_scripts(completion)
    )
    if not programs:
        return Grade("unparsed", None, NO_CODE)
    programs = grader.that_fit(programs)
    if not programs:
        return Grade("fail", TOO_LARGE, TOO_LARGE)
    check = _check_method if task.function else _check_program
    try:
        result = check(programs, task, limits or LIMITS)
    except (OSError, SandboxUnavailable) as error:
        return Grade("error", None, str(error) or type(error).__name__)
    reason = one_line(result.reason)[:_REASON_CHARACTERS]
    answers = {"pass": PASSES, "fail": plain_answer(reason)}
    of_program = _server.confinement if _server else None
    confinement = grader.confinement() if task.function else of_program
    return Grade(result.status, answers.get(result.status), reason, confinement)


def contest_gold(function: str, public: str, private: str) -> str:
    """The gold of a problem, after its tests have been read once.

    Raises:
        ValueError: they cannot be read, or `function` is not the name of a method.
    """
    gold = json.dumps({"function": function, "public": public, "private": private})
    _task(gold)
    return gold


@lru_cache(maxsize=1)  # completions of one problem follow each other
def _task(gold: str) -> _Task:
    values = parse_object(gold)
    texts = [values.get(name) for name in ("function", "public", "private")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the gold of a contest problem has the texts function, public and private")
    function, public, private = map(str, texts)
    # it becomes part of a program
    if function and (not function.isidentifier() or keyword.iskeyword(function)):
        raise ValueError(f"{function[:80]!r} is not the name of a method")
    return _Task(function, cases_of(public, private, bool(function)))


def _check_program(programs: Sequence[str], task: _Task, limits: Limits) -> TestResult:
    def check_case(case: Case) -> TestResult:
        run = _run(programs, case.given, limits)
        wrong = None if run.status != "pass" else difference(run.output, case.expected)
        return TestResult("fail" if wrong else run.status, wrong or run.reason)

    return _one_by_one(task.cases, check_case)


def _check_method(programs: Sequence[str], task: _Task, limits: Limits) -> TestResult:
    sent = [{"text": program, "function": "Solution"} for program in programs]
    where = "(Solution() if 'Solution' in globals() else __import__('sys').modules[__name__])"
    setup = f"{_CALL} = {where}.{task.function}"

    def check_cases(cases: Sequence[Case]) -> TestResult:
        text = json.dumps([literals_of(case) for case in cases])
        tests = Tests(_TESTS, [_CALL], "", f"CASES = {text!r}", setup)
        result = grader.run(sent, tests, limits)
        return replace(result, reason=result.reason.replace(_CALL, task.function))

    together = check_cases(task.cases)
    if together.status != "timeout" or len(task.cases) == 1:
        return together
    return _one_by_one(task.cases, lambda case: check_cases([case]))


def _one_by_one(cases: Sequence[Case], check: Callable[[Case], TestResult]) -> TestResult:
    for number, case in enumerate(cases, 1):
        result = check(case)
        if result.status != "pass":
            where = f"test {number} of {len(cases)}"
            return TestResult(result.status, f"{where}: {result.reason}")
    return TestResult("pass", f"{len(cases)} tests")


def _run(programs: Sequence[str], given: str, limits: Limits) -> Run:
    """Run a program in this process's own sandbox, which is started at the first call."""
    global _server
    if _server is None:
        _server = SandboxServer(SCRIPT)
    try:
        return run_script(_server, programs, BEFORE, given, limits)
    except OSError:  # it was killed, perhaps by the system because memory ran out
        _server.close()
        _server = None
        raise
