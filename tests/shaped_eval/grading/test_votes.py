r"""Equal wrong answers are one vote however they are written; unequal ones are two.

Checked against groups that were written by hand, and pair by pair against math-verify's own
comparison on recorded answers.
"""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from math_verify import verify
from places import OUTPUTS
from shaped_eval.grading.extract import boxed_or_tail, last_boxed
from shaped_eval.grading.math.grader import grade
from shaped_eval.grading.math.parsing import parse_boxed
from waiting import processor_limit

EQUAL = [
    [r"x^2-1", r"(x-1)(x+1)", r"-1+x^{2}", r"x^2-1.0"],
    [r"\frac{x}{x+1}", r"1-\frac{1}{x+1}", r"x/(1+x)"],
    [r"\sin^2 x", r"1-\cos^2 x", r"\frac{1-\cos(2x)}{2}"],
    [r"(x+1)^{10}", r"((x+1)^2)^5"],
    [r"2^{n+1}", r"2\cdot 2^n"],
    [r"\binom{n}{2}", r"\frac{n(n-1)}{2}"],
    [r"\ln(x)+\ln(2)", r"\ln(2x)"],
    [r"\sqrt{x}", r"x^{1/2}", r"x^{0.5}"],
    [r"x>3", r"3<x", r"2x>6"],
    [r"x^2+y^2=4", r"2x^2+2y^2=8", r"4=x^2+y^2", r"x^2+y^2-4=0"],
    [r"(a,b)", r"\left(a, \frac{2b}{2}\right)"],
    [r"\{x, 2x\}", r"\{x+x, x\}"],
    [r"(-\infty, a]", r"(-\infty, \frac{2a}{2}]"],
    [r"(1,2) \cup (3,a)", r"(3, \frac{2a}{2}) \cup (1,2)"],
    [r"\begin{pmatrix} x \\ 2x \end{pmatrix}", r"\begin{pmatrix} x \\ x+x \end{pmatrix}"],
    [r"\frac{1}{2}", r"0.5", r"\frac{2}{4}", r".50"],
    [r"9999.857142857143", r"9999\frac{6}{7}", r"\frac{69999}{7}"],
    [r"\sqrt{8}", r"2\sqrt{2}"],
    [r"y=2x+3", r"2x+3", r"y=3+2x"],
    [r"\{3, 1, 2\}", r"\{1,2,3\}"],
]
UNEQUAL = [
    *(r"x^2-1", r"x^2+1", r"x^2-2", r"y^2-1", r"(x-1)^2"),
    *(r"\sin x", r"\cos x", r"\sqrt{x^2}", r"x", r"\ln(x^2)", r"2\ln(x)", r"2^n", r"n^2"),
    *(r"x<3", r"x>3", r"x\le 3", r"x<2", r"x^2+y^2=5", r"x^2-y^2=5"),
    *(r"(a,b)", r"(b,a)", r"\{a,b\}", r"(-\infty, a)", r"(-\infty, a]"),
    *(r"3.14", r"\pi", r"\frac{22}{7}", r"0.333", r"\frac{1}{3}"),
]


def answer(boxed: str) -> str | None:
    status, given = grade(f"\\boxed{{{boxed}}}", "12345")
    assert status == "fail"
    return given


@pytest.mark.parametrize("forms", EQUAL, ids=lambda forms: forms[0])
def test_forms_of_one_answer_are_one_vote(forms):
    assert len({answer(form) for form in forms}) == 1, {form: answer(form) for form in forms}


def test_unequal_answers_are_votes_of_their_own():
    votes: dict[str | None, str] = {}
    for form in UNEQUAL:
        vote = answer(form)
        assert vote not in votes, (form, votes[vote])
        votes[vote] = form


def parse(deciding: str):
    return parse_boxed(last_boxed(deciding))


@pytest.mark.skipif(
    not OUTPUTS.is_dir(), reason="needs recorded model answers in ../shared/outputs"
)
def test_votes_of_recorded_answers_agree_with_comparing_each_pair():
    checked = 0
    for line in (OUTPUTS / "out_math_qwen_100x8.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        wrong = {}
        for completion in row["code"]:
            status, given = grade(completion, row["gt"])
            if status == "fail":
                wrong[boxed_or_tail(completion)] = given
        for (a, vote_a), (b, vote_b) in combinations(wrong.items(), 2):
            parsed = [parse(text) for text in (a, b)]
            equal = verify(*parsed, timeout_seconds=None) or verify(
                *parsed[::-1], timeout_seconds=None
            )
            assert equal == (vote_a == vote_b), (a, b)
            checked += 1
    assert checked > 40


@pytest.mark.slow
def test_a_vote_of_many_distinct_forms_compares_no_pairs():
    forms = [
        rf"x^{{{i % 4 + 1}}} + \frac{{{i}}}{{{i + 1}}} x - \frac{{1}}{{{i + 2}}}" for i in range(32)
    ]
    forms += [
        rf"-\frac{{1}}{{{i + 2}}} + x^{{{i % 4 + 1}}} + x - \frac{{x}}{{{i + 1}}}"
        for i in range(32)
    ]
    with processor_limit(100):  # measured: 1 s, nearly all of it parsing
        votes = [answer(form) for form in forms]
    assert votes[:32] == votes[32:]
    assert len(set(votes)) == 32
