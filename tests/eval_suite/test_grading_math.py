"""The mathematics grader: what counts as equal, what does not, and what stands for a vote."""

from __future__ import annotations

import pytest

from eval_suite.grading.extract import boxed_or_tail, last_boxed, plain_answer
from eval_suite.grading.literals import parse_number
from eval_suite.grading.math import grade


def status_of(answer: str, gold: str) -> str:
    return grade(f"So it is $\\boxed{{{answer}}}$.", gold)[0]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.50", r"\frac{1}{2}"),
        ("1,000", "1000"),
        ("10000", "10{,}000"),
        (r"\$32,\!348", "32348"),
        ("1 1/2", "1.5"),
        (r"1\frac{4}{5}", r"\frac95"),
        ("0.333333", "1/3"),
        (r"\dfrac{16}{27}", r"\frac{16}{27}"),
        (r"50\%", "0.5"),
        (r"9\%", "9"),
        ("x = 7", "7"),
        ("2+5=7", "7"),
        (r"25\pi = 78.54", "78.54"),
        ("120", r"120^\circ"),
        (r"5\text{ cm}", "5"),
        ("Evelyn", r"\text{Evelyn}"),
        ("B", r"\text{(B)}"),
        ("1+x", "x+1"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
        ("3,2,1", "1,2,3"),
        (r"[-2, 7]", r"x \in [-2,7]"),
        (r"(0, 36) \setminus \{9\}", r"(0,9) \cup (9,36)"),
        (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}"),
        ("4.5e33", r"4.5 \times 10^{33}"),
        (r"4.50004 \times 10^{33} \text{ erg/s}", "4.5e33"),
        ("1.6e-19", r"1.6\cdot 10^{-19}"),
        (r"\frac{1}{2 n+2}", r"$\frac{1}{2n+2}$"),
    ],
)
def test_equal_answers_pass(answer, gold):
    assert status_of(answer, gold) == "pass"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3=7", "7"),
        ("x=3=7", "7"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        ("1.6e-19", "9.1e-31"),
        (r"1.6 \times 10^{-19} \cdot 2", r"9.1 \times 10^{-31} \cdot 2"),
        ("4.51e33", "4.5e33"),
        (r"4.51 \times 10^{33} \text{ erg/s}", "4.5e33"),
        ("1e-9", "0"),
        ("0.333", "1/3"),
        ("3.14", r"\pi"),
        ("1 1/2", "11/2"),
        ("100", "1000"),
        ("(2,1)", "(1,2)"),
        ("[0,1)", "[0,1]"),
        (r"(-\infty, 0)", r"(-\infty, 0]"),
        ("1,2", "1,2,3"),
        ("Angela", r"\text{Evelyn}"),
        ("x<3", "x<4"),
        ("y=2x+1", "y=2x+3"),
        ("x=3", "y=3"),
        ("1+2i", "1+3i"),
        ("~~ no formula @@", "5"),
        ("-5", "5"),
    ],
)
def test_unequal_answers_fail(answer, gold):
    assert status_of(answer, gold) == "fail"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"First \boxed{3}, no: \boxed{7}", "pass"),
        (r"First \boxed{7}, no: \boxed{3}", "fail"),
        (r"\boxed{7} and then \boxed{3 was cut off", "pass"),
        (r"\boxed 7", "pass"),
        (r"\fbox{7}", "pass"),
        ("The final answer is $7$. I hope it is correct.", "pass"),
        ("so the answer is 7.", "pass"),
        ("so the answer is 8.", "fail"),
        ("I do not know.", "unparsed"),
        ("", "unparsed"),
        (r"\boxed{}", "unparsed"),
        (r"\boxed{ }", "unparsed"),
        (f"7{'.' * 2000}", "unparsed"),
    ],
)
def test_the_last_answer_counts(completion, expected):
    assert grade(completion, "7")[0] == expected


@pytest.mark.parametrize(
    "answers",
    [
        ("0.50", r"\frac{2}{4}", "1/2", r"\frac12", r"50\%"),
        ("1,000", "1000", "1000.", r"10^{3}", "1e3"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", r"\sqrt{0.5}"),
        ("x=7", "7", "7.0", r"y = 3+4 = 7"),
        (r"\{2,1\}", "1,2"),
        ("x+1", "1+x"),
        (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}"),
    ],
)
def test_equal_wrong_answers_vote_together_and_apart_from_others(answers):
    votes = {grade(f"\\boxed{{{answer}}}", "12345")[1] for answer in answers}
    assert len(votes) == 1
    assert None not in votes
    assert votes != {grade(r"\boxed{\frac{3}{7}}", "12345")[1]}


def test_all_passes_have_golds_vote():
    answers = {grade(f"\\boxed{{{answer}}}", "0.5")[1] for answer in ("1/2", "0.50", r"\frac{\sqrt{4}}{4}", r"50\%")}
    assert answers == {"1/2"}


def test_extraction_is_idempotent_and_outermost():
    assert last_boxed(r"\boxed{\frac{1}{\boxed{2}}}") == r"\frac{1}{\boxed{2}}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed("no box") is None
    for text in (r"a \boxed{b} c", "x" * 5000, r"\boxed{a \boxed{b"):
        assert boxed_or_tail(boxed_or_tail(text)) == boxed_or_tail(text)


def test_long_answers_are_told_apart():
    first, second = plain_answer("1" * 5000), plain_answer("1" * 4999 + "2")
    assert first != second
    assert len(first) < 200
    plain_answer("\ud800").encode()  # a lone surrogate must not break the verdict file


@pytest.mark.parametrize(
    "text", ["", "x", "1,00", "1 2", "1/0", r"\frac{1}{0}", "1e9999", "--5", "1.2.3", "7" * 500, "1,2,3", "12e"]
)
def test_what_is_no_number(text):
    assert parse_number(text) is None
