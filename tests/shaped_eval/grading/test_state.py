"""Grading formulas evaluates no text of an answer, and keeps no state from the last one."""

from __future__ import annotations

import random
import re
import sys
from importlib import import_module

import math_verify.parser
import pytest
import sympy
from hostile_answers import CHANGES, evaluated, programs
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.math import algebra
from shaped_eval.grading.worker import answer

GOLDS = (
    *(
        r"\frac{\sqrt{2}}{2}",
        "x^2+3x-1",
        r"\pi-\cot(3)",
        r"(1,\frac{3}{5})",
        "9i+6",
        r"\{1,\sqrt{5}\}",
    ),
    r"\frac{3}{56}",
)
PIECES = (
    *(
        "final answer is ",
        "the answer is ",
        "Answer: ",
        "$",
        "\\(",
        "\\)",
        "\\boxed{",
        "}",
        "__import__('os')",
    ),
    *(
        "exec(",
        "S(x)",
        "5",
        "1/2",
        "x.y",
        ". ",
        "**",
        "×",
        "÷",
        "\\frac{1}{2}",
        "(",
        ")",
        "e",
        "1e5",
        "lambda: 0",
    ),
    *(
        "'a'",
        "3.x",
        "2.real",
        "1_0",
        "0x1f",
        "1j",
        "True",
        "5 if 1 else 2",
        "[1]",
        "1,2",
        "١",
        "^",
        "\\text{os}",
        "\n",
    ),
)


def test_only_digits_and_operators_of_an_answer_reach_what_evaluates(monkeypatch):
    """sympy's parser evaluates text as Python, and `Number` uses it."""
    import_module("sympy.physics.units")  # it makes units from text
    seen = set()

    def record(function):
        def recording(text, *arguments, **options):
            if isinstance(text, str):
                seen.add(text)
            return function(text, *arguments, **options)

        return recording

    monkeypatch.setattr(math_verify.parser, "parse_expr", record(math_verify.parser.parse_expr))
    sympify = sys.modules["sympy.core.sympify"].sympify
    for module in list(sys.modules.values()):
        if module is not None and module.__dict__.get("sympify") is sympify:
            monkeypatch.setattr(module, "sympify", record(sympify))
    rng = random.Random(0)
    texts = [*programs("/nowhere/at/all"), *CHANGES, evaluated("1")]
    texts += ["".join(rng.choices(PIECES, k=rng.randrange(1, 10))) for _ in range(400)]
    for text in texts:
        answer("math", text, "5", 1.0)
    assert len(seen) > 5
    assert [text for text in seen if not re.fullmatch(r"[\d\s.,+\-*/()×÷^]*", text)] == []


def test_a_worker_forgets_what_it_has_found_out():
    remembered = algebra.remember()
    answer("math", r"\boxed{\sqrt{2}}", r"\sqrt{3}", 60.0)
    # the state that an interrupted inference leaves behind
    for found, notes, _ in remembered[:10]:
        notes["planted"] = None
        found._assumptions = dict(notes)
    assert len(_changed(remembered)) == 10
    random.seed(1)
    sympy.core.parameters.global_parameters.distribute = False
    algebra.forget()
    assert not _changed(remembered)
    assert sympy.core.parameters.global_parameters.distribute
    assert all(cache.cache_info().currsize == 0 for cache in algebra._PARSED)
    first = random.random()
    answer("math", r"\boxed{\sqrt{2}}", r"\sqrt{3}", 60.0)
    algebra.forget()
    assert random.random() == first


def _changed(remembered) -> list[sympy.Basic]:
    return [
        found
        for found, notes, copy in remembered
        if found._assumptions is not notes or dict(notes) != copy
    ]


@pytest.mark.slow
def test_a_worker_s_verdicts_do_not_depend_on_what_it_has_seen():
    asked = [GradeRequest("math", f"\\boxed{{{text}}}", gold) for gold in GOLDS for text in GOLDS]
    hostile = [
        GradeRequest("math", f"\\boxed{{{text}}}", gold)
        for text in CHANGES[:8]
        for gold in GOLDS[:2]
    ]
    with GraderPool(1, hard_timeout_s=60.0) as pool:
        before = pool.grade(asked)
        pool.grade(hostile)
        assert pool.grade(asked) == before
    assert [grade.status for grade in before].count("pass") == len(GOLDS)
