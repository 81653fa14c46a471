"""Options, definite answers and short texts in free text; published numbers from real answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import SHARED
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_answers
from shaped_eval.grading.text import aliases as text
from shaped_eval.grading.text import choice, exact_match
from shaped_eval.records import Problem, read_jsonl
from shaped_eval.reporting.outcomes import read_outcomes
from shaped_eval.statistics import avg_at_m, maj_at_k
from waiting import processor_limit

needs_outputs = pytest.mark.skipif(
    not (SHARED / "outputs").is_dir(), reason="needs recorded model answers in ../shared/outputs"
)


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("B. a bank", "B"),
        ("B) a bank", "B"),
        ("(B) a bank", "B"),
        ("The answer is (B).", "B"),
        ("so the answer is B, since a bank is one", "B"),
        ("Answer: B", "B"),
        ("Answer:\nB", "B"),
        ("**Answer:** B", "B"),
        ("**Answer: B**", "B"),
        ("Final answer: (B) a bank", "B"),
        ("The correct option is:\n\n(B) a bank", "B"),
        ("The best answer is the option B.", "B"),
        ("ANSWER IS [B]", "B"),
        (r"Therefore \boxed{B}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"The answer is $\boxed{B}$.", "B"),
        ("<answer> (B) </answer>", "B"),
        ("Thinking of banks.\nB", "B"),
        ("So option B is correct.", "B"),
        ("The correct answer is:\n\n**B) a bank**", "B"),
        ("Final Answer: The final answer is (B). I hope it is correct.", "B"),
        ("The answer to this question is B.", "B"),
        ("(B) is the correct answer.", "B"),
        ("The answer is A because of banks.", "A"),
        ("One may think the answer is (A), but the answer is (D).", "D"),
        ("The answer is (B).\n\nQuestion: What else?\nAnswer: the answer is (C).", "B"),
        ("The answer is (R).", "R"),
        ("The answer is a bank", None),
        ("A bank is a house.", None),
        ("The answer is A bank", None),
        ("The answer is I don't know", None),
        ("The answer is not (B).", None),
        ("The answer is 100.", None),
        ("(B) is wrong and (C) is wrong", None),
        ("(B) is right, for (C) is wrong", "B"),
        ("There are options (A) and (B).", None),
        (r"\boxed{A, B}", None),
        ("The answer is A and B", None),
        ("The correct answer is (A) or (B)", None),
        ("The answer is (A)/(B)", None),
        ("The answer is (B)(C)", None),
        ("The answer is (B) and not (A)", "B"),
        ("The answer is B, I think.", "B"),
        ("The answer is B, because A is wrong.", "B"),
        ("The answer is B, A is wrong.", "B"),
        ("The answer is 'B'", "B"),
        ("Therefore, B is correct.", "B"),
        ("I choose B.", "B"),
        ("B is the answer", "B"),
        ("Option B", "B"),
        ("Choice (B).", "B"),
        ("It must be B.", "B"),
        ("I think it's B", "B"),
        ("I believe B.", "B"),
        ("Therefore, B.", "B"),
        ("So, (B)", "B"),
        ("It is A.", "A"),
        ("It must be B, because banks are.", "B"),
        ("First I think it's A.\nNo, it must be B.", "B"),
        ("I don't think it's B.", None),
        ("It cannot be said that it is B.", None),
        ("It's B or C.", None),
        ("It is A bank.", None),
        ("Therefore, B is wrong.", None),
        ("The answer is C-4.", None),
        ("", None),
    ],
)
def test_letters_are_found_where_text_states_them(completion, letter):
    assert choice.extract_letter(completion) == letter
    if letter is not None:
        assert choice.grade(completion, letter) == ("pass", letter)
        assert choice.grade(completion, "E") == ("fail", letter)
    else:
        assert choice.grade(completion, "B") == ("unparsed", None)


@pytest.mark.parametrize(
    ("completion", "gold", "grade"),
    [
        ("B", "(B) a bank", ("pass", "B")),
        ("A", "(B) a bank", ("fail", "A")),
        ("A bank.", "(B) a bank", ("pass", "B")),
        ("The answer is the bank.", "(B) a bank", ("pass", "B")),
        ("The answer is a library.", "(B) a bank", ("fail", "library")),
        ("the answer is (B)", "(B)", ("pass", "B")),
        ("Maria", "Maria", ("pass", "maria")),
        ("Sarah", "Maria", ("fail", "sarah")),
        # a single letter is a letter, even if an option's text is one
        ("C", "(A) C", ("fail", "C")),
        ("C. elegans", "(A) C. elegans", ("pass", "A")),
        ("A", "(A) C", ("pass", "A")),
        ("", "(B) a bank", ("unparsed", None)),
    ],
)
def test_options_are_compared_by_letter_and_by_text(completion, gold, grade):
    assert choice.grade(completion, gold) == grade


@pytest.mark.parametrize(
    ("completion", "gold", "grade"),
    [
        ("So the answer is yajo.", "yajo", ("pass", "yajo")),
        ("yajo", "yajo", ("pass", "yajo")),
        ('The answer is "Yajo".', "yajo", ("pass", "yajo")),
        ("yaj", "yajo", ("fail", "yaj")),
        ("Pop them. So the answer is ] } ].", "] } ]", ("pass", "]}]")),
        ("The answer is ]}].", "] } ]", ("pass", "]}]")),
        ("the answer is ] ].", "] } ]", ("fail", "]]")),
        ("So the answer is (B).", "(B)", ("pass", "B")),
        ("So the answer is (B) 12/01.", "(C)", ("fail", "B")),
        ("the answer is 1,024.0", "1024", ("pass", "1024")),
        ("the answer is -7. Done.", "-7", ("pass", "-7")),
        ("The answer is St. Ives", "St. Ives", ("pass", "st. ives")),
        (
            "We think.\nSo the answer is No.\n\nQ: next?\nA: the answer is Yes.",
            "No",
            ("pass", "no"),
        ),
        ("The answer is yes. The other option is no.", "Yes", ("pass", "yes")),
        ("The final answer is 12. I hope it is correct.", "12", ("pass", "12")),
        ("Long thoughts without an end " * 9, "No", ("unparsed", None)),
        ("", "No", ("unparsed", None)),
        ("the answer is two", '["2", "two"]', ("pass", "2")),
    ],
)
def test_definite_answers(completion, gold, grade):
    assert exact_match.grade(completion, gold) == grade


@pytest.mark.parametrize(
    ("completion", "gold", "grade"),
    [
        (" The Beatles", '["Beatles", "Fab Four"]', ("pass", "beatles")),
        ("fab-four!", '["Beatles", "Fabfour"]', ("pass", "beatles")),
        ("Paris\nQ: who?", "Paris", ("pass", "paris")),
        ("Paris, France", "Paris", ("fail", "paris france")),
        ("The answer is Paris. It is in France.", "Paris", ("pass", "paris")),
        (
            "... </information>\n\n<answer> September 8, 2017 </answer>",
            '["September 8, 2017"]',
            ("pass", None),
        ),
        ("March\xa08", "March 8", ("pass", "march 8")),
        ("1939–1945", "1939-1945", ("pass", "19391945")),
        ("The The", "The The", ("pass", "the the")),
        ("[sic]", "[sic]", ("pass", "sic")),
        ("a", "b", ("fail", "a")),
        ("\n\n", "b", ("unparsed", None)),
        ("...", "b", ("unparsed", None)),
        ("<answer></answer>", "b", ("unparsed", None)),
    ],
)
def test_short_texts(completion, gold, grade):
    status, answer = text.grade(completion, gold)
    assert status == grade[0]
    assert answer == grade[1] or grade[1] is None


SYMBOLS = ["+", "==", "!=", "&&", "%", "*", '"', "$", ".", "`", "**", "“"]


@pytest.mark.parametrize("gold", SYMBOLS)
@pytest.mark.parametrize("module", [choice, exact_match, text])
def test_an_answer_of_symbols_is_right_if_it_is_the_gold(module: Any, gold: str) -> None:
    """Normalisation removes all of it. Nothing, or other symbols, must not be equal to it then."""
    golds = [f"(B) {gold}", gold] if module is choice else [gold, json.dumps([gold, "plus"])]
    for each in golds:
        assert module.grade(gold, each)[0] == "pass"
        others = [other for other in SYMBOLS if other != gold]
        for other in ["", " ", "???", "...", "The answer is", *others]:
            assert module.grade(other, each)[0] in ("fail", "unparsed"), (other, each)


@pytest.mark.parametrize("module", [choice, exact_match, text])
@pytest.mark.parametrize("gold", ["", " ", '[""]'])
def test_nothing_is_never_right(module: Any, gold: str) -> None:
    for completion in ("", " ", ".", "The answer is", "**"):
        assert module.grade(completion, gold)[0] != "pass"


@pytest.mark.parametrize(
    "hostile",
    [
        "the answer is " * 50_000,
        "(" * 500_000,
        "**Answer: " * 50_000,
        "<answer>" * 50_000,
        "A is " * 100_000,
        "\n" * 300_000,
    ],
)
def test_graders_are_linear(hostile):
    with processor_limit(30):
        for grader in (choice, exact_match, text):
            grader.grade(hostile, "(B) x")
            grader.grade(hostile, "word")


def recorded(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (SHARED / "outputs" / name).read_text(encoding="utf-8").splitlines()
    ]


def graded(tmp_path: Path, benchmark: str, rows: list[dict[str, Any]]):
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = grade_answers(
        answers, benchmark, tmp_path / "out", hub_mirror=SHARED / "hub", progress=False
    )
    return read_outcomes(out)[benchmark]


@needs_outputs
@pytest.mark.parametrize(("field", "benchmark"), [("pred", "nq"), ("final", "text")])
def test_nq_of_search_r1(tmp_path, field, benchmark):
    """The short prediction, and the end of the transcript that contains it."""
    recorded_rows = recorded("out_nq_searchr1_base.jsonl")
    rows = [
        {"problem_id": row["id"], "completions": [row[field]], "gold": row["golden_answers"]}
        for row in recorded_rows
    ]
    outcomes = graded(tmp_path, benchmark, rows)
    assert outcomes.passes_P.tolist() == [row["metric_score"]["em"] for row in recorded_rows]
    assert round(100 * avg_at_m(outcomes.passes_P, 1).mean(), 1) == 39.0


@needs_outputs
def test_mmlu_pro_of_llama(tmp_path):
    """Published: 34.18, with missing predictions as wrong. They are unparsed here."""
    recorded_rows = recorded("out_mmlupro_Meta-Llama-3-8B_5shot.jsonl")
    rows = [
        {
            "problem_id": row["question_id"],
            "completions": [row["pred"] or ""],
            "gold": row["answer"],
        }
        for row in recorded_rows
    ]
    outcomes = graded(tmp_path, "mmlu_pro", rows)
    assert outcomes.statuses["unparsed"] == sum(row["pred"] is None for row in recorded_rows)
    assert round(100 * avg_at_m(outcomes.passes_P, 1).mean(), 2) == 34.18


@needs_outputs
def test_letters_of_mmlu_pro_are_found_in_what_the_model_wrote():
    """Searches the last 160 characters, if they state an answer.

    The ones that differ name several options, or state two answers.
    """
    rows = [
        row
        for row in recorded("out_mmlupro_Meta-Llama-3-8B_5shot.jsonl")
        if "he answer is (" in row["output"]
    ]
    same = np.mean([choice.extract_letter(row["output"]) == row["pred"] for row in rows])
    assert len(rows) > 10_000
    assert same > 0.998


@needs_outputs
def test_last_letters_of_gpt35(tmp_path):
    recorded_rows = recorded("out_lastletters_gpt35_x40.jsonl")
    rows = [
        {
            "problem_id": index,
            "completions": [answer or "" for answer in row["answers"]],
            "gold": row["answer"],
        }
        for index, row in enumerate(recorded_rows)
    ]
    outcomes = graded(tmp_path, "exact_match", rows)
    assert outcomes.n == 40
    assert round(100 * avg_at_m(outcomes.passes_P, 40).mean(), 1) == 78.7
    assert round(100 * outcomes.votes_P.mean(), 1) == 81.6
    first_five = [{**row, "completions": row["completions"][:5]} for row in rows]
    (tmp_path / "five").mkdir()
    five = graded(tmp_path / "five", "exact_match", first_five)
    assert round(100 * five.votes_P.mean(), 1) == 81.0
    # the published 80.7 is a mean over subsets of five, and the first five are one of them
    assert round(100 * maj_at_k(outcomes.ballots_P, 5).mean(), 1) == 80.7


def test_golds_may_be_lists_where_the_grader_takes_them(tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        json.dumps({"problem_id": "x", "completions": ["two"], "gold": ["2", "two"]}) + "\n"
    )
    out = grade_answers(answers, "text", tmp_path / "out", progress=False)
    assert list(read_jsonl(out / "problems.jsonl", Problem)) == [
        Problem("text/x", "text", "", '["2", "two"]', "text")
    ]
    assert read_outcomes(out)["text"].statuses["pass"] == 1
    with pytest.raises(UserError, match=r"gold=\['2', 'two'\] is neither a text nor a number"):
        grade_answers(answers, "choice", tmp_path / "other")
