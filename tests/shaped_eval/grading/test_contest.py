"""Contest problems: twenty programs, right and wrong, on both kinds of tests."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.code.cases import MOST_CASES, cases_of
from shaped_eval.grading.code.contest import contest_gold
from shaped_eval.grading.code.outputs import difference
from shaped_eval.grading.code.programs import find_scripts
from shaped_eval.grading.sandbox.checker import Limits
from shaped_eval.grading.sandbox.confine import missing_protections

needs_sandbox = pytest.mark.skipif(
    bool(missing_protections()), reason=f"no sandbox: {missing_protections()}"
)


def rows_of(kind: str, *pairs: tuple[str, str]) -> list[dict]:
    return [{"input": put, "output": out, "testtype": kind} for put, out in pairs]


def packed(tests: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def gold(kind: str, function: str, shown: list, hidden: list) -> str:
    public, private = rows_of(kind, *shown), rows_of(kind, *hidden)
    return contest_gold(function, json.dumps(public), packed(private))


# the mean of n numbers, and each of them doubled on a line
MEAN = gold(
    "stdin",
    "",
    [("3\n1 2 3\n", "2.0\n2\n4\n6\n")],
    [("1\n5\n", "5\n10"), ("2\n1 2", "1.5\n2\n4\n"), ("4\n7 7 7 7\n", "7\n14\n14\n14\n14\n\n")],
)
READ = "n = int(input())\nxs = list(map(int, input().split()))\n"
PRINT = "print(sum(xs) / n)\nfor x in xs:\n    print(2 * x)\n"
FAST = """\
import os, sys
from io import BytesIO
data = BytesIO(os.read(0, 1 << 20))
n, xs = int(data.readline()), [int(x) for x in data.readline().split()]
os.write(1, ("%s\\n" % (sum(xs) / n) + "".join("%d \\n" % (2 * x) for x in xs)).encode())
"""
IN_A_THREAD = f"""\
import sys, threading
def main():
    {READ.replace(chr(10), chr(10) + "    ")}
    print(mean(xs))
    print(*[2 * x for x in xs], sep="\\n")
if __name__ == "__main__":
    threading.stack_size(1 << 27)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
"""
PROGRAMS = {
    "lines": (READ + PRINT, "pass"),
    "the whole of standard input": (
        "import sys\nn, *xs = map(int, sys.stdin.read().split())\n" + PRINT,
        "pass",
    ),
    "bytes": ("import sys\nn, *xs = map(int, sys.stdin.buffer.read().split())\n" + PRINT, "pass"),
    "an open file": ("n, *xs = map(int, open(0).read().split())\n" + PRINT, "pass"),
    "descriptors": (FAST, "pass"),
    "a thread, and a name that nobody imported": (IN_A_THREAD, "pass"),
    "an exit before the end": (READ + PRINT + "exit()\nprint('never')", "pass"),
    "output that is kept until the exit": (
        "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
        "atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))\n" + READ + PRINT,
        "pass",
    ),
    "whole division": (READ + PRINT.replace("/", "//"), "fail"),
    "the shown test alone": ("print('2.0\\n2\\n4\\n6')", "fail"),
    "a line too many": (READ + PRINT + "print('done')", "fail"),
    "no output": (READ, "fail"),
    "another order": (READ + PRINT.replace("xs:", "xs[::-1]:"), "fail"),
    "an exception after the output": (READ + PRINT + "assert n < 4", "fail"),
    "input that is not there": (READ + "input()\n" + PRINT, "fail"),
    "not Python": ("int main() { return 0; }", "fail"),
}
# the numbers of a list that are above a bound, and their sum
ABOVE = gold(
    "functional",
    "aboveBound",
    [("[1, 5, 3]\n2", "[[5, 3], 8]")],
    [("[]\n0", "[[], 0]"), ("[-1, -2]\n-2", "[[-1], -1]")],
)
METHOD = "class Solution:\n    def aboveBound(self, xs: List[int], bound: int):\n"
METHODS = {
    "a list": (METHOD + "        ys = [x for x in xs if x > bound]\n        return [ys, sum(ys)]", "pass"),
    "a tuple": (METHOD + "        ys = [x for x in xs if x > bound]\n        return ys, sum(ys)", "pass"),
    "a function alone": (
        "def aboveBound(xs, bound):\n    ys = [x for x in xs if x > bound]\n    return [ys, sum(ys)]",
        "pass",
    ),
    "not above": (METHOD + "        ys = [x for x in xs if x >= bound]\n        return [ys, sum(ys)]", "fail"),
    "printed": (METHOD + "        print([[5, 3], 8])", "fail"),
    "equal to everything": (
        "class All:\n    def __eq__(self, other): return True\n" + METHOD + "        return All()",
        "fail",
    ),
    "another method": ("class Solution:\n    def above(self, xs, bound): return [[], 0]", "fail"),
    "an exit": (METHOD + "        import os\n        os._exit(0)", "fail"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with GraderPool(1, hard_timeout_s=600.0) as pool:
        yield pool


@needs_sandbox
@pytest.mark.parametrize(("right", "programs"), [(MEAN, PROGRAMS), (ABOVE, METHODS)])
def test_right_programs_pass_and_wrong_ones_fail(pool, right, programs):
    asked = [
        GradeRequest("contest", f"Here it is.\n```python\n{code}\n```\nIt works.", right)
        for code, _ in programs.values()
    ]
    grades = pool.grade(asked)
    found = {name: grade.status for name, grade in zip(programs, grades, strict=True)}
    assert found == {name: status for name, (_, status) in programs.items()}
    passed = [grade.answer for grade in grades if grade.status == "pass"]
    assert set(passed) == {"passes"}


@needs_sandbox
def test_the_reason_names_the_test_and_what_was_printed(pool):
    code = READ + PRINT.replace("/", "//")
    (grade,) = pool.grade([GradeRequest("contest", code, MEAN)])
    assert grade.reason == "test 3 of 4: line 1 is '1'"
    (grade,) = pool.grade([GradeRequest("contest", METHOD + "        return [[5, 3], 8]", ABOVE)])
    assert "aboveBound([], 0) returned [[5, 3], 8]" in grade.reason


@pytest.mark.slow
@needs_sandbox
def test_a_limit_is_that_of_one_test(pool):
    """Three tests of half a second each fit in one of a second; two seconds in one do not."""
    busy = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    program = "class Solution:\n    def add(self, x):\n        {}\n        return x + {}"
    add = gold("functional", "add", [("1", "1.5")], [("2", "2.5"), ("3", "3.5")])
    limits = Limits(cpu_s=1)
    asked = [
        GradeRequest("contest", program.format(busy.format(s).replace("\n", "\n        "), 0.5), add, limits)
        for s in (0.5, 3)
    ]  # fmt: skip
    assert [grade.status for grade in pool.grade(asked)] == ["pass", "timeout"]
    loop = GradeRequest("contest", "while True: pass", MEAN, limits)
    (grade,) = pool.grade([loop])
    assert (grade.status, grade.reason) == (
        "timeout",
        "test 1 of 4: more than 1 s of CPU time",
    )


@needs_sandbox
def test_a_gold_that_cannot_be_read_is_an_error_of_the_grader(pool):
    hostile = {
        "not an object": "[]",
        "no tests": json.dumps({"function": "", "public": "[]", "private": "[]"}),
        "a method that is a program": json.dumps(
            {"function": "f()\nimport os", "public": "[]", "private": "[]"}
        ),
        "a pickle": json.dumps(
            {"function": "", "public": "[]", "private": packed([{"input": 1}])[:-9]}
        ),
    }
    grades = pool.grade([GradeRequest("contest", "print(1)", text) for text in hostile.values()])
    assert [grade.status for grade in grades] == ["error"] * len(hostile)


def test_the_last_block_is_the_program():
    first, last = "```python\nprint(1)\n```", "```py\nprint(2)\n```"
    assert find_scripts(f"{first}\nNo, rather:\n{last}\nDone.") == ["print(2)"]
    assert find_scripts(f"{last}\n```\n3\n```")[0] == "3"
    assert find_scripts(f"<think>{last}</think>{first}") == ["print(1)"]
    assert find_scripts("```python\nprint(4)") == ["print(4)"]
    assert find_scripts("```cpp\nint main\n```") == []
    assert find_scripts("I do not know.") == []
    assert find_scripts("import sys\nprint(5)")[0] == "import sys\nprint(5)"


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("3", "3\n", True),
        ("  3 \n\n", "3", True),
        ("1 2\n3", "1 2\n3\n", True),
        ("1  2", "1 2", True),  # as numbers
        ("a  b", "a b", False),
        ("1.50", "1.5", True),
        ("1e3", "1000", True),
        ("+7", "7", True),
        ("0.3333", "0.33333", False),
        ("50000000000000000", "50000000000000001", False),
        ("1\n2", "1 2", False),
        ("1 2 3", "1 2", False),
        ("1 2", "1 2 3", False),
        ("yes", "YES", False),
        ("1 a", "1.0 a", False),
        ("", "", True),
        ("", "0", False),
        ("1_0", "10", False),
        ("٣", "3", False),
        ("nan", "nan", True),
        ("nan", "NaN", False),
        ("sNaN", "1", False),
        ("1e999999999", "1e999999998", False),
        ("1e99999999999999999999", "2", False),
    ],
)
def test_outputs_are_compared_by_lines_and_exact_numbers(printed, expected, same):
    assert (difference(printed, expected) is None) is same


def by_the_evaluator(printed: str, expected: str) -> bool:
    """LiveCodeBench's rule written down once more, over whole lists and without any limit."""

    def lines(text):
        return [line.strip() for line in text.strip().split("\n")]

    def numbers(line):
        return [Decimal(word) for word in line.split()]

    if len(lines(printed)) != len(lines(expected)):
        return False
    for line, right in zip(lines(printed), lines(expected), strict=True):
        if line == right:
            continue
        try:
            if numbers(line) != numbers(right):
                return False
        except ArithmeticError:
            return False
    return True


outputs = st.text(alphabet="10.e-+ \n a", max_size=12)


@settings(max_examples=200, deadline=None)
@given(printed=outputs, expected=outputs)
def test_the_comparison_is_that_of_the_evaluator(printed, expected):
    assert (difference(printed, expected) is None) == by_the_evaluator(printed, expected)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=3), min_size=1),
    zeros=st.integers(0, 3),
)
def test_an_equal_number_is_right_in_any_writing(numbers, zeros):
    expected = " ".join(map(str, numbers))
    printed = "  ".join(f"{number:f}" + "0" * zeros for number in numbers)
    assert difference(printed, expected) is None
    assert by_the_evaluator(printed, expected)
    other = [numbers[0] + 1, *numbers[1:]]
    assert difference(" ".join(map(str, other)), expected) is not None


ONE = rows_of("stdin", ("1", "2"))


@pytest.mark.parametrize(
    ("public", "private", "is_function", "reason"),
    [
        ("[", "[]", False, "public tests are not JSON"),
        ("{}", "[]", False, "public tests are not a list"),
        ("[]", "[]", False, "has 0 tests"),
        ("[1]", "[]", False, "not an object"),
        (json.dumps(ONE), packed(rows_of("functional", ("1", "2"))), False, "not of type stdin"),
        (json.dumps(ONE), "[]", True, "not of type functional"),
        (json.dumps([{**ONE[0], "input": 1}]), "[]", False, "lacks a text"),
        (json.dumps(rows_of("functional", ("1\nx", "2"))), "[]", True, "Expecting value"),
        ("[" * 100_000, "[]", False, "nested too deeply"),
        (json.dumps(rows_of("functional", ("[" * 99_999, "2"))), "[]", True, "nested too deeply"),
        (json.dumps(rows_of("functional", ("1" * 9_999, "2"))), "[]", True, "digits"),
        (json.dumps(ONE * (MOST_CASES + 1)), "[]", False, "10,001 tests"),
        (json.dumps(ONE), "AAAA", False, "cannot be decoded: it is not a zlib stream"),
    ],
)  # fmt: skip
def test_tests_that_are_none_are_refused(public, private, is_function, reason):
    with pytest.raises(ValueError, match=reason):
        cases_of(public, private, is_function)


def test_the_public_tests_come_first_and_both_forms_are_read():
    two = rows_of("stdin", ("3", "4"), ("5", "6"))
    for private in (packed(two), json.dumps(two)):
        found = cases_of(json.dumps(ONE), private, False)
        assert [tuple(case) for case in found] == [("1", "2"), ("3", "4"), ("5", "6")]
