"""Tests of unknown origin run confined and within limits; a pass requires that they finish."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from sandboxes import needs_sandbox
from shaped_eval.grade import grade_answers, grade_run
from shaped_eval.grading.code import grader as code
from shaped_eval.grading.sandbox import confine, filters
from shaped_eval.grading.sandbox.checker import Limits, Sandbox, TestResult, Tests, _result, check
from shaped_eval.grading.sandbox.server import Ended
from shaped_eval.records import Verdict, read_jsonl

pytestmark = needs_sandbox
SAME = "def f(x): return x"
DIES = "import os\ndef f(x): os._exit(0)"


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def result(sandbox: Sandbox, program: str, tests: str, **limits) -> TestResult:
    return check(sandbox, [program], Tests(tests, ["f"]), Limits(**{"cpu_s": 5, **limits}))


def test_gold_of_a_file_touches_nothing(tmp_path):
    """Neither the tests of an answers file nor those of a run folder, in any of their parts."""
    touched = tmp_path / "touched"
    touch = f"import os\nos.system('touch {touched}')\nopen({str(touched)!r}, 'w').close()\n"
    golds = [
        f"{touch}\nassert f(1) == 1",
        json.dumps({"tests": f"assert f(1) == 1\n{touch}", "entry_point": "f"}),
        json.dumps({"tests": "assert f(1) == 1", "preamble": touch}),
        json.dumps({"tests": "assert f(1) == 1", "setup": touch, "names": ["f"]}),
    ]
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"problem_id": index, "completions": [SAME], "gold": gold}
        for index, gold in enumerate(golds)
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
    }
    row |= {"test": "def check(f):\n    assert f(1) == 1\n", "entry_point": "f"}
    mirror = tmp_path / "hub" / "openai" / "openai_humaneval" / "openai_humaneval"
    mirror.mkdir(parents=True)
    (mirror / "test.jsonl").write_text(json.dumps(row) + "\n")
    out = grade_answers(
        answers,
        "humaneval",
        tmp_path / "out",
        hub_mirror=tmp_path / "hub",
        num_workers=1,
        progress=False,
    )
    (out / "verdicts.jsonl").unlink()
    grade_run(out, num_workers=1, progress=False)
    assert [verdict.status for verdict in read_jsonl(out / "verdicts.jsonl", Verdict)].count(
        "pass"
    ) == 0
    assert not touched.exists()


HELD_UP = {
    "a bare except": "try: f(1)\nexcept: pass",
    "suppress": "import contextlib\nwith contextlib.suppress(BaseException): f(1)",
    "assertRaises": "import unittest\nwith unittest.TestCase().assertRaises(BaseException): f(1)",
    "a pool": "from concurrent.futures import ThreadPoolExecutor as P\nwith P() as pool: "
    "pool.submit(f, 1)",
    "a thread": "import threading\nthreading.Thread(target=f, args=(1,)).start()",
    "finally": "def ask():\n    try: f(1)\n    finally: return\nask()",
    "a second try": "try: f(1)\nexcept BaseException: pass\ntry: f(1)\nexcept BaseException: pass",
}


@pytest.mark.parametrize("tests", HELD_UP.values(), ids=HELD_UP)
def test_a_process_that_has_ended_has_not_passed_whatever_the_tests_catch(sandbox, tests):
    assert result(sandbox, DIES, tests) == TestResult("fail", "the process of the code ended")
    waits = result(sandbox, "import time\ndef f(x): time.sleep(600)", tests, wall_s=0.2)
    assert waits == TestResult("timeout", "no answer within the wall time")


def test_tests_may_have_threads_and_their_calls_do_not_mix(sandbox):
    tests = (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as pool:\n"
        "    assert list(pool.map(f, range(200))) == list(range(200))"
    )
    assert result(sandbox, SAME, tests) == TestResult("pass", "200 calls")
    wrong = "def f(x): return 7 if x == 150 else x"
    assert result(sandbox, wrong, tests).status == "fail"


ENDINGS = (
    "import os; os._exit(0)",
    "raise SystemExit(0)",
    "raise KeyboardInterrupt",
    "import torch",
)
LACKING = (
    "import ctypes; ctypes.string_at(0)",
    "open('/etc/passwd')",
    "import socket; socket.socket()",
)


def test_what_the_tests_do_to_themselves_is_an_error_and_no_pass(sandbox):
    for ending in ENDINGS:
        assert result(sandbox, SAME, f"assert f(1) == 1\n{ending}").status == "error", ending
    for ending in LACKING:  # after a call, its result may be the cause
        assert result(sandbox, SAME, f"{ending}\nassert f(1) == 1").status == "error", ending
        assert result(sandbox, SAME, f"assert f(1) == 1\n{ending}").status == "fail", ending
    of_the_code = result(sandbox, "def f(x): open('/nowhere')", "f(1)")
    assert of_the_code.status == "fail"
    assert of_the_code.reason.startswith("f(1) raised: FileNotFoundError")


def test_the_tests_have_a_limit_of_their_own(sandbox):
    late = TestResult("timeout", "more than 1 s of CPU time in the tests")
    assert result(sandbox, SAME, "f(1)\nwhile True: pass", tests_cpu_s=1) == late
    # as keys, they take quadratic time in a single C call
    one_hash = "def f(x): return [i * (2**61 - 1) for i in range(60_000)]"
    assert result(sandbox, one_hash, "assert len(set(f(1))) == 60_000", tests_cpu_s=1) == late


def test_only_what_the_tests_say_is_a_result():
    alive, ended = Ended(False, 9, 0.0, 0.0), Ended(True, 0, 0.0, 0.0)
    said = {"status": "pass", "reason": "1 calls", "gone": False}
    assert _result(said, alive, Limits()) == TestResult("pass", "1 calls")
    assert _result(said, ended, Limits()) == TestResult("fail", "the process of the code ended")
    for other in (
        None,
        [],
        "pass",
        {},
        {"status": "passed", "reason": ""},
        {"status": "pass"},
        {"status": ["pass"]},
    ):
        assert _result(other, alive, Limits()).status == "error"
    assert _result(
        {"status": "fail", "reason": "\x1b[2J\n" + "x" * 5_000}, alive, Limits()
    ).reason.isprintable()


def test_a_thread_is_all_that_may_be_cloned():
    """The filter of the tests' process differs from the code's only in clone and clone3."""
    for machine in filters.MACHINES:
        more = set(filters.instructions(machine, threads=True)) - set(filters.instructions(machine))
        operands = {operand for _, _, _, operand in more}
        # ENOSYS, a flag
        assert operands <= {*filters._THREAD_FLAGS, *filters._CLONE, *filters._CLONE3, 0x50026, 16}


RAISED = {"cpu_s": 3_000, "memory_mb": 65_536, "wall_s": 3_000, "tests_cpu_s": 3_000}


def test_a_gold_lowers_limits_and_raises_none():
    assert Limits.of_gold(RAISED) == Limits.of_gold({}) == Limits()
    assert Limits.of_gold({"cpu_s": 2.5, "wall_s": 3}) == Limits(cpu_s=2, wall_s=3.0)
    tests = "assert f(1) == 1"
    large = "def f(x): return len(bytearray(2 * 2**30)) > 1 and x"
    gold = json.dumps({"tests": tests, "names": ["f"], "limits": RAISED})
    before = json.dumps(
        {"tests": tests, "names": ["f"], "limits": RAISED, "setup": "b = bytearray(2 * 2**30)"}
    )
    assert code.grade(large, gold)[0] == "fail"
    status, _, reason, _ = code.grade(SAME, before)
    assert status == "fail"
    assert "MemoryError" in reason
    assert code.grade(large, gold, Limits(memory_mb=8_192))[0] == "pass"


@pytest.mark.parametrize("name", RAISED)
def test_a_limit_that_is_no_number_in_its_range_is_refused_by_name(name):
    for value in (float("nan"), float("inf"), -1, 0, 10**12, 10**400, [1], "5", None, True, {}):
        status, _, reason, _ = code.grade(
            SAME, json.dumps({"tests": "assert f(1) == 1", "limits": {name: value}})
        )
        assert status == "error"
        assert reason.startswith(f"{name}=")
        assert len(reason) < 200
    for limits in ([], 5, None, {"cpu": 1}):
        status, _, reason, _ = code.grade(
            SAME, json.dumps({"tests": "assert f(1) == 1", "limits": limits})
        )
        assert status == "error"
        assert reason.startswith("limits")


ALARM = (
    "import signal\nclass Late(BaseException): pass\ndef raise_late(*a): raise Late\n"
    "signal.signal(signal.SIGALRM, raise_late)\n"
)
GIVEN_UP = f"{ALARM}signal.setitimer(signal.ITIMER_REAL, 0.2)\ntry: f(0)\nexcept Late: pass\n"


@pytest.mark.parametrize("rest", ["", "assert f(1) == 0", "assert f(1) == 1", "raise Late"])
def test_a_call_that_the_tests_broke_off_is_no_pass_and_its_reply_counts_for_no_other(
    sandbox, rest
):
    """The tests' own alarm ends the wait for code that replies when it is called again."""
    slow = "import time\ndef f(x):\n    if x == 0: time.sleep(2)\n    return x"
    said = result(sandbox, slow, GIVEN_UP + rest)
    assert said.status == "fail"
    assert "repl" in said.reason


def test_an_alarm_of_the_tests_that_finds_no_call_open_breaks_nothing(sandbox):
    rings = f"{ALARM}assert f(1) == 1\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\n"
    rings += "try: signal.pause()\nexcept Late: pass\n"
    assert result(sandbox, SAME, f"{rings}assert f(2) == 2") == TestResult("pass", "2 calls")


def sends(value: str) -> str:
    """Code that sends this JSON, as a hostile process could."""
    return (
        f"import os, struct\ndef f(x):\n    p = ('{{\"value\":' + {value} + '}}').encode()\n"
        "    p = struct.pack('>I', len(p)) + p\n    while p: p = p[os.write(3, p):]\n"
    )


NO_ERRORS = {
    "a large reply sent back": (
        "def f(x): return x if x else 'a' * (8 * 2**20 - 30)",
        "assert f(f(0)) == 1",
    ),
    "replies too large to send back": (
        "def f(x): return x if x else 'a' * (8 * 2**20 - 30)",
        "a = f(0)\nassert f([a] * 9) == 1",
    ),
    "lists in lists": (sends("'[' * 4_000_000 + ']' * 4_000_000"), "assert f(1) == 1"),
    "tuples in tuples": (sends("'{\"t\":[' * 900_000 + ']}' * 900_000"), "assert f(1) == 1"),
    "nested behind a quotation mark": (
        sends(r"""'["\\\\\\"", ' + '[' * 900_000 + ']' * 900_000 + ']'"""),
        "f(1)",
    ),
    "nested and never closed": (sends("'[' * 4_000_000"), "f(1)"),
    "a name of a file": ("def f(x): return '/nowhere'", "open(f(1))"),
    "a name of a module": (
        "def f(x): return 'nowhere'",
        "import importlib\nimportlib.import_module(f(1))",
    ),
    "an end that says no": ("def f(x): return 2", "import sys\nif f(1) != 1: sys.exit(1)"),
    "a value that kills the tests": ("def f(x): return 0", "import ctypes\nctypes.string_at(f(1))"),
}


@pytest.mark.parametrize(("program", "tests"), NO_ERRORS.values(), ids=NO_ERRORS)
def test_code_does_not_turn_its_fail_into_an_error_of_the_tests(sandbox, program, tests):
    assert (
        result(sandbox, program, f"import sys\nsys.setrecursionlimit(10**9)\n{tests}").status
        == "fail"
    )


@pytest.mark.slow
@pytest.mark.parametrize("namespaces", [True, False])
def test_threads_of_tests_are_bounded_where_the_kernel_counts_them_apart(namespaces):
    own = Sandbox(namespaces)
    bound = confine.PROCESSES_IN_NAMESPACE if own.tests.rooted else confine.PROCESSES_OF_NOBODY
    some = "from concurrent.futures import ThreadPoolExecutor as P\n"
    some += "with P(9) as p: assert [*p.map(f, [1, 2])] == [1, 2]"
    assert result(own, SAME, some).status == "pass"
    # others are not bounded
    if own.tests.user != 0 and (own.tests.rooted or own.tests.user == confine.NOBODY):
        many = (
            "import threading\nend = "
            "threading.Event()\nthreading.stack_size(2**16)\nf(1)\nstarted = 0\ntry:\n    for "
            f"started in range({bound + 100}): threading.Thread(target=end.wait, "
            "daemon=True).start()\nexcept RuntimeError: pass\nend.set()\nraise "
            "ValueError(f'{started} threads')"
        )
        assert int(result(own, SAME, many).reason.split()[-2]) < bound
    own.close()


@pytest.mark.slow
def test_what_packages_put_aside_as_they_are_imported_does_not_stay_behind(tmp_path):
    lines = (
        "import atexit, shutil, tempfile\nplace = "
        "tempfile.mkdtemp()\natexit.register(shutil.rmtree, place)\n"
    )
    (tmp_path / "puts_aside.py").write_text(lines)
    command = (
        "import os; from shaped_eval.grading.sandbox.zygote import _preload; "
        "_preload(['puts_aside']); "
    )
    command += "import puts_aside; assert not os.path.exists(puts_aside.place)"
    python = [sys.executable, "-c", command]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    }
    done = subprocess.run(python, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
