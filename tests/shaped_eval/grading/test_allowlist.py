r"""What a boxed answer may contain besides mathematics, and which text around it denies it."""

from __future__ import annotations

import json
import re

import pytest
from shaped_eval.grade import grade_answers, grade_run
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.extract import boxed_or_tail, without_reasoning
from shaped_eval.grading.math import equality, parsing
from shaped_eval.grading.math import grader as math_module
from shaped_eval.grading.math.grader import grade
from shaped_eval.grading.math.units import conversion, split_unit
from shaped_eval.grading.text import aliases as text
from shaped_eval.grading.text import choice, exact_match, gsm8k
from shaped_eval.records import Verdict, read_jsonl

MATRIX = r"\begin{pmatrix} 2 \\ 4 \end{pmatrix}"
ONE_TWO = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"


def status(answer: str, gold: str) -> str:
    return grade(f"So it is $\\boxed{{{answer}}}$.", gold)[0]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (rf"2{ONE_TWO}", MATRIX),
        (rf"{ONE_TWO} + {ONE_TWO}", MATRIX),
        (rf"\begin{{pmatrix}} 2 & 0 \\ 0 & 2 \end{{pmatrix}} {ONE_TWO}", MATRIX),
        (rf"x = 2{ONE_TWO}", MATRIX),
        (r"3 \mod 7", "3"),
        (r"3 \pmod{7}", "3"),
        (r"x \equiv 3 \pmod 7", "3"),
        ("1-1/e", r"1-\frac1{\mathrm e}"),
        (r"1-\frac{1}{\mathrm{e}}", "1-1/e"),
        ("1-5i", r"1-5\mathrm{i}"),
        ("2e", r"2\mathrm{e}"),
        ("350,000", "350,000 pages"),
        (r"350000\text{ pages}", "350,000 pages"),
        (r"216\text{ minutes}", "3.6 hours"),
        ("200, 100", "100, 200"),
        ("100,200", "100, 200"),
        (r"32\,349", "32349"),
        (r"5\text{ units}", r"5\text{ m}"),
        (r"9.8\ \mathrm{m\cdot s^{-2}}", "9.8"),
        (r"36\pi cm^2", r"36\pi"),
        (r"\text{an ellipse}", r"\text{ellipse}"),
        (r"\boxed{5}", "5"),
        (r"v_{\text{max}} = 5", "5"),
        (r"P(\text{not red}) = 5", "5"),
        (r"\text{number of ways} = 5", "5"),
        (r"5\text{ squares}", "5"),
        ("2\\sqrt{2}\\text{ thousand}", r"2000\sqrt{2}"),
    ],
)
def test_right_writings_pass(answer, gold):
    assert status(answer, gold) == "pass"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (rf"3{ONE_TWO}", MATRIX),
        (rf"{ONE_TWO}{ONE_TWO}", MATRIX),
        (rf"{ONE_TWO}^2", MATRIX),
        (rf"{MATRIX}^T", MATRIX),
        (r"10 \pmod 7", "10"),
        (r"10 \pmod 7", "3"),
        ("-4", r"1-5\mathrm{i}"),
        ("2", r"2\mathrm{e}"),
        ("32, 349", "32349"),
        ("81256", "81, 256"),
        ("32 349", "32349"),
        (r"3.6\text{ days}", "3.6 hours"),
        (r"5\text{ km}", r"5\text{ m}"),
        (r"5\text{ apples}", r"5\text{ m}"),
        (r"5\text{ digit number}", "5"),
        (r"5\text{ square}", "5"),
        (r"5 \approx 7", "5"),
        (r"x+1 \approx 7", "x+1"),
        (r"\text{anything but } \text{ellipse}", r"\text{ellipse}"),
        (r"\text{ellipse or circle}", r"\text{ellipse}"),
        (r"2 + \boxed{5}", "5"),
        (r"\text{half} = 5", "5"),
        ("2x = 5", "5"),
        (r"\sqrt{x} = 5", "5"),
        ("5...", "5"),
        ("5K", "5"),
        (r"5\text{M}", "5"),
        ("~~5~~", "5"),
        ("\u202e5\u202c", "5"),
        ("5\u0338", "5"),
        (r"2\sqrt{2}\text{ thousand}", r"2\sqrt{2}"),
    ],
)
def test_wrong_writings_fail(answer, gold):
    assert status(answer, gold) == "fail"


@pytest.mark.parametrize(
    ("completion", "gold", "expected"),
    [
        (r"\boxed{1} \text{ and } \boxed{-2}", "-2,1", "pass"),
        (r"\boxed{1} \text{ and } \boxed{-2}", "-2", "fail"),
        (r"$\boxed{1}$, $\boxed{-2}$", "-2,1", "pass"),
        ("\\[\\boxed{1}\\]\n\nor better\n\\[\\boxed{-2}\\]", "-2", "pass"),
        (r"$\boxed{0.5}$ or $\boxed{\frac12}$", "0.5", "pass"),
        (r"$\boxed{90}^\circ$", r"90^\circ", "pass"),
        (r"$\boxed{1+i}^2$", "1+i", "fail"),
        (r"$\boxed{5}$ million", "5000000", "pass"),
        (r"$-\boxed{5}$", "5", "unparsed"),
        (r"$2\boxed{5}$", "5", "unparsed"),
        (r"$\sqrt{\boxed{5}}$", "5", "unparsed"),
        (r"$(\boxed{5}, 6)$", "5", "unparsed"),
        (r"$\boxed{5}x$", "5", "unparsed"),
        (r"$\sin \boxed{5}$", "5", "unparsed"),
        (r"$2x + 1 = \boxed{5} \text{ metres}.$", "5", "pass"),
        (r"\[ n \le 5.5 \implies n = \boxed{5}. \]", "5", "pass"),
        (r"\begin{align*} x &= \boxed{5} \\ \end{align*}", "5", "pass"),
        ("The answer is not\n$5$", "5", "unparsed"),
        (r"The answer is not $\boxed{5}$.", "5", "unparsed"),
        (r"It is $\boxed{5}$. Sorry, that is wrong, I now get $7$.", "5", "unparsed"),
        (r"It is $\boxed{5}$. The answer is 7.", "5", "unparsed"),
        (r"It is $\boxed{5}$. So the answer is 5.0.", "5", "pass"),
        (r"First \boxed{7}. That is wrong: \boxed{5}", "5", "pass"),
        (r"The number of those that are not prime is $\boxed{5}$.", "5", "pass"),
        ("- $\\boxed{5}$", "5", "pass"),
        ("The answer is $5$. Sorry, that is wrong, I now get $7$.", "5", "unparsed"),
        ("The answer isn't $5$.", "5", "unparsed"),
        ("The answer is anything but $5$.", "5", "unparsed"),
        ("The answer is between $5$ and $7$.", "5", "unparsed"),
        ("The answer is not\n\\[\n5\n\\]", "5", "unparsed"),
        ("So we get\n\\[\nx = 5\n\\]", "5", "pass"),
        ("#### 5", "5", "pass"),
        ("The answer is **5**.", "5", "pass"),
        ('It is "5".', "5", "pass"),
        ("**-5**", "5", "fail"),
        ("The answer is -5.", "5", "fail"),
        ("Therefore, the value is -5.", "5", "fail"),
        ("The answer is (3, 4).", "(3,4)", "pass"),
    ],
)
def test_the_text_around_an_answer_counts(completion, gold, expected):
    assert grade(completion, gold)[0] == expected
    assert grade(boxed_or_tail(completion), gold)[0] == expected


def test_an_answer_that_breaks_the_parser_is_wrong_and_a_gold_that_does_is_an_error(monkeypatch):
    def breaks(text: str):
        if "7" in text:
            raise RecursionError
        return parse(text)

    parse = parsing.parse_boxed
    for module in (parsing, equality, math_module):
        monkeypatch.setattr(module, "parse_boxed", breaks)
    parsing.parse_gold.cache_clear()
    math_module._gold_answer.cache_clear()
    math_module._equals_itself.cache_clear()
    assert grade(r"\boxed{\sqrt{7}}", r"\sqrt{5}") == ("fail", r"\sqrt{7}")
    with pytest.raises(RecursionError):
        grade(r"\boxed{\sqrt{5}}", r"\sqrt{7}")


@pytest.mark.parametrize(
    ("completion", "left"),
    [
        ("<think>4?</think> 5", " 5"),
        ("4?</think>5", "5"),
        ("<think>4?", ""),
        ("<think>3<think>4</think>5</think>6", "6"),
        ("5 <think>4</think> 6", "5 \n 6"),
        ("<thinking>4</thinking>5", "5"),
        ("no tags < > 5", "no tags < > 5"),
    ],
)
def test_reasoning_is_dropped(completion, left):
    assert without_reasoning(completion) == left


@pytest.mark.parametrize(
    ("grader", "right", "gold"),
    [
        (grade, r"\boxed{5}", "5"),
        (gsm8k.grade, "#### 5", "5"),
        (choice.grade, "The answer is (B).", "B"),
        (exact_match.grade, "the answer is yajo", "yajo"),
        (text.grade, "Paris", "Paris"),
    ],
)
def test_every_grader_drops_reasoning_first(grader, right, gold):
    assert grader(f"<think>One may think 4.</think> {right}", gold)[0] == "pass"
    assert grader(f"<think>{right}</think>", gold)[0] == "unparsed"
    assert grader(f"<think>{right}", gold)[0] == "unparsed"


def test_reasoning_is_graded_where_it_is_asked_for(tmp_path):
    completion = r"<think>So \boxed{5}</think>"
    request = GradeRequest("text", completion, "5")
    with GraderPool(1) as pool, GraderPool(1, keep_reasoning=True) as keeping:
        assert [pool.grade([request])[0].status, keeping.grade([request])[0].status] == [
            "unparsed",
            "pass",
        ]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        json.dumps({"problem_id": 0, "completions": [completion], "gold": "5"}) + "\n"
    )
    out = grade_answers(answers, "text", tmp_path / "out", progress=False)
    (dropped,) = read_jsonl(out / "verdicts.jsonl", Verdict)
    grade_run(out, progress=False, keep_reasoning=True)
    (kept,) = read_jsonl(out / "verdicts.jsonl", Verdict)
    assert [dropped.status, kept.status] == ["unparsed", "pass"]
    assert kept.grader == f"{dropped.grader}; reasoning kept"


@pytest.mark.parametrize(
    "words", ["is wrong", "or more", "minus one", "squared", "and a half", "times ten", "i", "e"]
)
def test_only_listed_words_are_units(words):
    answer = rf"5\text{{ {words}}}"
    assert split_unit(answer, bare=False) == (answer, "")
    assert split_unit(r"5\text{ marbles}", bare=False) == ("5", r"\text{ marbles}")


def test_units_convert_or_clash():
    assert conversion("hours", "minutes") * 60 == 1
    assert (
        conversion("pages", r"\text{page}")
        == conversion("cm", "units")
        == conversion("", "km")
        == 1
    )
    assert (
        conversion("m", "apples")
        is conversion("pages", "students")
        is conversion("m", "m^2")
        is None
    )


@pytest.mark.parametrize(
    "gold", ["5r^5", "3x^2", "12R^2", "5ab^2", "4ab", "6xyz", "2mn", "6ms", "5 m^2"]
)
def test_symbols_behind_the_number_of_a_gold_are_no_unit(gold):
    number = re.match(r"\d+", gold)[0]
    assert grade(f"\\boxed{{{number}}}", gold)[0] == "fail"
    assert grade(f"\\boxed{{V = {gold}}}", gold)[0] == "pass"


@pytest.mark.parametrize("gold", ["4 km", "3.6 hours", "350,000 pages", "2 km/h", "7 cm^2"])
def test_a_unit_behind_the_number_of_a_gold_may_be_left_out(gold):
    assert grade(f"\\boxed{{{gold.split()[0]}}}", gold)[0] == "pass"
