"""LiveCodeBench with made-up rows in its columns: prompts, golds, dates and the model's cutoff."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest
from shaped_eval.benchmarks.livecodebench import METHOD, PROGRAM, ROLE
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.grading.code.cases import cases_of
from shaped_eval.grading.code.contest import grade
from shaped_eval.grading.sandbox.confine import missing_protections
from shaped_eval.report import report_run
from shaped_eval.sample import sample

from shaped_trl import cli


def as_text(kind, *pairs):
    return json.dumps([{"input": put, "output": out, "testtype": kind} for put, out in pairs])


def packed(text):
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def row(number, day, **changes):
    return {
        "question_title": "A",
        "question_content": f"Print {number} plus the number that is read: {{x}}.",
        "platform": "atcoder",
        "question_id": f"abc{number}_a",
        "contest_id": f"abc{number}",
        "contest_date": f"{day}T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": as_text("stdin", ("1\n", f"{number + 1}\n")),
        "private_test_cases": packed(as_text("stdin", ("2\n", f"{number + 2}\n"))),
        "metadata": "{}",
    } | changes


STARTER = "class Solution:\n    def addOne(self, x: int) -> int:\n        "
LEETCODE = {
    "platform": "leetcode",
    "question_id": "3",
    "starter_code": STARTER,
    "public_test_cases": as_text("functional", ("1", "2")),
    "private_test_cases": packed(as_text("functional", ("7", "8"))),
    "metadata": '{"func_name": "addOne"}',
}
ROWS = [
    row(10, "2025-01-04"),
    row(20, "2025-02-01"),
    row(30, "2025-03-31", **LEETCODE),
    row(40, "2024-12-31"),
]


@pytest.fixture
def contests(tmp_path):
    for config, rows in (("v6", ROWS), ("release_v6", [row(1, "2023-05-07"), *ROWS])):
        write(tmp_path, rows, config)
    return tmp_path


def write(mirror, rows, config="v6"):
    folder = mirror / "lighteval/code_generation_lite" / config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


def test_the_first_prompt_asks_for_a_program_and_a_later_one_for_a_method(contests):
    problems = load_problems(["livecodebench_v6"], hub_mirror=contests)
    first, method = problems[0], problems[2]
    assert first.prompt == (
        "### Question:\nPrint 10 plus the number that is read: {x}.\n\n"
        f"### Format: {PROGRAM}\n```python\n# YOUR CODE HERE\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    assert f"### Format: {METHOD}\n```python\n{STARTER}\n```\n\n### Answer:" in method.prompt
    assert (first.problem_id, first.grader) == ("livecodebench_v6/abc10_a", "contest")
    about = {"date": "2025-01-04", "platform": "atcoder", "difficulty": "easy", "row": 0}
    assert about.items() <= first.meta.items()
    (chat,) = load_problems(["livecodebench_v6"], hub_mirror=contests, limit=1, chat=True)
    assert chat.prompt == f"{ROLE}\n\n{first.prompt}"


@pytest.mark.skipif(bool(missing_protections()), reason="no sandbox")
def test_the_golds_are_those_of_the_rows_in_three_writings_of_a_right_program(contests):
    first, _, method, _ = load_problems(["livecodebench_v6"], hub_mirror=contests)
    gold = json.loads(first.gold)
    found = cases_of(gold["public"], gold["private"], False)
    assert [tuple(case) for case in found] == [("1\n", "11\n"), ("2\n", "12\n")]
    program = "print(10 + int(input()))"
    for text in (
        program,
        f"```python\n{program}\n```",
        f"<think>?</think>So:\n```\n{program}\n```",
    ):
        assert grade(text, first.gold)[0] == "pass"
    assert grade("print(11)", first.gold)[0] == "fail"
    code = f"{STARTER}return x + 1"
    for text in (code, f"```python\n{code}\n```", f"Thus\n\n```py\n{code}\n```\n"):
        assert grade(text, method.gold)[0] == "pass"


def test_a_window_of_dates_keeps_the_indices_of_the_rows(contests):
    def chosen(**options):
        found = load_problems(["livecodebench"], hub_mirror=contests, **options)
        return [(problem.meta["row"], problem.meta["date"]) for problem in found]

    assert len(chosen()) == 5
    assert chosen(since="2025-02-01") == [(2, "2025-02-01"), (3, "2025-03-31")]
    assert chosen(since="2025-02-01", limit=1) == [(2, "2025-02-01")]
    with pytest.raises(UserError, match="livecodebench has no problem of that day or later"):
        chosen(since="2026-01-01")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": "2025-2-1"}, "since='2025-2-1' is not a day: write it as 2025-01-31"),
        ({"since": "20250201"}, "since='20250201' is not a day"),
        ({"since": "2025-02-30"}, "is not a day"),
        ({"model_cutoff": "last year"}, "model_cutoff='last year' is not a day"),
        ({"since": "2025-02-01", "benchmarks": "gsm8k"}, "since='2025-02-01' has no meaning for gsm8k"),
    ],
)  # fmt: skip
def test_a_wrong_day_is_refused(make_config, contests, options, message):
    named = {"benchmarks": "livecodebench", "hub_mirror": str(contests), **options}
    with pytest.raises(UserError, match=message):
        make_config(**named)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"private_test_cases": packed("[]")[:-4]}, "private tests cannot be decoded"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"cos\nsystem\n.")).decode()}, "GLOBAL"),
        ({"metadata": '{"func_name": "f(); import os"}'}, "is not the name of a method"),
        ({"metadata": "[" * 100_000}, "row 0"),
        ({"contest_date": "soon"}, "row 0 cannot be read"),
        ({"question_content": None}, "row 0 cannot be read"),
    ],
)  # fmt: skip
def test_a_hostile_row_is_named_in_one_line(contests, changes, reason):
    write(contests, [row(10, "2025-01-04", **changes)])
    with pytest.raises(UserError, match=reason) as caught:
        load_problems(["livecodebench_v6"], hub_mirror=contests)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(bool(missing_protections()), reason="no sandbox")
def test_a_model_is_evaluated_and_warned_of_its_cutoff(make_config, contests):
    named = {"benchmarks": "livecodebench_v6", "hub_mirror": str(contests), "n": 2, "limit": 4}
    # the prompts are longer than the tiny model's context
    named |= {"since": "2024-12-31", "max_new_tokens": 4}
    folder = sample(make_config(**named), progress=False)
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 4 * 2
    grade_run(folder, num_workers=1)
    results = report_run(folder)
    assert results["livecodebench_v6"]["metrics"]["avg@2"]["value"] == 0
    note = "of 4 problems were published up to 2025-02-01"
    assert note not in (folder / "report.md").read_text()
    sample(make_config(**named, model_cutoff="2025-02-01"), progress=False)
    report_run(folder)
    text = (folder / "report.md").read_text()
    assert f"livecodebench\\_v6: 3 {note}" in text or f"livecodebench_v6: 3 {note}" in text
    assert "only problems from 2024-12-31 on are used" in text


def test_show_prints_the_first_problem_of_a_window(contests, capfd):
    argv = ["sample", "--show", "livecodebench_v6", "--hub_mirror", str(contests)]
    assert cli.main([*argv, "--since", "2025-02-01"]) == 0
    assert "Print 20 plus" in capfd.readouterr().out
