r"""Families of wrong and right forms of real golds, against this grader and math-verify.

`math_families/` lists the known exceptions, each with the reason: `wrong_that_pass.jsonl` has wrong
forms that pass, `right_that_fail.jsonl` right forms that fail, and `beyond_math_verify.jsonl` forms
that pass here but not in math-verify. A pair is identified by its family and its problem's id.
Anything else is an error of the grader.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from math_verify import parse, verify
from places import MIRROR
from right_families import right_completions
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.base import SoftTimeout
from shaped_eval.grading.worker import _soft_timeout
from shaped_eval.records import Problem
from writings import gold_value, top_level_parts
from wrong_families import BOXED, COMPLETIONS, plain_gold, wrong_completions

KNOWN = Path(__file__).with_name("math_families")
pytestmark = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no mirror of the real data sets beside the checkout"
)
# the step between chosen problems of each benchmark, such that there are more than 200 golds
EVERY = {"math500": 6, "minerva": 5, "olympiadbench": 9, "amc23": 2, "aime24": 2, "aime25": 2}
FEW = 31  # the step between the golds, and between their families, that the default suite takes
LIMIT_S = 3.0


@cache
def golds(name: str) -> list[Problem]:
    """Problems of a benchmark with distinct golds."""
    problems = load_problems([name], hub_mirror=MIRROR, shots=0)[:: EVERY[name]]
    return list({problem.gold: problem for problem in reversed(problems)}.values())[::-1]


def pairs(
    problems: list[Problem], write: Callable[[str], dict[str, str]]
) -> list[tuple[Problem, str, str]]:
    return [
        (problem, family, text)
        for problem in problems
        for family, text in write(problem.gold).items()
    ]


def statuses(
    pool: GraderPool, cases: list[tuple[Problem, str, str]]
) -> Iterator[tuple[Problem, str, str, str]]:
    grades = pool.grade([GradeRequest("math", text, problem.gold) for problem, _, text in cases])
    return ((*case, grade.status) for case, grade in zip(cases, grades, strict=True))


def known(name: str) -> list[dict]:
    return [
        json.loads(line)
        for line in (KNOWN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def known_pairs(name: str) -> set[tuple[str, str]]:
    rows = known(name)
    return {
        (family, problem)
        for row in rows
        for family in row["families"]
        for problem in row["problems"]
    }


def form(gold: str) -> str:
    """The kind of this gold, as rows of `beyond_math_verify` call it."""
    bare = plain_gold(gold)
    if gold_value(bare) is not None:
        return "e-notation" if "e" in bare else "number"
    if "\\text" in bare or "\\mbox" in bare:
        return "words or unit"
    if len(top_level_parts(bare)) > 1:
        return "list"
    return "equation" if "=" in bare else "expression"


def passes_math_verify(gold: str, completion: str) -> bool:
    """Whether math-verify, called as in its README, passes the answer in time."""
    try:
        with _soft_timeout(LIMIT_S):
            expected = parse(f"$\\boxed{{{plain_gold(gold)}}}$", parsing_timeout=None)
            return verify(expected, parse(completion, parsing_timeout=None), timeout_seconds=None)
    except (SoftTimeout, Exception):
        return False


def test_there_are_enough_golds_and_families():
    assert len({problem.gold for name in EVERY for problem in golds(name)}) >= 200
    assert len(BOXED) + len(COMPLETIONS) >= 150
    assert all(
        len(right_completions(problem.gold)) >= 40 for name in EVERY for problem in golds(name)
    )
    for name in ("wrong_that_pass", "right_that_fail", "beyond_math_verify"):
        assert all(len(row["reason"]) > 20 for row in known(name))


def test_a_sample_of_wrong_and_right_writings():
    problems = [problem for name in EVERY for problem in golds(name)]
    wrong, right = (
        pairs(problems, wrong_completions)[:: FEW * 20],
        pairs(problems, right_completions)[:: FEW * 3],
    )
    with GraderPool(1) as pool:
        passed = {
            (family, p.problem_id)
            for p, family, _, status in statuses(pool, wrong)
            if status == "pass"
        }
        failed = {
            (family, p.problem_id)
            for p, family, _, status in statuses(pool, right)
            if status != "pass"
        }
    assert passed <= known_pairs("wrong_that_pass")
    assert failed <= known_pairs("right_that_fail")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EVERY)
def test_wrong_writings_fail(name):
    """All families are applied to all golds. Exactly the listed ones pass."""
    with GraderPool(1) as pool:
        graded = list(statuses(pool, pairs(golds(name), wrong_completions)))
    assert {status for *_, status in graded} <= {"pass", "fail", "unparsed", "timeout"}
    passed = {
        (family, problem.problem_id) for problem, family, _, status in graded if status == "pass"
    }
    assert passed == {
        pair for pair in known_pairs("wrong_that_pass") if pair[1].startswith(f"{name}/")
    }
    not_there = {
        (family, problem.problem_id)
        for problem, family, text, status in graded
        if status == "pass" and not passes_math_verify(problem.gold, text)
    }
    listed = {
        pair
        for row in known("wrong_that_pass")
        if row["math_verify"] == "rejects"
        for pair in pairs_of(row)
    }
    assert not_there <= listed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EVERY)
def test_right_writings_pass(name):
    with GraderPool(1) as pool:
        graded = list(statuses(pool, pairs(golds(name), right_completions)))
    failed = {
        (family, problem.problem_id) for problem, family, _, status in graded if status != "pass"
    }
    assert failed == {
        pair for pair in known_pairs("right_that_fail") if pair[1].startswith(f"{name}/")
    }
    beyond = defaultdict(set)
    for problem, family, text, status in graded:
        if status == "pass" and not passes_math_verify(problem.gold, text):
            beyond[family].add(form(problem.gold))
    listed = {
        family: set(row["forms"])
        for row in known("beyond_math_verify")
        for family in row["families"]
    }
    assert {
        family: forms for family, forms in beyond.items() if forms - listed.get(family, set())
    } == {}


def pairs_of(row: dict) -> list[tuple[str, str]]:
    return [(family, problem) for family in row["families"] for problem in row["problems"]]
