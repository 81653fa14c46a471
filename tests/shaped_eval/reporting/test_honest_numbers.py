"""Unknown numbers are not shown, and incomparable numbers are not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.grading.graders import GRADERS, KEPT
from shaped_eval.records import Sample, append_jsonl, read_jsonl
from shaped_eval.report import compare, report
from shaped_eval.reporting.cautions import cautions
from shaped_eval.reporting.results import read_runs

from shaped_trl.cli import main


def regrade(folder: Path, grader: str, version: str) -> None:
    """Change the verdicts' grader to another one."""
    rows = [{**row, "grader": version} for row in read_jsonl(folder / "verdicts.jsonl")]
    problems = [{**row, "grader": grader} for row in read_jsonl(folder / "problems.jsonl")]
    for name, changed in (("verdicts.jsonl", rows), ("problems.jsonl", problems)):
        (folder / name).unlink()
        append_jsonl(folder / name, changed)


def answers_file(folder: Path, gold="7", completions=(r"\boxed{7}", r"\boxed{8}", "none")) -> Path:
    path = folder / "answers.jsonl"
    path.write_text(
        json.dumps({"problem_id": "a", "completions": list(completions), "gold": gold}) + "\n"
    )
    return path


def test_programs_do_not_vote(tmp_path):
    """Their answers are the results of their tests, so all that pass would vote for one answer."""
    run = write_run(tmp_path / "run", {"humaneval": ["ppabuu", "pabuuu"]}, n=6)
    (math,) = read_runs([run])
    assert {"cons@6", "maj@2"} < set(math.results["humaneval"]["metrics"])
    regrade(run, "code", GRADERS["code"].version)
    (code,) = read_runs([run])
    left = set(code.results["humaneval"]["metrics"])
    assert left == {"pass@1", "pass@2", "pass@4", "pass@6", "avg@6"}
    assert "cons" not in report([run]).lower().split("## results")[1].split("## ")[0]
    other = write_run(tmp_path / "other", {"humaneval": ["pppppp", "pppppp"]}, n=6)
    regrade(other, "code", GRADERS["code"].version)
    assert "avg@6" in compare(run, other)


def test_problems_of_one_name_with_other_golds_are_not_paired(tmp_path):
    a = write_run(tmp_path / "a", {"math": ["pp", "pa"]}, n=2)
    b = write_run(tmp_path / "b", {"math": ["pp", "pa"]}, n=2, gold="8")
    with pytest.raises(
        UserError, match=r"different golds or graders in 2 of 2 problems of math, such as math/0"
    ):
        compare(a, b)


def test_verdicts_of_another_version_are_pointed_out(tmp_path):
    run = write_run(tmp_path / "run", {"gsm8k": ["pp", "pa"]}, n=2)
    regrade(run, "gsm8k", "gsm8k/0")
    assert any("gsm8k: graded by another version" in said for said in cautions(read_runs([run])[0]))
    for kept in ("", KEPT):
        regrade(run, "gsm8k", GRADERS["gsm8k"].version + kept)
        assert not any("another version" in said for said in cautions(read_runs([run])[0]))


def test_a_part_of_the_problems_is_pointed_out(tmp_path):
    run = write_run(tmp_path / "run", {"gsm8k": ["pp", "pa"]}, n=2, limit=2)
    assert "At most the first 2 problems of each benchmark are used." in cautions(
        read_runs([run])[0]
    )


def test_of_answers_from_elsewhere_truncation_is_unknown(tmp_path, capsys):
    out = tmp_path / "out"
    argv = [
        "grade",
        "--answers",
        str(answers_file(tmp_path)),
        "--benchmark",
        "math",
        "--out",
        str(out),
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "3 verdicts" in printed
    assert f"next: shaped-trl report {out}" in printed
    text = report([out])
    assert "| math | 33.3" in text
    row = next(line for line in text.splitlines() if line.startswith("| math | 33.3"))
    assert [cell.strip() for cell in row.strip("|").split("|")][-2] == "–"
    assert json.loads((out / "results.json").read_text())["math"]["truncated"] is None


@pytest.mark.parametrize("gold", [float("nan"), float("inf"), True, " "])
def test_golds_that_are_nothing_are_refused(tmp_path, gold, capsys):
    argv = [
        "grade",
        "--answers",
        str(answers_file(tmp_path, gold)),
        "--benchmark",
        "math",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(argv) == 2
    assert "is neither a text nor a number" in capsys.readouterr().err


def test_mistakes_end_with_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["pp"]}, n=2)
    (tmp_path / "file").touch()
    answers = answers_file(tmp_path)
    damaged = {}
    for name, line in (
        ("json", '{"a": \n'),
        ("field", json.dumps({**vars(Sample("gsm8k/0", 0, "")), "x": 1}) + "\n"),
    ):
        damaged[name] = write_run(tmp_path / name, {"gsm8k": ["pp"]}, n=2)
        with open(damaged[name] / "samples.jsonl", "a") as file:
            file.write(line)
    (run / "run.json").write_text("{")
    for argv, said in (
        (
            [
                "grade",
                "--answers",
                str(answers),
                "--benchmark",
                "math",
                "--out",
                str(tmp_path / "file"),
            ],
            "is a file",
        ),
        (
            ["grade", "--answers", str(answers), "--benchmark", "maths", "--out", "x"],
            "the known ones are math, choice",
        ),
        (
            ["eval", "--model", "m", "--benchmarks", "gsm8k", "--num_workers", "0"],
            "num_workers=0 must be at least 1",
        ),
        (["report", str(run)], "it is damaged"),
        (["grade", str(damaged["json"])], "samples.jsonl:3: not a JSON row"),
        (["grade", str(damaged["field"])], "samples.jsonl:3: not a row of this version"),
    ):
        assert main(argv) == 2, argv
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1
