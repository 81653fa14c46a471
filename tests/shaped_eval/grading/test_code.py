"""The grader `code`: programs in completions, statuses by pool and command, real answers."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from places import SHARED
from sandboxes import needs_sandbox
from shaped_eval.grading import GradeRequest, GraderPool, grader_spec
from shaped_eval.grading.code.programs import find_programs
from shaped_eval.records import append_jsonl, read_jsonl
from waiting import processor_limit

from shaped_trl.cli import main

needs_outputs = pytest.mark.skipif(
    not (SHARED / "outputs").is_dir(), reason="no real answers beside the checkout"
)
pytestmark = needs_sandbox

PROMPT = 'from typing import List\n\ndef help(x): return x\n\ndef total(xs: List[int]) -> int:\n    """ Sum. """\n'
WHOLE = "def total(xs):\n    return sum(xs)\n"
TESTS = "assert total([1, 2]) == 3\nassert total([]) == 0"


def gold(kind: str = "continuation", **more) -> str:
    preamble = PROMPT if kind == "continuation" else ""
    return json.dumps(
        {"kind": kind, "entry_point": "total", "preamble": preamble, "tests": TESTS, **more}
    )


@pytest.fixture(scope="module")
def pool():
    with GraderPool(1) as pool:
        yield pool


CONTINUATIONS = {
    "the body": "    return sum(xs)\n",
    "the body after an empty line": "\n    # sum\n    return sum(xs)",
    "the body without its first indentation": "return sum(xs)",
    "two lines without the first indentation": "n = sum(xs)\n    return n",
    "the body and the next function, cut off": "    return sum(xs)\n\ndef other(x):\n    return "
    "(x +",
    "the body, then prose": "    return sum(xs)\n```\nThis sums the list.",
    "the body, then a block that shows its use": "    return "
    "sum(xs)\n```\nUse:\n```python\ntotal([1])\n```",
    "the prompt again": PROMPT + "    return sum(xs)\n",
    "with the helper of the prompt": "    return help(sum(xs))",
    "a block with the body": "Here:\n```python\n    return sum(xs)\n```",
}
PROGRAMS = {
    "a program": WHOLE,
    "an import from the future": f"from __future__ import annotations\n{WHOLE}",
    "an assignment": "total = sum",
    "Windows lines": WHOLE.replace("\n", "\r\n"),
    "a block": f"Sure!\n\n```python\n{WHOLE}```\n\nIt sums.",
    "a block without a language": f"```\n{WHOLE}```",
    "a block with tildes": f"~~~python\n{WHOLE}~~~",
    "a block that is not closed": f"Sure!\n```python\n{WHOLE}",
    "a block within a list": "1. Do:\n\n   ```python\n   def total(xs):\n       return sum(xs)\n "
    "  ```\n",
    "a block, then its use": f"```python\n{WHOLE}```\nFor example:\n```python\nprint(total([1, "
    "2]), input())\n```",
    "a block, then its output": f"```python\n{WHOLE}```\nprints\n```text\n3\n```",
    "a wrong draft, then the right one": "```python\ndef total(xs): return "
    f"0\n```\nNo:\n```python\n{WHOLE}```",
    "a helper, then the function": (
        "```python\ndef h(xs): return sum(xs)\n```\n```python\ndef total(xs): return h(xs)\n```"
    ),
    "imports, then the function": (
        "```python\nimport math\n```\nthen\n```python\ndef total(xs): return "
        "int(math.fsum(xs))\n```"
    ),
    "the shell, then the function": f"```bash\npip install numpy\n```\n```python\n{WHOLE}```",
    "prose around it": f"The function is:\n\n{WHOLE}\nThis sums the list, as asked.",
    "after reasoning": "<think>\n```python\ndef total(xs): return "
    f"0\n```\n</think>\n```python\n{WHOLE}```",
    "between marks": f"[BEGIN]\n{WHOLE}\n[DONE]\n\nYou are an expert",
    "up to the mark": f"{WHOLE}[DONE]\nYou are an expert",
    "a guard for scripts": f"{WHOLE}\nif __name__ == '__main__':\n    print(total(input()))",
}
WRONG = {
    "a wrong sum": ("    return 0\n", "fail"),
    "the wrong draft last": (
        f"```python\n{WHOLE}```\n```python\ndef total(xs): return 0\n```",
        "fail",
    ),
    "another name": ("```python\ndef sum_of(xs): return sum(xs)\n```", "fail"),
    "no Python": ("    return sum(xs", "fail"),
    "an exception": ("    return xs['a']", "fail"),
    "an endless loop": ("    while True: pass", "timeout"),
    "nothing": ("", "unparsed"),
    "spaces": (" \n\n  ", "unparsed"),
    "prose": ("I am sorry, but I cannot help with that.", "unparsed"),
    "prose of several lines": (
        "We add the numbers.\nThen we are done.\n\nThe answer is 3.",
        "unparsed",
    ),
}


@pytest.mark.parametrize("name", CONTINUATIONS)
def test_continuations_are_completed_by_the_prompt(name, pool):
    (grade,) = pool.grade([GradeRequest("code", CONTINUATIONS[name], gold())])
    assert grade.status == "pass", grade


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_found_in_answers_whether_or_not_they_could_go_on(name, pool):
    for kind in ("continuation", "program"):
        (grade,) = pool.grade([GradeRequest("code", PROGRAMS[name], gold(kind))])
        assert grade.status == "pass", (kind, grade)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_have_their_status(name, pool):
    completion, status = WRONG[name]
    (grade,) = pool.grade([GradeRequest("code", completion, gold(limits={"cpu_s": 1}))])
    assert grade.status == status, grade
    assert (grade.answer is None) == (status != "fail")
    assert grade.reason


def test_answers_are_the_behaviour_that_decided(pool):
    completions = [
        "    return sum(xs)",
        "    return 7",
        "    return 3 + 4",
        "    return 8",
        "    raise KeyError(1)",
    ]
    answers = [
        grade.answer
        for grade in pool.grade([GradeRequest("code", text, gold()) for text in completions])
    ]
    assert answers == [
        "passes",
        "total([1, 2]) returned 7: AssertionError",
        "total([1, 2]) returned 7: AssertionError",
        "total([1, 2]) returned 8: AssertionError",
        "total([1, 2]) raised: KeyError: '1'",
    ]


def test_a_gold_that_is_no_object_is_the_tests(pool):
    requests = [
        GradeRequest("code", WHOLE, text)
        for text in (TESTS, "assert total([1]) == 2", "[1, 2]", "assert (")
    ]
    assert [grade.status for grade in pool.grade(requests)] == ["pass", "fail", "error", "error"]


def test_the_prompt_defines_what_the_tests_use(pool):
    tests = "import math\nassert total([help(2), math.floor(1.5)]) == 3"
    cheat = "def help(x): return None\ndef total(xs): return 3"
    grades = pool.grade(
        [GradeRequest("code", text, gold(tests=tests)) for text in ("    return sum(xs)", cheat)]
    )
    assert [grade.status for grade in grades] == ["pass", "pass"]
    assert (
        pool.grade(
            [GradeRequest("code", cheat, gold(tests="assert help(1) == 1 and total([]) == 3"))]
        )[0].status
        == "pass"
    )


def test_a_program_that_ends_its_process_or_the_tests_patience_leaves_the_pool_working():
    hostile = [
        "import os\ndef total(xs): os._exit(0)",
        "def total(xs): return 'x' * 10**7",
        "import ctypes\ndef total(xs): ctypes.string_at(0)",
        # a set of numbers with equal hashes, which the tests need quadratic time to rebuild
        "import json, os, struct\ndef total(xs):\n    d = json.dumps({'value': {'s': [{'i': "
        "hex(i * (2**61 - 1))} for i in range(120_000)]}}).encode()\n    os.write(3, "
        "struct.pack('>I', len(d)) + d)\n    return 0",
    ]
    short = gold(limits={"tests_cpu_s": 1})
    with GraderPool(1) as pool:
        statuses = [
            grade.status
            for grade in pool.grade([GradeRequest("code", text, short) for text in hostile])
        ]
        assert statuses == ["fail", "fail", "fail", "timeout"]
        assert pool.grade([GradeRequest("code", WHOLE, gold())])[0].status == "pass"


@pytest.mark.parametrize(
    "unit",
    [
        "```",
        "`",
        "```a",
        "\n```\n",
        " ",
        "\t\n",
        "def ",
        "from ",
        "a.",
        "[BEGIN]\n",
        "def total\n```\n",
        "x=",
        "'\",",
    ],
)
def test_the_search_for_programs_is_linear(unit):
    with processor_limit(60):
        find_programs(unit * (400_000 // len(unit)) + "`x", "total", PROMPT, continues=True)


def test_the_grader_s_version_names_python():
    assert re.fullmatch(r"code/\d+ \(Python 3\.\d+\.\d+\S*\)", grader_spec("code").version)


Outcome = tuple[str, int, bool, str, str]  # problem, sample, stored verdict, own status, own answer


def grade_outputs(name: str, tmp_path: Path, problems: list[str] | None = None) -> list[Outcome]:
    """Stored verdicts of `outputs/out_humaneval_<name>_x10.jsonl`, and those of the command."""
    by_problem: dict[str, list[dict]] = {}
    for row in read_jsonl(SHARED / "outputs" / f"out_humaneval_{name}_x10.jsonl"):
        if problems is None or row["task_id"] in problems:
            by_problem.setdefault(row["task_id"], []).append(row)
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out"
    lines = [
        {"problem_id": i, "completions": [r["solution"] for r in rows]}
        for i, rows in by_problem.items()
    ]
    append_jsonl(answers, lines)
    command = ["grade", "--answers", str(answers), "--benchmark", "humaneval", "--out", str(out)]
    assert main([*command, "--hub_mirror", str(SHARED / "hub")]) == 0
    verdicts = {
        (row["problem_id"], row["sample_index"]): row for row in read_jsonl(out / "verdicts.jsonl")
    }
    outcomes = []
    for problem, rows in by_problem.items():
        for index, row in enumerate(rows):
            verdict = verdicts[f"humaneval/{problem}", index]
            outcomes.append((problem, index, row["passed"], verdict["status"], verdict["answer"]))
    return outcomes


@needs_outputs
def test_stored_verdicts_of_real_answers_are_repeated_in_a_sample(tmp_path):
    problems = [f"HumanEval/{i}" for i in random.Random(0).sample(range(164), 8)]
    outcomes = grade_outputs("codellama-34b-instruct", tmp_path, problems)
    assert len(outcomes) == 80
    assert [outcome for outcome in outcomes if outcome[2] != (outcome[3] == "pass")] == []


@needs_outputs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean"), [("gpt-3.5-turbo", 77.0), ("codellama-34b-instruct", 45.1)]
)
def test_stored_verdicts_of_all_real_answers_are_repeated(name, mean, tmp_path):
    outcomes = grade_outputs(name, tmp_path)
    assert len(outcomes) == 1640
    assert [outcome for outcome in outcomes if outcome[3] == "pass" and not outcome[2]] == []
    agreed = sum(passed == (status == "pass") for _, _, passed, status, _ in outcomes) / len(
        outcomes
    )
    assert agreed >= 0.99
    passes = sum(status == "pass" for *_, status, _ in outcomes)
    assert 100 * passes / len(outcomes) == pytest.approx(mean, abs=0.1)
