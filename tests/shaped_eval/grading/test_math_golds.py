"""Each gold of each mathematics benchmark, against itself, other forms and wrong neighbours."""

from __future__ import annotations

import pytest
from places import MIRROR
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.grading.graders import grader_spec, load
from shaped_eval.grading.math.grader import grade as grade_math
from shaped_eval.records import Problem
from writings import (
    expression_writings,
    gold_value,
    number_writings,
    wrong_expressions,
    wrong_numbers,
)

pytestmark = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no mirror of the real data sets beside the checkout"
)
MATH = ["math500", "minerva", "olympiadbench", "amc23", "aime24", "aime25"]
# The mirror has no rows of these; tests/shaped_eval/benchmarks has made-up ones.
NOT_MIRRORED = ["aime26", "hmmt_feb25", "hmmt_feb26", "brumo25", "cmimc25", "beyondaime"]
# the default suite takes every 9th expression, with 2 writings and 1 wrong neighbour of each
EVERY = 9
# Changes that keep the number at the graded precision, or the set.
SAME = {
    ("olympiadbench/2592", "last digit"),  # 4.2, where gold has a tolerance of 0.1
    ("olympiadbench/2592", "one percent more"),
    ("olympiadbench/1760", "first integer"),  # the name of an angle
    ("olympiadbench/1760", "last integer"),
    ("olympiadbench/1760", "an element less"),  # both are 90 degrees
    ("olympiadbench/1687", "letter"),  # the name of a function's variable
}


@pytest.fixture(scope="module")
def golds() -> dict[str, list[Problem]]:
    return {name: load_problems([name], hub_mirror=MIRROR, shots=0) for name in ["gsm8k", *MATH]}


def boxed(answer: str) -> str:
    return f"We add the two parts. Therefore, the answer is $\\boxed{{{answer}}}$, as claimed."


def failures(problem: Problem, right: dict[str, str], wrong: dict[str, str]) -> list[tuple]:
    """The cases whose grade is not the expected one."""
    ways = [("pass", kind, text) for kind, text in right.items()]
    ways += [
        ("fail", kind, text)
        for kind, text in wrong.items()
        if (problem.problem_id, kind) not in SAME
    ]
    graded = [
        (want, kind, text, grade_math(boxed(text), problem.gold)[0]) for want, kind, text in ways
    ]
    return [(problem.problem_id, problem.gold, *case) for case in graded if case[0] != case[-1]]


def some(ways: dict[str, str], index: int, count: int) -> dict[str, str]:
    """`count` of the ways; the choice varies with the index, so that a benchmark covers all."""
    names = sorted(ways)
    return {
        names[(index * count + i) % len(names)]: ways[names[(index * count + i) % len(names)]]
        for i in range(count)
    }


def plain_gold(problem: Problem) -> str:
    return problem.gold.partition("\\tolerance")[0]


def test_the_table_of_math_benchmarks_is_whole():
    assert [name for name, row in BENCHMARKS.items() if row.grader == "math"] == [
        *MATH,
        *NOT_MIRRORED,
    ]


@pytest.mark.parametrize("name", ["gsm8k", *MATH])
def test_every_gold_equals_itself(golds, name):
    grade = load(grader_spec(BENCHMARKS[name].grader).function)
    for problem in golds[name]:
        completion = f"So it is.\n#### {problem.gold}" if name == "gsm8k" else boxed(problem.gold)
        assert grade(completion, problem.gold)[0] == "pass", problem.problem_id


def test_every_number_in_other_writings_and_its_neighbours(golds):
    found, tried, kinds = [], set(), set()
    for name in MATH:
        for index, problem in enumerate(golds[name]):
            value = gold_value(plain_gold(problem))
            if value is None:
                continue
            right, wrong = (
                number_writings(plain_gold(problem), value),
                wrong_numbers(plain_gold(problem), value),
            )
            kinds |= {*right, *wrong}
            right, wrong = some(right, index, 3), some(wrong, index, 2)
            tried |= {*right, *wrong}
            found += failures(problem, right, wrong)
    assert found == []
    assert tried == kinds


def test_expressions_in_other_writings_and_their_neighbours(golds):
    found = []
    for name in MATH:
        problems = [problem for problem in golds[name] if gold_value(plain_gold(problem)) is None]
        for index, problem in enumerate(problems[::EVERY]):
            right, wrong = expression_writings(problem.gold), wrong_expressions(problem.gold)
            found += failures(
                problem, some(right, index, 2), some(wrong, index, 1) if wrong else {}
            )
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MATH)
def test_every_expression_and_number_in_half_of_the_writings(golds, name):
    found = []
    for index, problem in enumerate(golds[name], 1):
        gold = plain_gold(problem)
        value = gold_value(gold)
        right = expression_writings(gold) if value is None else number_writings(gold, value)
        wrong = wrong_expressions(gold) if value is None else wrong_numbers(gold, value)
        assert len(set(right.values())) >= 3, problem.problem_id
        right, wrong = (
            some(right, index, (len(right) + 1) // 2),
            some(wrong, index, (len(wrong) + 1) // 2),
        )
        found += failures(problem, right, wrong)
    assert found == []


def test_every_gsm8k_gold_in_other_writings(golds):
    grade = load(grader_spec("gsm8k").function)
    ways = [
        "#### {0}",
        "#### ${0}",
        "#### {0}.00",
        "#### {0} dollars",
        "The answer is {0}.",
        "\\boxed{{{0}}}",
    ]
    ways += [
        "#### \\${1}",
        "#### {1}.",
        "####{0}",
        "#### **{0}**",
        "so x = {0}\n#### x = {0}",
        "#### {0}\n\nQuestion: 7?",
    ]
    for index, problem in enumerate(golds["gsm8k"]):
        number = problem.gold.replace(",", "")
        for way in ways:
            completion = f"First 17 and 4.\n{way.format(number, f'{int(number):,}')}"
            assert grade(completion, problem.gold)[0] == "pass", (problem.problem_id, completion)
        value = int(number)
        for wrong in (-value, value + 1, 10 * value, value * 1000, f"{value}.5"):
            if wrong != value:
                assert grade(f"First {number}.\n#### {wrong}", problem.gold)[0] == "fail", (
                    index,
                    wrong,
                )
