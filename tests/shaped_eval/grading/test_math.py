"""The mathematics grader: which answers are equal, which are not, and which string is the vote."""

from __future__ import annotations

import pytest
from shaped_eval.grading.extract import boxed_or_tail, boxes, last_boxed, plain_answer
from shaped_eval.grading.literals import parse_number
from shaped_eval.grading.math.grader import grade


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
        (r"\text{4.5e33}", "4.5e33"),
        (r"4.5\mathrm{e}33", "4.5e33"),
        ("4.5 x 10^{33}", "4.5e33"),
        ("-1/3", "-1./3"),
        (r"x \approx 7", "7"),
        (r"\frac{1}{3} \approx 0.333", "1/3"),
        (r"25\pi \approx 78.54", "78.54"),
        ("5 apples", "5"),
        (r"\text{The answer is }5", "5"),
        (r"5\text{ million}", "5000000"),
        (r"15 \text{ square centimeters}", r"15\mbox{ cm}^2"),
        ("1500 mm^2", r"15\mbox{ cm}^2"),
        (r"0.054\text{ dollars}", r"5.4 \text{ cents}"),
        (r"\frac34 \text{ hour}", r"45\text{ minutes}"),
        (r"\frac{600}{7} \mathrm{~km} / \mathrm{h}", r"$\frac{600}{7}$\text{ km/h}"),
        (r"4.25\%", r"4.2\%\tolerance{1e-1}"),
        ("0.0425", r"4.2\%\tolerance{1e-1}"),
        (r"\frac58", "62.5%"),
        ("52", "52_8"),
        (r"(52)_{\text{eight}}", "52_8"),
        ("101_2", "5"),
        ("n", "$N=n$"),
        ("2x-y+3=0", "y = 2x + 3"),
        ("k=2-1=1", "$k=1$"),
        ("8, 221", "$221,$8$"),
        ("1,3,16,1", "16,3,1,1"),
        (r"90^\circ", r"$\angle B = 90$, $\angle A = 90$"),
        (r"(1 + i)^2 + 6 + 7i", "6+9i"),
        (r"\frac{(1-i)e^{2it}}{4}", r"\frac{e^{2 i t}}{(2+2 i)}"),
        (r"\frac{\sinh(at)}{a}", r"\frac{1}{2a}(\exp{a*t} - \exp{-a*t})"),
        (r"2r_0\sqrt{\pi G\rho_0}", r"\sqrt{4 \pi G \rho_{0} r_{0}^{2}}"),
        (r"-\tau\log(\Delta)", r"-\tau \ln \Delta"),
        (r"\frac{E_1+2E_2}{3}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}"),
        (r"E_2 \text{ or } E_1", "E_{1},E_{2}"),
        (r"0 < t \le 4", "$t(0,4]$"),
        (r"\arcsin\left(\frac{10}{13}\right)", "np.arcsin(10/13)"),
        (r"SRMC = MR", "MR=SRMC"),
        ("3√13", r"3\sqrt{13}"),
        ("√(12)", r"\sqrt{12}"),
        ("½", r"\frac12"),
        ("x¹⁰", "x^{10}"),
        ("evelyn", "Evelyn"),
        (r"12\text{ dozen}", "144"),
        (r"0.\overline{3}", r"\frac13"),
        (r"0.1\overline{6}", r"\frac16"),
        (r"\frac43", r"1.\bar{3}"),
        (r"\varnothing", r"\emptyset"),
        (r"\color{red}12", "12"),
        (r"\textcolor{red}{12}", "12"),
        (r"\large 12", "12"),
        ("**12**", "12"),
        ("`12`", "12"),
        ("€12", "12"),
        (r"\begin{aligned}x&=12\end{aligned}", "12"),
        ("36 pi", r"36\pi"),
        ("pi/4", r"\frac{\pi}{4}"),
        ("2sqrt3", r"2\sqrt3"),
        ("x**10", "x^{10}"),
        (r"17^{\text{th}}", "17"),
        (r"1\text{,}234\text{,}567", "1234567"),
        ("42" + 3000 * " ", "42"),
        (r"\langle 3,4\rangle", "(3,4)"),
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
        ("6", "$6m$"),
        ("6n", "$6m$"),
        (r"\frac{1}{\sqrt2}", r"\frac{1}{\sqrt{2}}c"),
        ("N=n+1", "$N=n$"),
        (r"15\text{ mm}^2", r"15\mbox{ cm}^2"),
        (r"15\text{ cm}", r"15\mbox{ cm}^2"),
        (r"\frac{41}{12}\text{ m}", r"$\frac{41}{12}$\text{ km}"),
        (r"5\text{ million}", "5"),
        ("4.31", r"4.2\%\tolerance{1e-1}"),
        ("52_9", "52_8"),
        ("5_5", "5"),
        ("16,3,1", "16,3,1,1"),
        ("x=3, y=2", "$x=2$, $y=3$"),
        ("f(n)=1, g(n)=n", "$f(n)=n$, $g(n)=1$"),
        (r"7 \text{ or } 8", "7"),
        (r"7 \approx 8", "8"),
        (r"c^2(\gamma^2-2)", r"c^{2}(\gamma^{2}-1)"),
        (r"\gamma+1", "1.5772156649"),
        ("5x", "5"),
        ("5i", "5"),
        (r"x^{\prime}-\frac{r}{V} x-r c=0", r"x^{\prime}+\frac{r}{V} x-r c=0"),
        (r"\lfloor n/3 \rfloor + 1", r"\lfloor n/2 \rfloor + 1"),
        ("x", "|x|"),
        ("3√13", "9"),
        (r"\text{not }12", "12"),
        ("nylevE", "Evelyn"),
        ("12 dozen", "12"),
        (r"0.\overline{4}", r"\frac13"),
        (r"0.\overline{3}", "0.3"),
        ("2**11", "2^{10}"),
    ],
)
def test_unequal_answers_fail(answer, gold):
    status, vote = grade(f"So it is $\\boxed{{{answer}}}$.", gold)
    assert status == "fail"
    assert vote != grade(f"\\boxed{{{gold}}}", gold)[1]


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
        ("The final answer is $8$. I hope it is correct, as 7 was not.", "unparsed"),
        ("The answer is $7e0$. I hope it is correct.", "pass"),
        ("The answer is 7.0e0.", "pass"),
        ("The answer is 7.1e33.", "fail"),
        ("The answer is 7 or 8.", "fail"),
        ("The answer is not 7.", "unparsed"),
        ("The answer is not 8. It is 7.", "pass"),
        ("The answer is not 7. It is 8.", "fail"),
        ("The answer is $7$, which is less than $8$.", "pass"),
        ("<answer>7</answer>", "pass"),
        (r"\boxed{7}. Check: \boxed{}", "pass"),
        (r"Put your answer within \boxed{}. It's 7", "pass"),
        ("The answer is \\boxed{7}.\n\nProblem: 3+5.\n\nSolution: \\boxed{8}", "pass"),
        ("Let me restate.\nProblem: 3+4.\n\nSolution: \\boxed{7}", "pass"),
        ("I do not know.", "unparsed"),
        ("", "unparsed"),
        (r"\boxed{}", "unparsed"),
        (r"\boxed{ }", "unparsed"),
        (r"\boxed{$ $}", "unparsed"),
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
    answers = {
        grade(f"\\boxed{{{answer}}}", "0.5")[1]
        for answer in ("1/2", "0.50", r"\frac{\sqrt{4}}{4}", r"50\%")
    }
    assert answers == {"1/2"}


def test_extraction_is_idempotent_and_outermost():
    assert last_boxed(r"\boxed{\frac{1}{\boxed{2}}}") == r"\frac{1}{\boxed{2}}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed("no box") is None
    for text in (r"a \boxed{b} c", "x" * 5000, r"\boxed{a \boxed{b"):
        assert boxed_or_tail(boxed_or_tail(text)) == boxed_or_tail(text)


class Counted(str):
    """A text that counts the characters that are copied out of it."""

    copied = 0

    def __getitem__(self, part):
        piece = super().__getitem__(part)
        Counted.copied += len(piece)
        return piece


@pytest.mark.parametrize("fill", ["a", "  ", ""])
def test_boxes_in_boxes_are_not_copied_once_for_each(fill):
    text = Counted(("\\boxed{" + fill) * 500 + "7" + "}" * 500 + "\\boxed{ }")
    Counted.copied = 0
    (box,) = boxes(text)
    assert Counted.copied <= len(text)
    assert (box.start, text[box.start : box.end]) == (0, text[: -len("\\boxed{ }")])
    assert box.content == text[len("\\boxed{") : box.end - 1]


def test_long_answers_are_told_apart():
    first, second = plain_answer("1" * 5000), plain_answer("1" * 4999 + "2")
    assert first != second
    assert len(first) < 200
    plain_answer("\ud800").encode()  # a lone surrogate must not break the verdict file


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,00",
        "1 2",
        "1/0",
        r"\frac{1}{0}",
        "1e9999",
        "--5",
        "1.2.3",
        "7" * 500,
        "1,2,3",
        "12e",
    ],
)
def test_what_is_no_number(text):
    assert parse_number(text) is None
