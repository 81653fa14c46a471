"""A copy of what the question asks to compute is not an answer, though the parser could use it."""

from __future__ import annotations

import pytest
from shaped_eval.grading.math.grader import grade

MATRIX = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"
DETERMINANT = r"\begin{vmatrix} 1 & 2 \\ 3 & x \end{vmatrix}"
COPIES = [
    (r"\sum_{k=1}^{100} k", "5050"),
    (r"\sum\limits_{k=1}^{100} k", "5050"),
    (r"y = \sum_{k=1}^{100} k", "5050"),
    (r"5050 = \sum_{k=1}^{100} k", "5050"),
    (r"\sum_{n=0}^{\infty} \frac{1}{n!}", "e"),
    (r"\prod_{k=1}^{4} k", "24"),
    (r"\int_0^1 x^2 dx", r"\frac{1}{3}"),
    (r"\int_{0}^{1} x^2 \, \mathrm{d}x", r"\frac{1}{3}"),
    (r"\lim_{x\to 0}\frac{\sin x}{x}", "1"),
    (r"\frac{d}{dx} x^2", "2x"),
    (r"\frac{d}{d x} x^2", "2x"),
    (r"\frac{d (x^2)}{d x}", "2x"),
    (r"\frac{\partial}{\partial x} x^2", "2x"),
    (r"\left(\frac{d}{d x} x^2, 1\right)", "(2x, 1)"),
    (rf"\det {MATRIX}", "-2"),
    (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", "-2"),
    (r"\gcd(12,18)", "6"),
    (r"\gcd(12,18) \cdot 1", "6"),
    (r"\lcm(4,6)", "12"),
    (r"\operatorname{lcm}(4,6)", "12"),
    (r"\max(1,2,3)", "3"),
    (r"\min(1,2,3)", "1"),
    (r"\lfloor \pi \rfloor", "3"),
    (r"\left\lceil \pi \right\rceil", "4"),
    (r"12 \bmod 7", "5"),
    (r"12 \mod 7", "5"),
    (r"-2 \pmod 7", "5"),
    ("12 mod 7", "5"),
    (r"x^2|_{x=3}", "9"),
    ("2x+1<7", r"(-\infty, 3)"),
    ("x^2-5x+6<0", "(2,3)"),
    ("|x|<3", "(-3,3)"),
    ("2x+1=7", "x=3"),
    ("2x-6=0", "x=3"),
    ("x-2>0", r"(2, \infty)"),
]
WORKED_OUT = [
    (r"\binom{10}{3}", "120"),
    ("10!", "3628800"),
    ("2^{10}", "1024"),
    (r"123 \cdot 456", "56088"),
    (r"\sqrt{50}+\sqrt{18}", r"8\sqrt{2}"),
    (r"\log_{2} 4096", "12"),
    (r"\cos \frac{2\pi}{3}", r"-\frac{1}{2}"),
    (r"\arcsin 1", r"\frac{\pi}{2}"),
    (r"|7-24i|", "25"),
    (r"e^{2\ln 3}", "9"),
    (r"\sinh(0)+1", "1"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"(-\infty,0) \cup (0,\infty)", r"\mathbb{R} \setminus \{0\}"),
    (rf"2{MATRIX}", r"\begin{pmatrix} 2 & 4 \\ 6 & 8 \end{pmatrix}"),
    (r"\sum_{k=1}^{100} k = 5050", "5050"),
    (r"\sum_{k=1}^{100} k = \frac{100 \cdot 101}{2} = 5050", "5050"),
    (r"\int_0^1 x^2 dx = \frac13", r"\frac{1}{3}"),
    (r"\lfloor 10/3 \rfloor = 3", "3"),
    (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} = -2", "-2"),
    (r"\frac{d}{dx} x^2 = 2x", "2x"),
    (r"5 \bmod 7", "5"),
    (r"x \equiv 5 \pmod 7", "5"),
    ("x<3", r"(-\infty, 3)"),
    ("3 > x", r"(-\infty, 3)"),
    ("2<x<3", "(2,3)"),
    (r"2 \le f(x) \le 3", "[2,3]"),
    (r"x \in [2,3]", "[2,3]"),
    (r"x \ne 0", r"\mathbb{R} \setminus \{0\}"),
    ("3 = x", "x=3"),
    ("x = 1+2 = 3", "x=3"),
    ("(x,y)=(2,3)", "x=2, y=3"),
    (r"\angle A = 30, \angle B = 60", "30, 60"),
    ("2x-y+3=0", "y=2x+3"),
    ("y-4=0", "y=4"),
    ("0 = x+1", "x=-1"),
]
AS_IN_GOLD = [
    (r"\left\lfloor\frac{n}{2}\right\rfloor + 1", r"1+\lfloor n/2\rfloor"),
    (r"\max(b,a)", r"\max(a,b)"),
    (r"\sum_{k=1}^{n} a_k + 1", r"1+\sum_{k=1}^{n} a_k"),
    (r"\frac{dx}{dt} = -a+kx", r"\frac{d x}{d t}=k x-a"),
    (r"12 \pmod 7", r"5 \pmod 7"),
    (rf"{DETERMINANT} + 1", rf"1 + {DETERMINANT}"),
]


def graded(answer: str, gold: str) -> tuple[str, str | None]:
    return grade(f"So it is $\\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(("answer", "gold"), COPIES)
def test_a_copy_of_the_question_fails_and_does_not_vote_for_gold(answer, gold):
    status, vote = graded(answer, gold)
    assert status == "fail"
    assert vote != graded(gold, gold)[1]


@pytest.mark.parametrize(("answer", "gold"), WORKED_OUT)
def test_closed_forms_and_stated_values_pass(answer, gold):
    assert graded(answer, gold)[0] == "pass"


@pytest.mark.parametrize(("answer", "gold"), AS_IN_GOLD)
def test_an_operation_of_gold_may_be_in_the_answer(answer, gold):
    assert graded(answer, gold)[0] == "pass"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\lfloor \pi \rfloor + \max(n, n)", r"\lfloor \pi \rfloor + n"),
        (r"\frac{d}{d x} (\frac{x^2}{2}) + \sum_{k=1}^n a_k", r"x + \sum_{k=1}^n a_k"),
    ],
)
def test_another_operation_than_golds_may_not(answer, gold):
    assert graded(answer, gold)[0] == "fail"
