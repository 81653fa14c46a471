"""Grading a run's folder: interruptions lose nothing, and nothing is graded twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from places import ROOT
from sandboxes import needs_sandbox
from shaped_eval import grade as grade_module
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_answers, grade_run
from shaped_eval.grading import GRADERS
from shaped_eval.grading.sandbox.checker import Sandbox
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl, read_jsonl
from shaped_eval.report import report_run
from shaped_eval.reporting.outcomes import read_outcomes

from shaped_trl import cli

NUM_PROBLEMS, NUM_SAMPLES = 12, 8


def completion(problem: int, sample: int) -> str:
    if sample == 0:
        return "no answer"
    return f"It is \\boxed{{{problem + sample % 3}+\\sqrt{{{(sample + 1) ** 2}}}}}."


def write_run(folder: Path) -> Path:
    """A run in which half of the problems are for the mathematics grader, half for GSM8K's."""
    folder.mkdir()
    problems = [
        Problem(
            f"toy/{i}",
            "toy",
            "?",
            f"#### {i + 3}" if i % 2 else str(i + 3),
            "gsm8k" if i % 2 else "math",
        )
        for i in range(NUM_PROBLEMS)
    ]
    append_jsonl(folder / "problems.jsonl", problems)
    append_jsonl(
        folder / "samples.jsonl",
        [
            Sample(f"toy/{i}", j, completion(i, j))
            for i in range(NUM_PROBLEMS)
            for j in range(NUM_SAMPLES)
        ],
    )
    return folder


def verdicts(folder: Path) -> dict[tuple[str, int], Verdict]:
    rows = list(read_jsonl(folder / "verdicts.jsonl", Verdict))
    keyed = {(row.problem_id, row.sample_index): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[tuple[str, int], Verdict]:
    return verdicts(
        grade_run(write_run(tmp_path_factory.mktemp("run") / "run"), num_workers=2, progress=False)
    )


def test_each_sample_gets_its_verdict(undisturbed):
    assert len(undisturbed) == NUM_PROBLEMS * NUM_SAMPLES
    assert undisturbed["toy/0", 0] == Verdict("toy/0", 0, "unparsed", None, GRADERS["math"].version)
    assert undisturbed["toy/2", 1] == Verdict("toy/2", 1, "pass", "5", GRADERS["math"].version)
    assert undisturbed["toy/2", 2] == Verdict("toy/2", 2, "fail", "7", GRADERS["math"].version)
    assert undisturbed["toy/1", 0].grader == GRADERS["gsm8k"].version


def test_only_what_is_missing_is_graded(tmp_path, undisturbed, monkeypatch):
    folder = write_run(tmp_path / "run")
    file = folder / "verdicts.jsonl"
    kept = list(undisturbed.values())[:50]
    stale = Verdict("toy/11", 7, "pass", "0", "gsm8k/0")  # by an earlier grader
    append_jsonl(file, [*kept, stale, kept[0]])
    with open(file, "ab") as handle:
        # a killed writer's last line
        handle.write('{"problem_id": "toy/11", "answer": "é'.encode()[:-1])
    graded = []
    original = grade_module._missing
    monkeypatch.setattr(
        grade_module,
        "_missing",
        lambda *arguments: (graded.append(each) or each for each in original(*arguments)),
    )
    grade_run(folder, num_workers=1, progress=False)
    assert len(graded) == NUM_PROBLEMS * NUM_SAMPLES - 50
    assert verdicts(folder) == undisturbed
    before = file.read_bytes()
    grade_run(folder, progress=False)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_samples_that_come_later_are_graded_later(tmp_path, undisturbed):
    folder = write_run(tmp_path / "run")
    rows = (folder / "samples.jsonl").read_text()
    # in the middle of a row and of a character
    half = rows[: len(rows) // 2].encode() + "é".encode()[:1]
    (folder / "samples.jsonl").write_bytes(half)
    grade_run(folder, num_workers=1, progress=False)
    assert 0 < len(verdicts(folder)) < len(undisturbed)
    (folder / "samples.jsonl").write_text(rows)
    grade_run(folder, num_workers=1, progress=False)
    assert verdicts(folder) == undisturbed


# A grading process that kills itself once it has written this many verdicts.
KILLED = """
import os, signal, sys
from shaped_eval import grade
from shaped_eval.records import append_jsonl
from shaped_trl.cli import main

written, most = 0, int(sys.argv[1])

def append(path, rows):
    global written
    append_jsonl(path, rows)
    written += len(rows)
    if written >= most:
        os.kill(os.getpid(), signal.SIGKILL)

grade.append_jsonl, grade.FLUSH_VERDICTS = append, 5
main(["grade", *sys.argv[2:]])
"""


def grade_and_be_killed(verdicts: int, *arguments: str) -> None:
    command = [sys.executable, "-c", KILLED, str(verdicts), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, start_new_session=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes by signal")
def test_a_killed_run_continues_to_the_same_verdicts(tmp_path, undisturbed):
    folder = write_run(tmp_path / "run")
    grade_and_be_killed(60, str(folder))
    assert 60 <= len(verdicts(folder)) < len(undisturbed)
    grade_run(folder, num_workers=1, progress=False)
    assert verdicts(folder) == undisturbed


def peak_of_grading(folder: Path, samples: int) -> int:
    """Peak memory of Python objects, in bytes, while answers of 8 kB are read and graded."""
    folder.mkdir()
    rows = (
        {
            "problem_id": i,
            "gold": "7",
            "completions": [f"{'so ' * 2700}\\boxed{{{j % 9}}}" for j in range(100)],
        }
        for i in range(samples // 100)
    )
    with open(folder / "answers.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    tracemalloc.start()
    out = grade_answers(
        folder / "answers.jsonl", "math", folder / "out", num_workers=1, progress=False
    )
    outcomes = read_outcomes(out)["math"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcomes.statuses["pass"] == samples // 100 * 11
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_answers(tmp_path):
    few, many = (peak_of_grading(tmp_path / str(samples), samples) for samples in (1_000, 3_000))
    assert many - few < 1_500_000  # all completions together have 16 MB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills processes by signal")
def test_five_kills_at_random_moments_leave_the_numbers_as_they_are(tmp_path):
    """The command is run with --answers."""
    rows = [
        {
            "problem_id": i,
            "gold": f"{i}+\\sqrt{{2}}",
            "completions": [
                f"\\boxed{{\\frac{{{2 * i + j % 5}}}{{2}}+\\sqrt{{{2 + j % 3}}}}}"
                for j in range(NUM_SAMPLES)
            ],
        }
        for i in range(150)
    ]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "-m",
        "shaped_trl.cli",
        "grade",
        "--answers",
        str(answers),
        "--benchmark",
        "math",
    ]
    subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], check=True, cwd=ROOT, capture_output=True
    )
    out, met = tmp_path / "killed", []
    for more in random.Random(0).sample(range(1, 150 * NUM_SAMPLES // 5), 5):
        grade_and_be_killed(more, *command[4:], "--out", str(out))
        met.append((out / "verdicts.jsonl").read_bytes().count(b"\n"))
    assert met == sorted(set(met))
    subprocess.run([*command, "--out", str(out)], check=True, cwd=ROOT, capture_output=True)
    report_run(tmp_path / "whole")
    report_run(out)
    assert (out / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_a_folder_without_samples_and_foreign_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no problems\.jsonl: sample into it first"):
        grade_run(tmp_path)
    folder = write_run(tmp_path / "run")
    append_jsonl(folder / "samples.jsonl", [Sample("other/0", 0, "x")])
    with pytest.raises(UserError, match="'other/0', which is not in problems"):
        grade_run(folder, progress=False)


def test_an_unknown_grader_is_refused_before_anything_is_graded(tmp_path):
    folder = write_run(tmp_path / "run")
    append_jsonl(folder / "problems.jsonl", [Problem("toy/99", "toy", "?", "1", "oracle")])
    with pytest.raises(UserError, match="grader='oracle' does not exist"):
        grade_run(folder)
    assert not (folder / "verdicts.jsonl").exists()


def write_programs(folder: Path, record: dict | None) -> Path:
    folder.mkdir()
    append_jsonl(
        folder / "problems.jsonl", [Problem("own/0", "own", "?", "assert f() == 1", "code")]
    )
    append_jsonl(folder / "samples.jsonl", [Sample("own/0", 0, "def f(): return 1")])
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    return folder


@needs_sandbox
def test_run_json_names_what_confined_the_programs_of_the_run(tmp_path):
    """Beside what an earlier part of the run was confined by, and nothing else of it changes."""
    earlier = {
        "model": "m",
        "settings": {"n": 1},
        "confinement": ["seccomp, elsewhere"],
        "own": [1],
    }
    folder = grade_run(write_programs(tmp_path / "run", earlier), num_workers=1, progress=False)
    sandbox = Sandbox()
    sandbox.close()
    now = {**earlier, "confinement": ["seccomp, elsewhere", sandbox.confinement]}
    assert json.loads((folder / "run.json").read_text()) == now
    (folder / "verdicts.jsonl").unlink()
    grade_run(folder, num_workers=1, progress=False)
    assert json.loads((folder / "run.json").read_text()) == now
    assert f"seccomp, elsewhere; {sandbox.confinement}" in report_page(folder)
    folder = grade_run(write_programs(tmp_path / "bare", None), num_workers=1, progress=False)
    assert not (folder / "run.json").exists()


@needs_sandbox
def test_a_run_json_of_other_people_is_not_believed(tmp_path):
    folder = write_programs(tmp_path / "run", {"settings": {"n": 1}, "confinement": 5})
    with pytest.raises(UserError, match="confinement"):
        grade_run(folder, num_workers=1, progress=False)


def report_page(folder: Path) -> str:
    report_run(folder)
    return (folder / "report.md").read_text()


@needs_sandbox
def test_answers_that_are_graded_again_keep_what_confined_them(tmp_path):
    answers = tmp_path / "answers.jsonl"
    gold = "assert f() == 1"
    append_jsonl(answers, [{"problem_id": 0, "completions": ["def f(): return 1"], "gold": gold}])
    records = []
    for _ in range(2):
        out = grade_answers(
            answers, "math", tmp_path / "out", num_workers=1, progress=False, grader="code"
        )
        records.append(json.loads((out / "run.json").read_text()))
    assert records[0] == records[1]
    assert len(records[0]["confinement"]) == 1


@pytest.mark.parametrize(
    "option", [["--out", "elsewhere"], ["--benchmark", "gsm8k"], ["--hub_mirror", "hub"]]
)
def test_options_of_answers_from_elsewhere_are_refused_with_a_run(option, tmp_path, capsys):
    assert cli.main(["grade", str(tmp_path), *option]) == 2
    assert f"{option[0][2:]}={option[1]!r} goes with --answers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
