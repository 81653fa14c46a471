"""A grader of the user's own runs in a worker, and only if the user himself named it."""

import json
import sys
from importlib import metadata

import pytest
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_answers, grade_run
from shaped_eval.grading import Grade, GradeRequest, GraderPool, grader_spec, graders
from shaped_eval.records import Verdict, read_jsonl
from shaped_eval.report import report

CODE = """
import os

def same(completion, gold):
    return ("pass" if completion == gold else "fail"), completion

def raises(completion, gold):
    raise RuntimeError("no\\nanswer")

def wrong_status(completion, gold):
    return "right", completion

def wrong_answer(completion, gold):
    return "pass", 5

def wrong_reason(completion, gold):
    return "fail", completion, ["no", "text"]

def wrong_confinement(completion, gold):
    return "fail", completion, None, {}

def dies(completion, gold):
    os._exit(1)

class Longest:
    def __init__(self):
        self.most = 3

    def __call__(self, completion, gold):
        return ("pass" if len(completion) <= self.most else "fail"), str(len(completion))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the user's `own_graders.py`; all is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(graders, "_TYPED", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_graders.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("own_graders", None)


def typed(name: str) -> str:
    grader_spec(f"own_graders:{name}", typed=True)
    return f"own_graders:{name}"


def test_it_grades_in_a_worker(folder):
    same, longest, dies = typed("same"), typed("Longest"), typed("dies")
    with GraderPool(1) as pool:
        grades = pool.grade(
            [
                GradeRequest(same, "5", "5"),
                GradeRequest(same, "6", "5"),
                GradeRequest(longest, "1234", ""),
                GradeRequest(dies, "5", "5"),
                GradeRequest(same, "7", "7"),
            ]
        )
    assert [grade[:2] for grade in grades] == [
        ("pass", "5"),
        ("fail", "6"),
        ("fail", "4"),
        ("error", None),
        ("pass", "7"),
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "RuntimeError: no answer"),
        ("wrong_status", "ValueError: status='right' is not one of pass, fail"),
        ("wrong_answer", "TypeError: answer=5 is not a text or None"),
        ("wrong_reason", "TypeError: reason=['no', 'text'] is not a text or None"),
        ("wrong_confinement", "TypeError: confinement={} is not a text or None"),
    ],
)
def test_its_faults_are_errors_of_the_item(folder, name, reason):
    with GraderPool(1) as pool:
        (grade,) = pool.grade([GradeRequest(typed(name), "5", "5")])
    assert grade.status == "error"
    assert grade.reason.startswith(f"grader own_graders:{name} raised {reason}")


def test_a_pool_that_is_at_work_takes_a_grader_named_later(folder):
    with GraderPool(1) as pool:
        assert pool.grade([GradeRequest("math", r"\boxed{5}", "5")])[0].status == "pass"
        assert pool.grade([GradeRequest(typed("same"), "5", "5")]) == [Grade("pass", "5")]


def test_its_version_follows_its_file(folder):
    first = grader_spec(typed("same")).version
    assert first.startswith("own_graders:same/")
    graders._TYPED.clear()
    (folder / "own_graders.py").write_text(CODE + "# changed\n")
    assert grader_spec(typed("same")).version != first


def answered(folder) -> str:
    """A run's folder of two answers, graded by `same`."""
    rows = [{"problem_id": "a", "completions": ["5", "6"], "gold": "5"}]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_answers("answers.jsonl", "text", "run", grader="own_graders:same", progress=False)
    return "run"


def test_answers_are_graded_by_it_and_reported(folder):
    run = answered(folder)
    verdicts = list(read_jsonl(folder / run / "verdicts.jsonl", Verdict))
    assert {one.sample_index: one.status for one in verdicts} == {0: "pass", 1: "fail"}
    graders._TYPED.clear()  # a report does not load it
    report([folder / run], None)
    assert "another version" not in (folder / run / "report.md").read_text()


def test_a_foreign_run_that_names_it_is_refused_and_its_module_stays_unread(folder):
    run = answered(folder)
    graders._TYPED.clear()
    sys.modules.pop("own_graders")
    (folder / run / "verdicts.jsonl").unlink()
    with pytest.raises(UserError, match=r"runs only if you name it.* --grader own_graders:same$"):
        grade_run(run, progress=False)
    assert "own_graders" not in sys.modules
    assert not (folder / run / "verdicts.jsonl").exists()
    grade_run(run, progress=False, graders=["own_graders:same"])
    assert len((folder / run / "verdicts.jsonl").read_text().splitlines()) == 2


def test_naming_one_grader_does_not_let_another_in(folder):
    run = answered(folder)
    graders._TYPED.clear()
    (folder / run / "verdicts.jsonl").unlink()
    with pytest.raises(UserError, match="--grader own_graders:same"):
        grade_run(run, progress=False, graders=["own_graders:raises"])


def test_a_grader_that_no_problem_names_is_refused(folder):
    (folder / "answers.jsonl").write_text(
        json.dumps({"problem_id": "a", "completions": ["5"], "gold": "5"}) + "\n"
    )
    grade_answers("answers.jsonl", "text", "run", progress=False)
    with pytest.raises(UserError, match="no problem of 'run' names it"):
        grade_run("run", progress=False, graders=["own_graders:same"])


def test_the_first_error_is_shown(folder, capsys):
    rows = [{"problem_id": "a", "completions": ["5", "6", "7"], "gold": "5"}]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_answers("answers.jsonl", "text", "run", grader="own_graders:raises", progress=False)
    assert capsys.readouterr().err == ("grader own_graders:raises raised RuntimeError: no answer\n")


def test_an_installed_package_may_offer_one(folder, monkeypatch):
    point = metadata.EntryPoint("sameness", "own_graders:same", graders.ENTRY_POINTS)
    monkeypatch.setattr(graders, "installed", lambda group: {"sameness": point})
    spec = grader_spec("sameness")
    assert (spec.function, spec.isolated) == ("own_graders:same", True)
    assert spec.version.startswith("sameness/")
    assert graders.is_current(spec.version)
    with pytest.raises(UserError, match="running_sums, sameness, text"):
        grader_spec("sameness_of_old")
