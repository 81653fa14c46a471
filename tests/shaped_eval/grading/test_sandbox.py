"""The sandbox by itself: verdicts, values on the channel, limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from places import ROOT
from sandboxes import needs_sandbox, run_without
from shaped_eval.errors import UserError
from shaped_eval.grading import run_tests
from shaped_eval.grading.sandbox import root
from shaped_eval.grading.sandbox.checker import Limits, Sandbox, TestResult, Tests, check
from shaped_eval.grading.sandbox.examiner import free_names
from shaped_eval.grading.sandbox.wire import pack, unpack
from waiting import wait_until

PACKAGES = str(ROOT / "eval_suite")
pytestmark = needs_sandbox


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "no namespaces"])
def server(request):
    server = Sandbox(namespaces=request.param)
    yield server
    server.close()


def verdict(server: Sandbox, code: str, tests: str, names=None, cpu_s=5, **more: str) -> TestResult:
    return check(server, [code], Tests(tests, names, **more), Limits(cpu_s=cpu_s))


def test_run_tests_says_what_became_of_the_code():
    assert run_tests(
        "def add(a, b): return a + b", "assert add(1, 2) == 3\nassert add(0, 0) == 0"
    ) == TestResult("pass", "2 calls")
    wrong = run_tests("def add(a, b): return a - b", "assert add(1, 2) == 3")
    assert wrong == TestResult("fail", "add(1, 2) returned -1: AssertionError")
    raised = run_tests("def add(a, b): return a / 0", "assert add(1, 2) == 3")
    assert raised == TestResult("fail", "add(1, 2) raised: ZeroDivisionError: division by zero")
    assert run_tests("def add(a, b: return", "assert add(1, 2) == 3").reason.startswith(
        "running the code raised Synt"
    )
    assert (
        run_tests("def plus(a, b): return 3", "assert add(1, 2) == 3").reason
        == "the code does not define add"
    )
    waits = run_tests("import time\ndef add(a, b): time.sleep(3600)", "add(1, 2)", wall_s=0.3)
    assert waits == TestResult("timeout", "no answer within the wall time")
    assert (
        run_tests("def f(): return 1", "assert f() == 1\nassert undefined_here == 2").status
        == "fail"
    )
    assert run_tests("def f(): return 1", "assert 1 == 1") == TestResult(
        "error", "the tests never called the code"
    )
    assert (
        run_tests("def f(): return 1", "import no_such_module\nassert f() == 1").status == "error"
    )
    assert run_tests("def f(): return 1", "assert f() = 1").reason.startswith(
        "the tests cannot be used: SyntaxError"
    )


def test_run_tests_from_threads_gives_each_its_own_result():
    results: dict[int, TestResult] = {}

    def run(number: int) -> None:
        results[number] = run_tests(f"def f(): return {number}", f"assert f() == {number % 3}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number].status for number in range(6)] == ["pass"] * 3 + ["fail"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_s": 0}, "cpu_s=0 is not a valid limit: give a number from 1 to 86400"),
        ({"memory_mb": 1}, "memory_mb=1 is not a valid limit: give a number from 64"),
        ({"wall_s": 0}, "wall_s=0 is not a valid limit: give a number from 0.1"),
        ({"wall_s": float("nan")}, "wall_s=nan is not a valid limit"),
        ({"cpu_s": [1]}, r"cpu_s=\[1\] is not a valid limit"),
        ({"tests": None}, "tests has type NoneType: give Python text"),
    ],
)
def test_run_tests_refuses_options_by_name(options, message):
    with pytest.raises(UserError, match=message):
        run_tests(**{"code": "", "tests": "", **options})


VALUES = (
    None, True, 0, -1, 2**63, -(2**200), 10**6000, 0.1, -0.0, float("inf"), float("-inf"), 1e308, 5e-324, 1 + 2j,
    complex(float("inf"), -0.0), "", "nan", "\ud800\x00é", b"\x00\xff", [], (), {}, set(), frozenset(), [[(2, [3])]],
    {1: "a", "1": "b", (1, 2): {3: [4]}, None: None, 2.5: True}, {1, "a", (1, 2), frozenset({3})}, [True, 1, 1.0, "1"],
)  # fmt: skip


def test_every_literal_crosses_the_channel_and_comes_back_as_it_was(server):
    """As argument and as result: equal, of the same type, and with the same sign of zero."""
    for value in VALUES:
        sent = unpack(json.loads(json.dumps(pack(value, None))), None)
        assert type(sent) is type(value)
        # sets have no order, and Python does not print 10**6000
        if isinstance(value, set | int):
            assert sent == value
        else:
            assert repr(sent) == repr(value)
        tests = f"given = eval({_text(value)!r})\nback = f(given)\n"
        tests += "assert type(back) is type(given)\nassert back == given"
        assert verdict(server, "def f(x): return x", tests).status == "pass", value
    nan = "nan = float('nan')\nback = f(nan)\nassert back != back\nassert f([nan])[0] != 0"
    assert verdict(server, "def f(x): return x", nan).status == "pass"


def _text(value) -> str:
    if value == 10**6000:
        return "10**6000"
    return repr(value).replace("inf", "float('inf')") if value == value else repr(value)


def test_a_nan_is_not_told_from_text_and_no_text_is_a_number(server):
    for text in ("nan", "inf", "-inf", "NaN"):
        assert (
            verdict(server, f"def f(): return {text!r}", f"assert f() == {text!r}").status == "pass"
        )
        assert (
            verdict(server, f"def f(): return {text!r}", f"assert f() == float({text!r})").status
            == "fail"
        )
    assert verdict(server, "def f(): return float('inf')", "assert f() == 'inf'").status == "fail"


def test_subclasses_count_as_the_literals_they_equal(server):
    code = """
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
class Colour(IntEnum):
    RED = 3
class Text(str):
    pass
P = namedtuple("P", "x y")
def f(name):
    return {
        "counter": Counter("aab"), "ordered": OrderedDict(a=1), "default": defaultdict(int, {1: 2}),
        "named": P(1, 2), "enum": Colour.RED, "text": Text("x"), "bool": True,
    }[name]
"""
    tests = """
assert f("counter") == {"a": 2, "b": 1}
assert f("ordered") == {"a": 1} and f("default") == {1: 2}
assert f("named") == (1, 2) and f("enum") == 3 and f("text") == "x" and f("bool") == 1
assert all(type(f(n)) in (dict, tuple, int, str, bool) for n in ("counter", "named", "enum", "text", "bool"))
"""
    assert verdict(server, code, tests) == TestResult("pass", "12 calls")


def test_a_package_that_is_not_shown_is_not_there(server):
    code = (
        "try:\n    import pytest\nexcept ModuleNotFoundError:\n    pytest = None\ndef f(): "
        "return pytest is None"
    )
    assert verdict(server, code, "assert f()").status == "pass"


def test_numbers_of_numpy_count_and_its_arrays_are_no_lists(server):
    code = (
        "from numpy import *\ndef f(x): return [float64(0.5), int32(3), bool_(True)] if x "
        "else array([1, 2])"
    )
    assert verdict(server, code, "assert f(1) == [0.5, 3, True]").status == "pass"
    assert verdict(server, code, "assert f(0) == [1, 2]").status == "fail"


def test_what_is_no_literal_is_a_handle(server):
    code = """
import re
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
def total(node): return 0 if node is None else node.value + total(node.next)
def match(text): return re.search("a+", text)
def lazy(n): return (i * i for i in range(n))
"""
    tests = """
assert total(Node(1, Node(2, Node(3)))) == 6
assert total(chain) == 11
assert match("xaa") and match("xaa") is not None and match("x") is None
assert match("a") != match("a") and match("a") != "a" and repr(match("a")) == "<Match object>"
assert list(lazy(4)) == [0, 1, 4, 9] and sum(lazy(3)) == 5
"""
    result = verdict(server, code, tests, setup="chain = Node(4, Node(7))")
    assert result.status == "pass", result
    assert verdict(server, "def f(): return range(3)", "assert f() == [0, 1, 2]").status == "fail"


def test_exceptions_reach_the_tests_by_name_but_never_end_an_iteration(server):
    code = (
        "def f(x):\n    raise {'v': ValueError, 's': StopIteration, 'own': type('Own', "
        "(Exception,), {})}[x]('why')"
    )
    tests = """
try: f("v")
except ValueError as error: assert str(error) == "why"
else: assert False
try: f("own")
except Exception as error: assert "Own" in str(error)
else: assert False
"""
    assert verdict(server, code, tests).status == "pass"
    assert verdict(server, code, "assert all(map(f, ['s']))").status == "fail"
    assert verdict(server, code, "assert list(map(f, ['s'])) == []").status == "fail"


def test_tests_take_what_they_do_not_define_and_nobody_replaces_their_builtins(server):
    tests = "import math\ndef check(g):\n    assert sorted(g([2, 1])) == [1, 2]\n"
    tests += "    assert math.floor(1.5) == 1\ncheck(f)"
    assert free_names(tests) == ("f",)
    code = "sorted = len = lambda x: [1, 2]\nclass math:\n    floor = None\ndef f(x): return [5, 6]"
    assert verdict(server, code, tests).status == "fail"
    named_like_a_builtin = "def sum(a, b): return a * b"
    assert (
        verdict(server, named_like_a_builtin, "assert sum(3, 4) == 12", names=["sum"]).status
        == "pass"
    )
    helped = verdict(
        server,
        "def f(x): return x + 1",
        "assert f(2) == plus(2)",
        names=["f"],
        before="def plus(x): return x+1",
    )
    assert helped.status == "pass"


def test_the_code_cannot_replace_what_the_tests_bring_with_them(server):
    same = "def same(a, b): return a == b"
    code = "def f(): return 1\ndef same(a, b): return True"
    seen = verdict(server, code, "assert same(f(), 2)", before=same)
    assert seen == TestResult("fail", "f() returned 1: AssertionError")
    alone = verdict(server, "def f(): return 1", "assert same(f(), 1)", before=same)
    assert alone == TestResult("pass", "1 calls")
    # the requested function is the code's, also where a prompt with its head is run before
    head = "def f(): pass"
    begun = verdict(server, code, "assert f() == 1", before=head, entry_point="f")
    assert begun == TestResult("pass", "1 calls")
    named = verdict(server, code, "assert f() == 1", names=["f"], before=head)
    assert named == TestResult("pass", "1 calls")


def test_the_first_program_that_compiles_is_run(server):
    programs = ["def f(: pass", "return 1", "def f(): return 2", "def f(): return 3"]
    assert check(server, programs, Tests("assert f() == 2"), Limits()).status == "pass"
    assert "SyntaxError" in check(server, programs[:2], Tests("assert f() == 2"), Limits()).reason


def test_the_library_works_and_what_is_random_is_the_same_again(server):
    code = """
import random, string, datetime, decimal, hashlib, json, sqlite3, unittest, zoneinfo, xml.dom.minidom, bisect
def f():
    return [random.random(), str(datetime.date(2020, 1, 1)), hashlib.md5(b"").hexdigest(), list({"a", "b", "c", "d"})]
"""
    seen = (
        "assert f()[1:3] == ['2020-01-01', 'd41d8cd98f00b204e9800998ecf8427e']\nassert f()[0] == 0"
    )
    first, second = verdict(server, code, seen), verdict(server, code, seen)
    assert first == second
    assert first.status == "fail"
    assert "returned [0." in first.reason


def test_files_can_be_made_in_its_folder_alone_and_are_gone_for_the_next(server):
    code = """
import os, tempfile
def f(name):
    with open(name, "w") as file: file.write("x" * 1000)
    os.mkdir("d"); os.rename(name, "d/" + name)
    with tempfile.TemporaryFile() as file: file.write(b"1")
    return os.listdir(".") + os.listdir("d") + [open("d/" + name).read()[:2]]
"""
    result = verdict(server, code, "assert f('a') == ['d', 'a', 'xx']")
    assert result.status == ("pass" if server.code.rooted else "fail"), result
    assert verdict(
        server, "import os\ndef f(): return os.listdir('.')", "assert f() == []"
    ).status == ("pass" if server.code.rooted else "fail")


def test_cpu_time_decides_and_a_peak_of_memory_is_an_exception(server):
    result = verdict(server, "def f():\n    while True: pass", "f()", cpu_s=1)
    assert result == TestResult("timeout", "more than 1 s of CPU time")
    assert (
        verdict(server, "def f(): return len(bytearray(2**33))", "f()").reason
        == "f() raised: MemoryError"
    )


def test_a_killed_process_or_server_is_no_pass(server):
    killed = verdict(server, "import ctypes\ndef f(): ctypes.string_at(0)", "f()")
    assert killed == TestResult("fail", "the process of the code ended (Segmentation fault)")
    own = Sandbox(namespaces=False)
    os.kill(own.code.pid, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        check(own, ["def f(): return 1"], Tests("f()"), Limits())
    own.close()


MANY_OPEN = """
import os, resource
from shaped_eval.grading.sandbox.checker import *
most = min(5_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(most - 100)]
sandbox = Sandbox(namespaces=False)
code = "import os\\ndef f(fd):\\n    try: return os.fstat(fd).st_mode\\n    except OSError: return 0"
tests = Tests(f"assert [fd for fd in range(4, {most}) if f(fd)] == []", ("f",))
print(check(sandbox, [code], tests, Limits()).reason)
"""


def test_no_descriptor_of_the_caller_s_is_open_however_many_he_has():
    assert run_without("user namespaces", MANY_OPEN).endswith(" calls\n")


def test_all_ends_with_the_process_that_started_it():
    program = (
        "import os, sys, threading\nfrom shaped_eval.grading.sandbox.checker import *\n"
        "server = Sandbox()\nprint(server.code.pid, flush=True)\n"
        "check(server, ['def f():\\n    while True: pass'], Tests('f()'), Limits())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PACKAGES},
    )
    assert process.stdout is not None
    session = int(process.stdout.readline())
    wait_until(lambda: len(_in_session(session)) >= 2)  # the server, and the code that loops
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not _in_session(session))


def _in_session(session: int) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(entry.parent.name)
    return found


@pytest.mark.slow
def test_the_folder_of_the_code_hides_no_library():
    assert root.folder_beside(["/lib", "/home/me/.venv/lib/numpy", "/tmpfs"]) == "/tmp"
    assert root.folder_beside(["/lib", "/tmp/checkout/.venv/lib/numpy"]) == "/sandbox"
