"""Answers to tasks of reasoning-gym are never evaluated and do not affect the next one."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
import sympy
from hostile_answers import CHANGES, evaluated, programs
from shaped_eval.errors import UserError
from shaped_eval.grading.gym.formulas import NoFormula, arithmetic, formula

pytest.importorskip("reasoning_gym", reason="the extra `tasks` is not installed")

from shaped_eval.grading.gym import grader as reasoning_gym
from shaped_eval.grading.gym import scorer as gym_scorer
from shaped_eval.grading.gym.comparisons import COMPARISONS, LISTS, STRICTER
from shaped_eval.grading.gym.scorer import ARITHMETIC, INTEGRALS

X = sympy.Symbol("x")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("3*x**2/2 - x + C", 3 * X**2 / 2 - X + sympy.Symbol("C")),
        ("-(x + 1)**(-1/2)", -1 / sympy.sqrt(X + 1)),
        (" exp(x)*sin(2*x) ", sympy.exp(X) * sympy.sin(2 * X)),
        ("log(x, 10) + ln(x) + abs(x)", sympy.log(X, 10) + sympy.log(X) + sympy.Abs(X)),
        ("0.5*x + 1e-3 + .25", X / 2 + sympy.Float("0.001") + sympy.Float("0.25")),
        ("pi*E**x + I", sympy.pi * sympy.exp(X) + sympy.I),
        ("Rational(1, 3)*atan(x)", sympy.atan(X) / 3),
        ("ｘ + x", 2 * X),  # Python normalises names
        ("1 # x", sympy.Integer(1)),
        ("x**2/2 + 2. ", X**2 / 2 + 2),  # the period ends the sentence
        (
            "x**20*(1 + log(sin(sqrt(x))))**20",
            X**20 * (1 + sympy.log(sympy.sin(sympy.sqrt(X)))) ** 20,
        ),
        # only the listed ones of sympy's own names
        ("S + N + Q + O", sum(map(sympy.Symbol, "SNQO"))),
    ],
)
def test_a_formula_is_read_as_sympy_reads_it(text, meaning):
    assert sympy.simplify(formula(text, {"x": X}) - meaning) == 0


NO_FORMULAS = {
    "empty": "",
    "attribute": "x.diff",
    "attribute over lines": "(x.\ndiff)",
    "subscript": "x[0]",
    "text": "'x'",
    "text in format": "f'{x}'",
    "bytes": "b'x'",
    "list": "[x]",
    "tuple": "x, x",
    "set": "{x}",
    "dictionary": "{x: x}",
    "comprehension": "[x for x in x]",
    "lambda": "lambda: x",
    "walrus": "(x := 1)",
    "condition": "x if x else x",
    "comparison": "x < 1",
    "and": "x and x",
    "not": "not x",
    "inversion": "~x",
    "floor division": "x // 2",
    "remainder": "x % 2",
    "shift": "1 << 9",
    "bits": "x | x",
    "caret": "x ^ 2",
    "matrix product": "x @ x",
    "await": "await x",
    "yield": "(yield x)",
    "true": "True",
    "none": "None",
    "ellipsis": "...",
    "imaginary": "1j",
    "infinite": "1e999",
    "keyword": "exp(x=1)",
    "keywords": "exp(**x)",
    "starred": "exp(*x)",
    "too many arguments": "sin(x, x)",
    "call of a result": "exp(x)(x)",
    "call of a symbol": "x(1)",
    "call of a builtin": "eval(x)",
    "call of sympy's": "S(x)",
    "integral": "Integral(x, x)",
    "integration": "integrate(x, x)",
    "a function's name": "exp + 1",
    "import": "__import__(x)",
    "name of two": "sｉn.x",
    "statements": "x; x",
    "assignment": "x = 1",
    "number of many digits": "7" * 60,
    "tower": "9**9**9**9",
    "power of powers": "((9**900)**900)**900",
    "small power of powers": "((9**-900)**-900)**-900",
    "fraction's power": "(1/7)**(10**20)",
    "large exponent": "x**(10**9)",
    "large real exponent": "x**1e300",
    "nested": "(" * 900 + "x" + ")" * 900,
    "deep signs": "-" * 500 + "x",
    "deep powers": "x**" * 300 + "x",
    "deep calls": "exp(" * 80 + "x" + ")" * 80,
    "long": "x+" * 1_500 + "x",
    "long within few characters": "x+" * 900 + "x",
    "products of powers": "(x+1)**30*(x+2)**30",
    "powers of functions": "sec(x)**-30*tan(x)**30",
    "a power's power": "((x + 1)**10)**10",
    "large exponent of a symbol": "x**60",
    "functions of functions": "sin(" * 5 + "x" + ")" * 5,
    "null": "x\0",
    "surrogate": "\ud800",
    "character by character": evaluated("1"),
}


@pytest.mark.parametrize("text", NO_FORMULAS.values(), ids=NO_FORMULAS)
def test_what_is_not_listed_is_no_formula(text):
    with pytest.raises(NoFormula):
        formula(text, {"x": X})
    with pytest.raises(NoFormula):
        arithmetic(text)


def test_arithmetic_is_integers_with_four_operators():
    assert arithmetic(" 8*( 5 -2)/+1 # yes") == "8 * (5 - 2) / +1"
    assert arithmetic("4*8 - 6 - 2. ") == "4 * 8 - 6 - 2"
    assert arithmetic("4*(8 - 2).") == "4 * (8 - 2)"
    for text in (
        "2.*3",
        "6..",
        ".",
        "2**3",
        "x",
        "2.5",
        "7//2",
        "7%4",
        "sqrt(4)",
        "٣+1",
        "1_0 + x",
        "0x10 + E",
    ):
        with pytest.raises(NoFormula):
            arithmetic(text)


@pytest.mark.parametrize(
    "task", [*ARITHMETIC, *INTEGRALS, *LISTS, "chain_sum", "number_sorting", "bitwise_arithmetic"]
)
def test_an_answer_that_is_a_program_never_runs(task, tmp_path):
    """It does not run even in a process that is not confined, which is this one."""
    touched = tmp_path / "touched"
    entries = reasoning_gym.task_dataset(task, 3, 1)
    entry = entries[0]
    for program in programs(str(touched)):
        for answer in (program, program.replace("\n", " ")):
            if task in COMPARISONS:
                assert not COMPARISONS[task](answer, entry["answer"])
            else:
                with contextlib.suppress(NoFormula):
                    assert gym_scorer.score(task, answer, entries, entry) < gym_scorer.RIGHT, answer
            assert not touched.exists(), answer
    own = entry["answer"]
    gold = reasoning_gym.gold_of(entry["question"], task=task, size=3, seed=1, index=0)
    assert reasoning_gym.grade(f"Answer: {own}", gold)[0] == (
        "fail" if "Integral" in own else "pass"
    ), own


def test_these_answers_do_run_where_they_are_evaluated(tmp_path):
    for index, evaluate in enumerate((sympy.parse_expr, eval)):
        touched = tmp_path / str(index)
        program = f"__import__('pathlib').Path('{touched}').touch()"
        evaluate(evaluated(program) if index == 0 else f"[{program}]")
        assert touched.exists()


def test_a_copied_question_is_no_integral():
    entries = reasoning_gym.task_dataset("intermediate_integration", 4, 1)
    for entry in entries:
        integrand, variable = entry["metadata"]["integrand"], entry["metadata"]["variable"]
        for answer in (
            f"Integral({integrand}, {variable})",
            f"integrate({integrand}, {variable}) + C",
        ):
            assert entries.score_answer(answer, entry) == 1
            with pytest.raises(NoFormula, match="a call of"):
                gym_scorer.score("intermediate_integration", answer, entries, entry)


def test_only_tasks_that_have_been_read_are_scored(monkeypatch):
    with pytest.raises(
        UserError, match=r"reasoning_gym/composite' is not among the tasks of reasoning-gym"
    ):
        reasoning_gym.task_dataset("composite", 1, 1)
    from reasoning_gym.factory import DATASETS

    refused = {*reasoning_gym.UNREPEATABLE, *reasoning_gym.ANSWERED_BY_ITS_QUESTION, "composite"}
    assert set(DATASETS) == reasoning_gym.TASKS | refused
    assert not reasoning_gym.TASKS & refused
    monkeypatch.setattr(reasoning_gym, "version", lambda: "0.2.0")
    # a scorer that has not been read runs confined
    assert reasoning_gym._role().needs_sandbox


def test_comparisons_find_right_what_the_tasks_own_scorers_do():
    rng = random.Random(0)
    for task, compare in COMPARISONS.items():
        entries = reasoning_gym.task_dataset(task, 3, 1)
        for index in range(3):
            entry = entries[index]
            gold = reasoning_gym.gold_of(entry["question"], task=task, size=3, seed=1, index=index)
            _, _, own, right = gym_scorer.right_answers(gold)[0]
            assert right, task
            for text in {*right[:3], own, "7"}:
                answers = {
                    text,
                    text.upper(),
                    text + "1",
                    text[:-1],
                    text[::-1],
                    text.replace("\n", " \n"),
                }
                answers |= {
                    f"+{text}",
                    f"{text}.0",
                    f"{text}e0",
                    f"0{text}",
                    f"{text[:1]},{text[1:]}",
                    text.title(),
                }
                answers.add("".join(rng.sample(text, len(text))))
                for answer in {answer.strip() for answer in answers} - {""}:
                    points = entries.score_answer(answer, entry)
                    if task == "spell_backward" and not compare(answer, own):
                        # if an answer continues, the sum differs from 1 only by rounding
                        points = min(points, 0.9)
                    expected = points >= gym_scorer.RIGHT
                    found = any(compare(answer, one) for one in right)
                    found = found or (expected and task in STRICTER)
                    assert found == expected, (task, answer, points)


def test_an_answer_that_goes_on_after_the_right_one_is_wrong():
    """The scorer of spell_backward adds up fractions, so that a right start gets almost 1."""
    entry = reasoning_gym.task_dataset("spell_backward", 20, 1)
    for index in range(20):
        own = entry[index]["answer"]
        gold = reasoning_gym.gold_of(
            entry[index]["question"], task="spell_backward", size=20, seed=1, index=index
        )
        assert [reasoning_gym.grade(f"Answer: {own}{more}", gold)[0] for more in ("", "s")] == [
            "pass",
            "fail",
        ]


def test_right_answers_of_many_entries_are_made_by_one_process(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "_right_answers", reasoning_gym.RightAnswers())
    asked, ask = [], reasoning_gym._ask
    monkeypatch.setattr(
        reasoning_gym, "_ask", lambda message: asked.append(message) or ask(message)
    )
    entries = reasoning_gym.task_dataset("chain_sum", 9, 4)
    for index in (3, 4, 3, 1):
        for lead in ("", "1"):
            gold = reasoning_gym.gold_of(
                entries[index]["question"], task="chain_sum", size=9, seed=4, index=index
            )
            status, _, _ = reasoning_gym.grade(f"Answer: {lead}{entries[index]['answer']}", gold)
            assert status == ("fail" if lead else "pass")
        other = reasoning_gym.gold_of(
            "What is 1 + 1?", task="chain_sum", size=9, seed=4, index=index
        )
        assert reasoning_gym.grade("Answer: 2", other)[0] == "error"
    assert [json.loads(message["right"])["index"] for message in asked] == [3, 1]
    assert not any("completion" in message for message in asked)


def test_only_so_many_right_answers_are_kept(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "MOST_KEPT", 100)
    kept = reasoning_gym.RightAnswers()
    for index in range(60):
        kept.add("sums", [[index, "digest", "12345", ["12345"]]])
        assert ("sums", index) in kept.entries
        assert len(kept.entries) <= 8


def test_scorers_that_nobody_has_read_score_for_themselves(monkeypatch):
    assert set(COMPARISONS) < reasoning_gym.TASKS
    golds = {
        task: json.dumps({"task": task, "index": 0})
        for task in ("chain_sum", "n_queens", "countdown")
    }
    compared = {task for task, gold in golds.items() if reasoning_gym._compared(gold)}
    assert compared == {"chain_sum", "n_queens"}
    monkeypatch.setattr(reasoning_gym, "version", lambda: "0.2.0")
    compared = {task for task, gold in golds.items() if reasoning_gym._compared(gold)}
    assert compared == {"n_queens"}  # their scorer would evaluate the answer


REPEATED = ("countdown", "simple_integration", "n_queens", "spiral_matrix", "chain_sum")


def test_no_answer_changes_how_the_next_is_graded():
    """Each task's own answer and two wrong ones, before and after hostile ones, in one process."""
    asked, golds = [], []
    for task in REPEATED:
        entry = reasoning_gym.task_dataset(task, 3, 1)[0]
        golds.append(reasoning_gym.gold_of(entry["question"], task=task, size=3, seed=1, index=0))
        asked += [(f"Answer: {text}", golds[-1]) for text in (entry["answer"], "0 1", "U R")]
    before = [reasoning_gym.grade(*pair) for pair in asked]
    assert [status for status, _, _ in before] == ["pass", "fail", "fail"] * len(REPEATED)
    for index, text in enumerate((*CHANGES, "x" * 30_000)):
        assert reasoning_gym.grade(f"Answer: {text}", golds[index % len(golds)])[0] == "fail"
    assert [reasoning_gym.grade(*pair) for pair in asked] == before


def test_gold_from_a_file_runs_nothing(tmp_path):
    """Gold from a foreign run: an invalid configuration, and an index outside of the data set."""
    touched = tmp_path / "touched"
    program = f"__import__('os').system('touch {touched}')"
    base = {"size": 3, "seed": 1, "index": 0}
    golds = [
        {"task": "simple_integration", "config": {"symbols": [program]}},
        {"task": "simple_integration", "config": {"operators": [program]}},
        {"task": "intermediate_integration", "config": {"symbols": [program]}},
        {"task": "basic_arithmetic", "config": {"operators": [f"+{program}+"]}},
        {"task": "bitwise_arithmetic", "config": {"difficulty": program}},
        {"task": "spell_backward", "config": {"data_file": "/etc/passwd"}},
        {"task": program},
        {"task": "chain_sum", "size": program},
        {"task": "chain_sum", "index": program},
    ]
    texts = [json.dumps(base | gold) for gold in golds] + ["", "[]", "null", "nan", "[" * 100_000]
    for text in texts:
        assert reasoning_gym.grade("Answer: 5", text)[0] in ("fail", "error"), text
        assert not touched.exists(), text
