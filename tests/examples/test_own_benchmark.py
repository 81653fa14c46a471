"""The example of a benchmark of one's own runs from any folder, without a network."""

from pathlib import Path

import yaml
from places import ROOT
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.records import read_jsonl
from tiny import tiny_model, tiny_tokenizer

from shaped_trl import cli

EXAMPLE = ROOT / "examples" / "own_benchmark.yaml"


def test_its_first_prompt_is_shown(capfdbinary):
    assert cli.main(["sample", "--show", str(EXAMPLE)]) == 0
    shown = capfdbinary.readouterr()
    prompt = shown.out.decode()
    assert prompt.count("Question: ") == prompt.count("\nAnswer:") == 3
    assert prompt.endswith("How many bottles are in 7 crates?\nAnswer:")
    assert b"gold: '84'" in shown.err


def test_it_is_sampled_and_graded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(max_position_embeddings=512).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    benchmark = ["--benchmarks", str(EXAMPLE), "--n", "2", "--max_new_tokens", "4"]
    assert cli.main(["sample", "--model", "./model", "--out", "run", *benchmark]) == 0
    assert cli.main(["grade", "run"]) == 0
    problems = list(read_jsonl("run/problems.jsonl"))
    assert {problem["benchmark"] for problem in problems} == {"own_benchmark"}
    verdicts = [row["problem_id"] for row in read_jsonl("run/verdicts.jsonl")]
    assert sorted(verdicts) == sorted(2 * [problem["problem_id"] for problem in problems])
    assert not any(str(ROOT) in path.read_text() for path in Path("run").glob("*.json*"))


def test_its_solutions_are_right():
    """By its own grader, which takes no other problem's solution."""
    rows = list(read_jsonl(EXAMPLE.with_suffix(".jsonl")))
    grader = yaml.safe_load(EXAMPLE.read_text())["grader"]
    golds = [str(row["answer"]) for row in rows]
    with GraderPool(1) as pool:
        right = [
            GradeRequest(grader, row["solution"], gold)
            for row, gold in zip(rows, golds, strict=True)
        ]
        wrong = [
            GradeRequest(grader, row["solution"], gold)
            for row, gold in zip(rows, golds[1:] + golds[:1], strict=True)
        ]
        assert {grade.status for grade in pool.grade(right)} == {"pass"}
        assert {grade.status for grade in pool.grade(wrong)} == {"fail"}
