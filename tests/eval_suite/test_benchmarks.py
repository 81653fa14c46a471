"""Problems: what the table says of each benchmark, and, where the real rows are, what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval_suite.benchmarks import BENCHMARKS, load_problems
from eval_suite.errors import UserError

MIRROR = Path(__file__).resolve().parents[2].parent / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason="no mirror of the real data sets beside the checkout")


@pytest.fixture
def made_up(tmp_path):
    """A mirror with made-up rows in the layout of each data set."""
    rows = {
        "openai/gsm8k/main/train": [
            {"question": f"Shot {i}?", "answer": f"{i}+1=<<{i}+1={i + 1}>>{i + 1} {{x}}\n#### {i + 1}"}
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
        "HuggingFaceH4/aime_2024/default/train": [{"id": 60, "problem": "Find $m+n$.", "answer": "025"}],
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
    for problem, question in zip(problems, ["How many?", "Why {so}?", "Find $x$.", "Find $m+n$."], strict=True):
        assert problem.prompt.startswith(question + "\n\n")
        assert "Shot" not in problem.prompt
        assert problem.meta["stop"] == []
    assert "####" in problems[0].prompt
    assert "\\boxed{}" in problems[2].prompt


def test_mathematics_asks_for_a_box_and_keeps_the_own_id(made_up):
    math, aime = load_problems(["math500", "aime24"], hub_mirror=made_up)
    assert math.prompt.startswith("Problem: Find $x$.\n")
    assert math.prompt.endswith("\\boxed{}.\n\nSolution:")
    assert (math.problem_id, math.gold, math.grader) == ("math500/a/1.json", "\\frac12", "math")
    assert math.meta == {"row": 0, "stop": ["\nProblem:"], "subject": "S", "level": 5}
    assert (aime.problem_id, aime.gold, aime.grader) == ("aime24/60", "025", "math")


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
    with pytest.raises(UserError, match=r"no data set 'openai/gsm8k' \(config 'main', split 'train'\)"):
        load_problems(["gsm8k"], hub_mirror=made_up)
    assert len(load_problems(["gsm8k"], hub_mirror=made_up, chat=True)) == 2
    (made_up / "HuggingFaceH4/aime_2024/default/train.jsonl").write_text('{"id": 1, "problem": "P"}\n')
    with pytest.raises(UserError, match=r"'HuggingFaceH4/aime_2024', row 0: no field 'answer' among id, problem"):
        load_problems(["aime24"], hub_mirror=made_up)


@needs_mirror
@pytest.mark.parametrize(("name", "size"), [("gsm8k", 1319), ("math500", 500), ("aime24", 30)])
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
    assert all(0 <= int(problem.gold) <= 999 for problem in load_problems(["aime24"], hub_mirror=MIRROR))
    levels = [problem.meta["level"] for problem in load_problems(["math500"], hub_mirror=MIRROR)]
    assert set(levels) == {1, 2, 3, 4, 5}
