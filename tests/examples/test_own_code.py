"""The examples of one's own reward, grader and backend, from a folder outside the package."""

import json
import re
import shutil
import sys

import pytest
from places import ROOT
from shaped_eval.grading import graders
from shaped_eval.records import Sample, Verdict, read_jsonl
from shaped_eval.untrusted.own_code import load_own

from shaped_trl import cli
from shaped_trl.rlvr.rewards import RewardArguments, reward_functions

NAMES = ("own_reward", "own_grader", "own_backend")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with copies of the examples."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(graders, "_TYPED", {})
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path)
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)


def test_the_rewards(folder):
    arguments = RewardArguments(reward_funcs=["own_reward.last_number", "own_reward.brevity"])
    last_number, brevity = reward_functions(arguments, "math", len)
    completions = ["6 and 7 make 13", "13 is not 12", "I do not know"]
    assert last_number(completions=completions, gold=["13.0", "13", "13"]) == [1.0, 0.0, 0.0]
    assert brevity(completions=["", "a " * 50, "a " * 500]) == [0.0, -0.5, -1.0]


def test_the_grader(folder, capsys):
    texts = ["about 101", "It is 7.", "no idea"]
    row = {"problem_id": "a", "completions": texts, "gold": "100.5"}
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    options = ["--answers", "answers.jsonl", "--benchmark", "math", "--out", "run"]
    assert cli.main(["grade", *options, "--grader", "own_grader:grade"]) == 0
    found = {one.sample_index: one for one in read_jsonl(folder / "run/verdicts.jsonl", Verdict)}
    expected = [("pass", "100.5"), ("fail", "7"), ("unparsed", None)]
    assert [(found[i].status, found[i].answer) for i in range(3)] == expected
    graders._TYPED.clear()  # as in another process
    assert cli.main(["grade", "run"]) == 2
    assert "--grader own_grader:grade" in capsys.readouterr().err


def test_the_backend(folder):
    options = ["--model", "guesses", "--benchmarks", "running_sums", "--n", "3", "--limit", "2"]
    argv = ["sample", "--backend", "own_backend:Guesses", *options, "--out"]
    assert cli.main([*argv, "run"]) == cli.main([*argv, "again"]) == 0
    rows = list(read_jsonl(folder / "run" / "samples.jsonl", Sample))
    assert len(rows) == 6
    assert rows == list(read_jsonl(folder / "again" / "samples.jsonl", Sample))
    assert len({row.completion for row in rows}) > 1
    assert load_own("backend", "own_backend:Guesses").device == "cpu"


def test_the_book_shows_the_examples(folder):
    """The blocks of docs/guides/own-*.md are the examples without their annotations."""
    pages = [ROOT / f"docs/guides/{name.replace('_', '-')}.md" for name in NAMES]
    text = "".join(page.read_text() for page in pages)
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == list(NAMES)
    for name, block in blocks:
        (folder / f"{name}.py").write_text(block)
    test_the_rewards(folder)
    for name in NAMES[1:]:
        load_own("option", f"{name}:{'grade' if name == 'own_grader' else 'Guesses'}")
    assert load_own("grader", "own_grader:grade")("about 101", "100.5") == ("pass", "100.5")
