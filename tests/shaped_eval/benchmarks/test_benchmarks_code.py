"""HumanEval, MBPP and their + versions: prompts, golds, and that right programs pass and wrong ones
fail."""

from __future__ import annotations

import json

import pytest
from mutants import mutants, really_wrong
from places import MIRROR
from shaped_eval.benchmarks.loading import load_problems, questions
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.errors import UserError
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.sandbox.confine import missing_protections

needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no mirror of the real data sets beside the checkout"
)
needs_sandbox = pytest.mark.skipif(
    bool(missing_protections()), reason=f"no sandbox: {missing_protections()}"
)
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore::SyntaxWarning")
SIZES = {"humaneval": 164, "humanevalplus": 164, "mbpp": 500, "mbppplus": 370}
EVERY = 12  # of the default suite's sample
ASSERTION = """
import numpy as np

def assertion(out, exp, atol):
    exact = out == exp
    if not exact and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact, f"out: {out}, exp: {exp}"
"""


@pytest.fixture(scope="module")
def pool():
    with GraderPool(2) as pool:
        yield pool


@pytest.fixture
def made_up(tmp_path):
    """Rows in the layout of each data set."""

    def plus(task_id: int, name: str, factor: int) -> dict:
        test = f"{ASSERTION}\ninputs = [[1], [2], [{{'a': 3}}.get('a')], [4]]\n"
        test += f"results = [{factor}, {2 * factor}, 3, 4]\n"
        test += f"for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({name}(*inp), exp, 0)\n"
        code = f"\ndef help(x): return {factor}\ndef {name}(x):\n    return x * help(x)\n"
        return {"task_id": task_id, "code": code, "prompt": f"Multiply by {factor}.", "source_file": "",
                "test_imports": ["import math"], "test_list": ["assert stale(1) == 5"], "test": test}  # fmt: skip

    def mbpp(task_id: int, name: str) -> dict:
        return {"task_id": task_id, "text": f"Task {task_id}.", "code": f"def {name}(x): \r\n    return x + 1 \r\n",
                "test_list": [f"assert {name}({i}) == {i + 1}" for i in range(4)], "test_setup_code": "",
                "challenge_test_list": []}  # fmt: skip

    humaneval = {
        "task_id": "HumanEval/0",
        "prompt": 'import math\n\ndef half(x):\n    """ {half} """\n',
        "canonical_solution": "    return x / 2\n",
        "entry_point": "half",
    }
    rows = {
        "openai/openai_humaneval/openai_humaneval/test": [
            {**humaneval, "test": "def check(candidate):\n    assert candidate(2) == 1\n"}
        ],
        "evalplus/humanevalplus/default/test": [
            {
                **humaneval,
                "test": f"{ASSERTION}\ndef check(candidate):\n    assertion(candidate(2), [1.0], 1e-6)\n",
            }
        ],
        "google-research-datasets/mbpp/full/test": [
            mbpp(11, "sum"),
            *(mbpp(i, "f") for i in (22, 23, 24, 26)),
        ],
        "evalplus/mbppplus/default/test": [plus(i, f"times_{i}", i) for i in (3, 4, 6, 7, 600)],
    }
    for name, content in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def test_humaneval_is_asked_by_its_own_prompt(made_up):
    for name in ("humaneval", "humanevalplus"):
        (problem,) = load_problems([name], hub_mirror=made_up)
        assert problem.prompt == 'import math\n\ndef half(x):\n    """ {half} """\n'
        assert (problem.problem_id, problem.grader) == (f"{name}/HumanEval/0", "code")
        assert {"\ndef ", "\nclass ", "\nprint", "\n```"} <= set(problem.meta["stop"])
        (chat,) = load_problems([name], hub_mirror=made_up, chat=True)
        assert f"```python\n{problem.prompt}\n```" in chat.prompt
        assert chat.meta["stop"] == []


def test_mbpp_is_asked_with_three_examples_of_mbppplus_and_three_tests(made_up):
    problem = load_problems(["mbpp"], hub_mirror=made_up)[0]
    task = "You are an expert Python programmer, and here is your task: {}. Your code should pass these tests:"
    task += "\n\n{}\n[BEGIN]\n"
    shots = [
        task.format(
            f"Multiply by {i}",
            f"assert times_{i}(1) == {i}\nassert times_{i}(2) == {2 * i}\nassert times_{i}({{'a': 3}}.get('a')) == 3",
        )
        + f"def help(x): return {i}\ndef times_{i}(x):\n    return x * help(x)\n[DONE]"
        for i in (3, 4, 6)
    ]
    asked = task.format("Task 11", "assert sum(0) == 1\nassert sum(1) == 2\nassert sum(2) == 3")
    assert problem.prompt == "\n\n".join([*shots, asked])
    assert problem.problem_id == "mbpp/11"
    assert problem.meta["stop"] == ["[DONE]", "\n[BEGIN]"]
    assert (problem.meta["shots"], problem.meta["shots_source"]) == (
        3,
        "evalplus/mbppplus, split test, task_id 3, 4, 6",
    )
    assert json.loads(problem.gold)["entry_point"] == "sum"
    assert json.loads(problem.gold)["tests"].count("assert") == 4  # all that there are


def test_mbppplus_is_asked_with_examples_of_mbpp_and_by_its_own_inputs(made_up):
    first = load_problems(["mbppplus"], hub_mirror=made_up)[0]
    assert (
        first.meta["shots_source"]
        == "google-research-datasets/mbpp, split test, task_id 22, 23, 24"
    )
    assert first.prompt.count("[BEGIN]") == 4
    assert "stale" not in first.prompt
    assert "assert times_3(2) == 6" in first.prompt
    none, one = (
        load_problems(["mbppplus"], hub_mirror=made_up, shots=shots)[0] for shots in (0, 1)
    )
    assert none.prompt.startswith(
        "You are an expert Python programmer, and here is your task: Multiply by 3."
    )
    assert one.prompt.endswith(none.prompt)
    chat = load_problems(["mbppplus"], hub_mirror=made_up, chat=True)[0].prompt
    assert chat.startswith(
        "Multiply by 3. Your code should pass these tests:\n\nassert times_3(1) == 3\n"
    )
    with pytest.raises(UserError, match="has no row with task_id 28, which is a worked example"):
        load_problems(["mbppplus"], hub_mirror=made_up, shots=5)


@needs_sandbox
def test_a_list_is_not_close_to_a_number_of_another_shape(made_up, pool):
    """numpy's broadcasting would let an empty list pass for [1.0]."""
    (problem,) = load_problems(["humanevalplus"], hub_mirror=made_up)
    bodies = {
        "[1.0]": "pass",
        "[1.0 + 1e-9]": "pass",
        "[]": "fail",
        "1.0": "fail",
        "[1.0, 1.0]": "fail",
    }
    requests = [GradeRequest("code", f"    return {body}\n", problem.gold) for body in bodies]
    assert [grade.status for grade in pool.grade(requests)] == list(bodies.values())


@needs_mirror
@pytest.mark.parametrize("name", SIZES)
def test_real_rows_give_complete_problems(name):
    problems = load_problems([name], hub_mirror=MIRROR)
    assert len({problem.problem_id for problem in problems}) == len(problems) == SIZES[name]
    ids = [problem.problem_id.rpartition("/")[2] for problem in problems]
    if name == "mbpp":
        assert ids == [str(i) for i in range(11, 511)]
    if name.startswith("mbpp"):
        examples = [
            json.loads(f'"{part}"')
            for part in problems[0].meta["shots_source"].rpartition("task_id ")[2].split(", ")
        ]
        assert len(examples) == 3
        assert not set(examples) & set(ids)
    for problem in problems:
        gold = json.loads(problem.gold)
        compile(gold["preamble"], "preamble", "exec")
        assert gold["entry_point"] in gold["tests"]
        assert gold["entry_point"] in problem.prompt
        assert gold["names"][0] == gold["entry_point"]


def solved(name: str, every: int) -> list[tuple[str, str, dict]]:
    """Each problem's id, canonical solution and gold."""
    return [
        (
            f"{name}/{question.own_id}",
            question.solution.removesuffix("\n[DONE]"),
            json.loads(question.gold),
        )
        for question in questions(name, MIRROR)[::every]
    ]


def check_right_and_wrong(
    pool: GraderPool, name: str, every: int, mutants_of_every: int = 1
) -> None:
    """Canonical solutions pass; with one mutation that the data set's own tests see, run in place,
    they fail."""
    problems = solved(name, every)
    requests = [GradeRequest("code", code, json.dumps(gold)) for _, code, gold in problems]
    grades = pool.grade(requests)
    assert {p[0]: g for p, g in zip(problems, grades, strict=True) if g.status != "pass"} == {}
    wrong: dict[str, GradeRequest] = {}
    problems = problems[::mutants_of_every]
    for problem_id, code, gold in problems:
        if gold.get("setup"):
            continue  # its objects belong to the program; graded above
        for mutant in mutants(code, gold["entry_point"], gold["preamble"]):
            if really_wrong(mutant, gold["tests"], gold["preamble"], gold["entry_point"]):
                wrong[problem_id] = GradeRequest("code", mutant, json.dumps(gold))
                break
    assert len(wrong) == sum(not gold.get("setup") for _, _, gold in problems)
    grades = pool.grade(list(wrong.values()))
    assert {p: g for p, g in zip(wrong, grades, strict=True) if g.status != "fail"} == {}


@needs_mirror
@needs_sandbox
@pytest.mark.parametrize("name", SIZES)
def test_some_right_programs_pass_and_mutants_fail(name, pool):
    check_right_and_wrong(pool, name, EVERY * (1 + name.startswith("mbpp")))


@needs_mirror
@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_all_right_programs_pass_and_mutants_of_every_sixth_fail(name, pool):
    check_right_and_wrong(pool, name, every=1, mutants_of_every=6)


@needs_mirror
@needs_sandbox
def test_helpers_of_the_prompt_are_not_the_programs_to_replace(pool):
    """HumanEval/32, 38 and 50 test the program with functions of the prompt."""
    cheats = {
        "32": "def poly(xs, x): return 0\ndef find_zero(xs): return 1",
        "38": "def encode_cyclic(s): return s\ndef decode_cyclic(s): return s",
        "50": "def encode_shift(s): return s\ndef decode_shift(s): return s",
    }
    for name in ("humaneval", "humanevalplus"):
        problems = {
            problem.problem_id: problem for problem in load_problems([name], hub_mirror=MIRROR)
        }
        requests = [
            GradeRequest("code", code, problems[f"{name}/HumanEval/{number}"].gold)
            for number, code in cheats.items()
        ]
        assert [grade.status for grade in pool.grade(requests)] == ["fail"] * 3


def test_the_table_names_the_data_sets():
    assert {name: BENCHMARKS[name].dataset_id for name in SIZES} == {
        "humaneval": "openai/openai_humaneval",
        "humanevalplus": "evalplus/humanevalplus",
        "mbpp": "google-research-datasets/mbpp",
        "mbppplus": "evalplus/mbppplus",
    }
    assert {name: BENCHMARKS[name].shots for name in SIZES} == {
        "humaneval": 0,
        "humanevalplus": 0,
        "mbpp": 3,
        "mbppplus": 3,
    }
