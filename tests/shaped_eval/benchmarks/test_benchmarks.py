"""Problems: what the table says of each benchmark, and, where the real rows are, what is in
them."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction

import pytest
from places import MIRROR
from shaped_eval.benchmarks.loading import load_problems, not_in_mirror
from shaped_eval.benchmarks.prompts import PROBLEM_BOXED
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.worked_examples import MATH_EXAMPLES, SOURCE
from shaped_eval.errors import UserError
from shaped_eval.grading.math.grader import grade

from shaped_trl.data.decontamination import Overlap, ngrams

needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no mirror of the real data sets beside the checkout"
)

OLYMPIAD = {
    "subfield": "Algebra",
    "context": None,
    "question": "Which {n}?",
    "solution": ["So."],
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
}


@pytest.fixture
def made_up(tmp_path):
    """A mirror with made-up rows in the layout of each data set."""
    rows = {
        "openai/gsm8k/main/train": [
            {
                "question": f"Shot {i}?",
                "answer": f"{i}+1=<<{i}+1={i + 1}>>{i + 1} {{x}}\n#### {i + 1}",
            }
            for i in range(6)
        ],
        "openai/gsm8k/main/test": [
            {"question": "How many?", "answer": "Many.\n#### 1,200"},
            {"question": "Why {so}?", "answer": "#### -3"},
        ],
        "HuggingFaceH4/MATH-500/default/test": [
            {
                "problem": "Find $x$.",
                "answer": "\\frac12",
                "unique_id": "a/1.json",
                "subject": "S",
                "level": 5,
            }
        ],
        "HuggingFaceH4/aime_2024/default/train": [
            {"id": 60, "problem": "Find $m+n$.", "answer": "025"}
        ],
        "math-ai/aime25/default/test": [{"problem": "Find $m-n$.", "answer": "70", "id": "0"}],
        "math-ai/amc23/default/test": [
            {"id": 3, "question": "How far?", "answer": 27.0, "url": "u"}
        ],
        "math-ai/minervamath/default/test": [{"question": "How bright?", "answer": "4.5e33 "}],
        "Hothan/OlympiadBench/OE_TO_maths_en_COMP/train": [
            {**OLYMPIAD, "id": 1, "final_answer": ["$(1,2)$,$(3,4)$"], "is_multiple_answer": True},
            {**OLYMPIAD, "id": 2, "final_answer": ["7", " 8 "], "context": "Let $x$ be."},
            {**OLYMPIAD, "id": 3, "final_answer": ["4.2"], "unit": "%", "error": "1e-1"},
            {**OLYMPIAD, "id": 4, "final_answer": ["$166$"], "unit": "$cm^2$"},
            {**OLYMPIAD, "id": 5, "final_answer": ["90"], "unit": "^{\\circ}"},
        ],
    }
    for name, content in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def test_gsm8k_base_prompt_has_four_examples_of_the_train_split(made_up):
    first, second = load_problems(["gsm8k"], hub_mirror=made_up)
    shots = [f"Question: Shot {i}?\nAnswer: {i}+1={i + 1} {{x}}\n#### {i + 1}" for i in range(4)]
    assert first.prompt == "\n\n".join([*shots, "Question: How many?\nAnswer:"])
    assert second.prompt.endswith("Question: Why {so}?\nAnswer:")
    assert (first.problem_id, first.gold, first.grader) == ("gsm8k/0", "1,200", "gsm8k")
    assert (second.problem_id, second.gold, second.meta["row"]) == ("gsm8k/1", "-3", 1)
    assert first.meta["stop"] == ["\nQuestion:"]


def test_chat_prompts_hold_the_question_and_no_examples_or_stop_strings(made_up):
    problems = load_problems(["gsm8k", "math500", "aime24"], hub_mirror=made_up, chat=True)
    for problem, question in zip(
        problems, ["How many?", "Why {so}?", "Find $x$.", "Find $m+n$."], strict=True
    ):
        assert problem.prompt.startswith(question + "\n\n")
        assert "Shot" not in problem.prompt
        assert problem.meta["stop"] == []
    assert "####" in problems[0].prompt
    assert "\\boxed{}" in problems[2].prompt


def asked(question: str) -> str:
    return f"Problem: {question}\nReason step by step, and put the final answer within \\boxed{{}}.\n\nSolution:"


def test_mathematics_asks_for_a_box_and_keeps_the_own_id(made_up):
    first, aime = load_problems(["math500", "aime24"], hub_mirror=made_up)
    worked = [f"{asked(example.text)} {example.solution}" for example in MATH_EXAMPLES]
    assert first.prompt == "\n\n".join([*worked, asked("Find $x$.")])
    assert aime.prompt == asked("Find $m+n$.")
    assert (first.problem_id, first.gold, first.grader) == ("math500/a/1.json", "\\frac12", "math")
    meta = {
        "row": 0,
        "stop": ["\nProblem:"],
        "subject": "S",
        "level": 5,
        "shots": 4,
        "shots_source": SOURCE,
    }
    assert first.meta == meta
    assert (aime.problem_id, aime.gold, aime.grader) == ("aime24/60", "025", "math")
    assert aime.meta == {"row": 0, "stop": ["\nProblem:"]}


def test_the_other_sets_keep_their_columns(made_up):
    names = ["aime25", "amc23", "minerva", "olympiadbench"]
    problems = load_problems(names, hub_mirror=made_up, shots=0)
    aime, amc, minerva, *olympiad = problems
    assert [problem.prompt for problem in (aime, amc, minerva)] == [
        asked(question) for question in ("Find $m-n$.", "How far?", "How bright?")
    ]
    assert [(p.problem_id, p.gold) for p in (aime, amc, minerva)] == [
        ("aime25/0", "70"),
        ("amc23/3", "27.0"),
        ("minerva/0", "4.5e33"),
    ]
    golds = [
        "$(1,2)$,$(3,4)$",
        "7, 8",
        "4.2\\%\\tolerance{1e-1}",
        "$166$\\text{ cm^2}",
        "90^{\\circ}",
    ]
    assert [problem.gold for problem in olympiad] == golds
    assert [problem.problem_id for problem in olympiad] == [
        f"olympiadbench/{i}" for i in range(1, 6)
    ]
    assert olympiad[1].prompt == asked("Let $x$ be.\n\nWhich {n}?")
    assert all(problem.grader == "math" for problem in problems)


def test_the_number_of_worked_examples_is_an_option(made_up):
    gsm8k, *_ = load_problems(["gsm8k"], hub_mirror=made_up, shots=2)
    assert gsm8k.prompt.count("Shot ") == gsm8k.meta["shots"] == 2
    assert gsm8k.meta["shots_source"] == "openai/gsm8k, config main, split train, first rows"
    (aime,) = load_problems(["aime25"], hub_mirror=made_up, shots=1)
    assert (
        aime.prompt
        == f"{asked(MATH_EXAMPLES[0].text)} {MATH_EXAMPLES[0].solution}\n\n{asked('Find $m-n$.')}"
    )
    assert (
        load_problems(["gsm8k"], hub_mirror=made_up, shots=0)[0].prompt
        == "Question: How many?\nAnswer:"
    )
    for shots, chat, message in [
        (-1, False, "shots=-1 is out of range"),
        (7, False, "shots=7, but gsm8k has 6 worked examples"),
        (1, True, "shots=1 does not go with chat_template=True"),
    ]:
        with pytest.raises(UserError, match=message):
            load_problems(["gsm8k"], hub_mirror=made_up, shots=shots, chat=chat)


def test_the_worked_examples_are_right():
    """Each by another way than its solution's; and each solution boxes its answer."""
    for example in MATH_EXAMPLES:
        assert grade(example.solution, example.gold)[0] == "pass"
    marbles = [(5 * k, 3 * k) for k in range(1, 100) if 3 * (5 * k - 6) == 4 * 3 * k]
    assert [Fraction(blue, red - 6 + blue) for red, blue in marbles] == [Fraction(3, 7)]
    assert sum((n % 6 == 0) != (n % 10 == 0) for n in range(1, 201)) == 41
    side = (48 / 3) ** 0.5
    assert math.hypot(side, 48 / side) == pytest.approx(4 * 10**0.5)
    assert float(f"{250 * 9.8 * 12 * 24 * 60:.1e}") == 4.2e7


@needs_mirror
def test_no_worked_example_is_a_problem_of_a_benchmark():
    grams = Overlap(
        [
            name
            for name in BENCHMARKS
            if BENCHMARKS[name].style is PROBLEM_BOXED and not not_in_mirror([name], MIRROR)
        ],
        str(MIRROR),
    )
    for example in MATH_EXAMPLES:
        assert len(ngrams(example.text)) > 0
        assert grams.found(f"{example.text} {example.solution}") == []


def test_limit_counts_within_each_benchmark(made_up):
    problems = load_problems(["gsm8k", "aime24"], hub_mirror=made_up, limit=1)
    assert [problem.problem_id for problem in problems] == ["gsm8k/0", "aime24/60"]


def test_running_sums_are_generated():
    problems = load_problems(["running_sums"], limit=5)
    assert len(problems) == 5
    assert {problem.benchmark for problem in problems} == {"running_sums"}
    assert len({problem.problem_id for problem in load_problems(["running_sums"])}) > 20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gsmk8"], r"'gsmk8' is unknown: the known ones are gsm8k, .*; did you mean 'gsm8k'\?$"),
        (["mmmlu", "gsm8k", "zzz"], r"'mmmlu', 'zzz' are unknown"),
        (["zzz"], r"'zzz' is unknown: the known ones are .*running_sums, .*bbh"),
        (["gsm8k", "gsm8k"], "'gsm8k' is named more than once"),
        ([], "benchmarks is empty"),
    ],
)
def test_names_that_cannot_be_loaded_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        load_problems(names)


def test_a_missing_data_set_or_field_is_named(made_up):
    (made_up / "openai/gsm8k/main/train.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"no data set 'openai/gsm8k' \(config 'main', split 'train'\)"
    ):
        load_problems(["gsm8k"], hub_mirror=made_up)
    assert len(load_problems(["gsm8k"], hub_mirror=made_up, chat=True)) == 2
    (made_up / "HuggingFaceH4/aime_2024/default/train.jsonl").write_text(
        '{"id": 1, "problem": "P"}\n'
    )
    with pytest.raises(
        UserError,
        match=r"'HuggingFaceH4/aime_2024', row 0 cannot be read \(no column 'answer'\): "
        "it has the columns id, problem",
    ):
        load_problems(["aime24"], hub_mirror=made_up)


SIZES = {
    "gsm8k": 1319,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 675,
    "amc23": 40,
    "aime24": 30,
    "aime25": 30,
}


@needs_mirror
@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_real_rows_give_complete_problems(name, size):
    problems = load_problems([name], hub_mirror=MIRROR)
    assert len(problems) == size
    assert len({problem.problem_id for problem in problems}) == size
    assert [problem.meta["row"] for problem in problems] == list(range(size))
    assert all(problem.problem_id.startswith(f"{name}/") for problem in problems)
    assert all(problem.gold and problem.gold == problem.gold.strip() for problem in problems)
    assert all(problem.grader == BENCHMARKS[name].grader for problem in problems)
    assert all(problem.prompt.rstrip() == problem.prompt for problem in problems)


@needs_mirror
def test_real_golds_are_what_the_benchmarks_ask_for():
    gsm8k = load_problems(["gsm8k"], hub_mirror=MIRROR)
    numbers = [float(problem.gold.replace(",", "")) for problem in gsm8k]
    assert sum(number == int(number) for number in numbers) == 1319
    assert not any("<<" in problem.prompt or ">>" in problem.prompt for problem in gsm8k)
    assert all(problem.prompt.count("\n#### ") == 4 for problem in gsm8k)
    aime = load_problems(["aime24", "aime25"], hub_mirror=MIRROR)
    assert all(0 <= int(problem.gold) <= 999 for problem in aime)
    assert all(
        float(problem.gold).is_integer() for problem in load_problems(["amc23"], hub_mirror=MIRROR)
    )
    olympiad = load_problems(["olympiadbench"], hub_mirror=MIRROR)
    assert sum("\\tolerance" in problem.gold for problem in olympiad) == 1
    minerva = load_problems(["minerva"], hub_mirror=MIRROR)
    assert sum(bool(re.fullmatch(r"-?[\d.]+e-?\d+", problem.gold)) for problem in minerva) == 58
    levels = [problem.meta["level"] for problem in load_problems(["math500"], hub_mirror=MIRROR)]
    assert set(levels) == {1, 2, 3, 4, 5}


def test_of_several_benchmarks_those_without_examples_stay_without(tmp_path):
    rows = {
        "openai/gsm8k/main": [{"question": "1+1?", "answer": "2\n#### 2"}],
        "openai/openai_humaneval/openai_humaneval": [
            {
                "task_id": "HumanEval/0",
                "prompt": "def f():\n",
                "entry_point": "f",
                "test": "",
                "canonical_solution": "",
            }
        ],
    }
    for place, given in rows.items():
        for split in ("train", "test"):
            path = tmp_path / place / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in given))
    problems = load_problems(["gsm8k", "humaneval"], hub_mirror=tmp_path, shots=1)
    assert [problem.meta.get("shots") for problem in problems] == [1, None]
    with pytest.raises(UserError, match="humaneval has 0 worked examples"):
        load_problems(["humaneval"], hub_mirror=tmp_path, shots=1)
