"""lm-eval's documents as problems: prompts, golds, parts and limits, on made-up rows and on the
mirror."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness_data import BBH_TASKS, MMLU_SUBJECTS, ROWS, write_made_up_mirror, write_split
from places import MIRROR
from shaped_eval.benchmarks import registry
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, read_jsonl

needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="needs the data sets in ../shared/hub"
)
LIKELIHOOD = [name for name, spec in HARNESS.items() if spec.gold is None]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    return write_made_up_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def made_up(mirror) -> dict[str, list[Problem]]:
    return {name: load_problems([name], hub_mirror=mirror, limit=4) for name in HARNESS}


def test_each_is_a_benchmark_of_one_greedy_or_likeliest_sample(made_up):
    assert len(HARNESS) == 14
    assert set(HARNESS) <= set(registry.ELSEWHERE)
    for name, problems in made_up.items():
        assert len(problems) == 4, name
        for problem in problems:
            assert problem.benchmark == name
            assert problem.problem_id.startswith(f"{name}/")
            assert problem.meta["n"] == 1
            assert problem.meta["decoding"] == ("likelihood" if name in LIKELIHOOD else "greedy")
            json.dumps(problem.meta)


def test_mmlu_redux_is_asked_as_mmlu_is(made_up):
    """The made-up rows of both are the same, as the real ones of Redux are some of MMLU's."""
    for redux, mmlu in zip(made_up["mmlu_redux"], made_up["mmlu"], strict=True):
        assert (redux.prompt, redux.gold) == (mmlu.prompt, mmlu.gold)


def test_prompts_are_exact(made_up):
    first = {name: problems[0] for name, problems in made_up.items()}
    assert first["nq"].prompt == (
        "Answer these questions:\n\nQ: who is 100?\nA: P. 100\nQ: who is 101?\nA: P. 101\nQ: who is 102?\nA: P. 102\n"
        "Q: who is 103?\nA: P. 103\nQ: who is 104?\nA: P. 104\nQ: who is 0?\nA:"
    )
    shots = "".join(
        f"Question: Who is number {i}?\nAnswer: Person {i}\n\n" for i in range(100, 105)
    )
    assert first["triviaqa"].prompt == f"{shots}Question: Who is number 0?\nAnswer:"
    shot = "Question:\nMade-up question {} of biology?\nOptions:\nA. one\nB. two\nC. three\n"
    shot += "Answer: Let's think step by "
    assert first["mmlu_pro"].prompt == (
        "The following are multiple choice questions (with answers) about biology. Think step by step and then finish "
        'your answer with "the answer is (X)" where X is the correct letter choice.\n'
        + "".join(shot.format(i) + "step. It is two. The answer is (B).\n\n" for i in range(5))
        + "Question:\nQuestion 0?\nOptions:\nA. option 0\nB. option 1\nC. option 2\nAnswer: Let's think step by step."
    )
    start, question = first["mmlu"].prompt[:120], first["mmlu"].prompt.split("\n\n")[-1]
    assert start.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra.\n\nQ: "
    )
    assert (
        question
        == "Q: What is 0 of abstract_algebra?\n(A) w (B) x (C) y (D) z\nA: Let's think step by step."
    )
    assert first["mmlu"].prompt.count("The answer is (") == 4
    assert first["hellaswag"].prompt == "Baking: A person kneads dough 0. The person"
    assert first["siqa"].prompt == "Q: Kim has 0 cats. Why?\nA:"
    assert first["piqa"].prompt == "Question: Open can 0\nAnswer:"
    assert first["winogrande"].prompt == "Ann met Bo because _ had 0 maps."
    assert first["openbookqa"].prompt == "Stem 0 is"
    assert first["commonsenseqa"].prompt.endswith("\nE. grey 0\nAnswer:")
    assert first["arc_easy"].prompt == "Question: Which is 0?\nAnswer:"
    assert first["bbh"].prompt.endswith("\n\nQ: Is 0 even?\nA: Let's think step by step.\n")


def test_golds_and_what_is_scored(made_up):
    golds = {name: [problem.gold for problem in problems] for name, problems in made_up.items()}
    assert golds["mmlu"] == ["A"] * 4
    assert golds["mmlu_pro"] == ["A", "C", "B", "A"]  # by category: rows 0 and 2, then 1 and 3
    assert json.loads(golds["triviaqa"][0]) == ["Person 0", "P. 0"]
    assert json.loads(golds["nq"][3]) == ["P. 3", "Dr. No"]
    assert golds["hellaswag"][:2] == ["(A) sleeps.", "(B) bakes it. well."]
    assert golds["siqa"][1] == "(B) the blue boat"
    assert golds["piqa"][1] == "(B) Sing to it 1."
    assert golds["winogrande"][1] == "(B) Bo"
    assert golds["commonsenseqa"][1] == "(B) B"
    assert golds["arc_easy"][2] == "(C) grey 2"
    assert golds["bbh"] == ["Yes"] * 4
    winogrande, arc = made_up["winogrande"][1].meta, made_up["arc_challenge"][0].meta
    assert winogrande["contexts"] == ["Ann met Bo because Ann", "Ann met Bo because Bo"]
    assert winogrande["continuations"] == [" had 1 maps."] * 2
    assert arc["continuations"] == [" a red door 0", " green 0", " the blue boat 0"]
    assert (arc["metric"], winogrande["metric"], made_up["nq"][0].meta["metric"]) == (
        "acc_norm",
        "acc",
        "exact match",
    )


def test_a_limit_takes_the_first_rows_of_each_part_in_turn(mirror, made_up):
    assert [problem.problem_id for problem in made_up["mmlu"]] == [
        f"mmlu/{subject}/0" for subject in MMLU_SUBJECTS
    ]
    assert [problem.problem_id for problem in made_up["bbh"]] == [
        f"bbh/{task}/0" for task in BBH_TASKS
    ]
    three = load_problems(["mmlu_pro"], hub_mirror=mirror, limit=3)
    assert [problem.problem_id for problem in three] == [
        "mmlu_pro/70",
        "mmlu_pro/72",
        "mmlu_pro/71",
    ]
    assert [problem.meta["part"] for problem in three] == ["biology", "biology", "computer_science"]
    assert len(load_problems(["mmlu_pro"], hub_mirror=mirror)) == ROWS


def test_ids_that_the_source_has_twice_are_told_apart(mirror):
    ids = [problem.problem_id for problem in load_problems(["triviaqa"], hub_mirror=mirror)]
    assert ids[:3] == ["triviaqa/twice-0", "triviaqa/twice-1", "triviaqa/q_2"]


def test_shots_and_chat(mirror):
    [problem] = load_problems(["nq"], hub_mirror=mirror, limit=1, shots=1)
    assert (
        problem.prompt == "Answer these questions:\n\nQ: who is 100?\nA: P. 100\nQ: who is 0?\nA:"
    )
    [problem] = load_problems(["nq"], hub_mirror=mirror, limit=1, chat=True)
    assert (problem.meta["stop"], problem.meta["shots"]) == ([], 5)
    for name, shots, message in (
        ("bbh", 4, "shots=4, but bbh has 3 worked examples"),
        ("nq", 7, "shots=7, but nq has 6 worked examples"),
        ("siqa", 1, "shots=1, but siqa is scored by likelihood without worked examples"),
    ):
        with pytest.raises(UserError, match=message):
            load_problems([name], hub_mirror=mirror, limit=1, shots=shots)


def test_faults_of_rows_are_one_line(tmp_path):
    write_split(tmp_path, "baber/piqa/default/validation", [{"goal": "x", "sol1": "a", "label": 0}])
    with pytest.raises(
        UserError, match=r"data set 'baber/piqa', .*row 0 has goal, sol1, label: check that"
    ) as caught:
        load_problems(["piqa"], hub_mirror=tmp_path)
    assert "\n" not in str(caught.value)
    rows = [
        {"question_id": 1, "question": "?", "options": ["a"], "answer": "A", "category": "alchemy"}
    ]
    write_split(tmp_path, "TIGER-Lab/MMLU-Pro/default/test", rows)
    with pytest.raises(UserError, match="row 0: category='alchemy' is none of biology, business"):
        load_problems(["mmlu_pro"], hub_mirror=tmp_path)
    with pytest.raises(UserError, match=r"has no data set 'Rowan/hellaswag'"):
        load_problems(["hellaswag"], hub_mirror=tmp_path)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(registry, "_is_importable", lambda package: package != "lm_eval")
    with pytest.raises(
        UserError, match=r"'lm_eval' .* for piqa: pip install 'shaped-trl\[lm-eval\]'"
    ) as caught:
        load_problems(["gsm8k", "piqa"])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_table_is_there_without_lm_eval():
    code = "import sys; sys.modules['lm_eval'] = None; import shaped_eval.sample, shaped_eval.sampling.fit"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_mirror
@pytest.mark.parametrize(
    "name", [name for name in HARNESS if name not in ("hellaswag", "mmlu_pro", "mmlu_redux", "bbh")]
)
def test_the_mirror_is_read(name):
    problems = load_problems([name], hub_mirror=MIRROR, limit=60)
    assert len({problem.problem_id for problem in problems}) == 60
    for problem in problems:
        if name in LIKELIHOOD:
            options = problem.meta["options"]
            letter = problem.gold[1]
            assert problem.gold == f"({letter}) {options['ABCDE'.index(letter)]}"
            assert len(problem.meta["continuations"]) == len(options) >= 2


@needs_mirror
def test_prompts_of_bbh_are_the_published_ones():
    """But for one line end in one of the 27, where lm-eval's definition has a line break for a
    space."""
    published = {
        row["task"]: row["prompt"].split("-----\n")[1]
        for row in read_jsonl(MIRROR / "bbh_cot_prompts.jsonl")
    }
    problems = load_problems(["bbh"], hub_mirror=MIRROR, limit=27)
    differ = []
    for problem in problems:
        task = problem.meta["part"]
        row = next(iter(read_jsonl(MIRROR / f"SaylorTwift/bbh/{task}/test.jsonl")))
        question = f"\n\nQ: {row['input']}\nA: Let's think step by step.\n"
        expected = published.pop(task).rstrip("\n") + question
        if problem.prompt != expected:
            differ.append(task)
            assert problem.prompt.split() == expected.split()
        assert problem.gold == row["target"]
    assert differ == ["sports_understanding"]
    assert not published
