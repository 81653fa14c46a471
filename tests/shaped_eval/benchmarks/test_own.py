"""Benchmarks of one's own: a file in place of a name, in a folder outside the package."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from places import ROOT
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.own import chat_of
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, read_jsonl
from shaped_eval.reporting.outcomes import read_record

from shaped_trl import cli

QUESTION = "Question: {question}\nAnswer:"
ROWS = [{"question": f"w{i} w{i + 1}", "answer": {"value": f"w{i}"}} for i in range(3)]
DEFINITION = {
    "dataset_name": "rows.jsonl",
    "prompt_template": QUESTION,
    "gold_template": "{answer[value]}",
    "grader": "exact_match",
    "stop": ["\nQuestion:"],
}


def write_rows(path: str, rows: list[dict]) -> None:
    """Without a newline at the end, as many editors leave a file."""
    Path(path).write_text("\n".join(map(json.dumps, rows)))


def write_definition(path: str = "mine.yaml", **changes) -> str:
    values = {**DEFINITION, **changes}
    values = {key: value for key, value in values.items() if value is not None}
    Path(path).write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.jsonl", ROWS)
    write_rows("shots.jsonl", [{"question": "two", "answer": {"value": 2}, "worked": "1 + 1 = 2"}])


def test_a_yaml_file_is_a_benchmark():
    problems = load_problems([write_definition()])
    assert problems == [
        Problem(
            f"mine/{i}",
            "mine",
            f"Question: w{i} w{i + 1}\nAnswer:",
            f"w{i}",
            "exact_match",
            {"row": i, "stop": ["\nQuestion:"]},
        )
        for i in range(3)
    ]
    assert load_problems(["./mine.yaml"], limit=2) == problems[:2]
    (chat, *_) = load_problems(["mine.yaml"], chat=True)
    assert (chat.prompt, chat.meta["stop"]) == (problems[0].prompt, [])


def test_a_file_of_rows_is_a_benchmark():
    chat = [{"role": "user", "content": "say 3"}]
    rows = [
        {"prompt": "1 + 1 =", "gold": 2},
        {"prompt": chat, "gold": r"Since 1 + 2 is 3, it is $\boxed{3}$."},
    ]
    write_rows("sums.jsonl", rows)
    found = load_problems(["./sums.jsonl"])
    assert [(one.prompt, one.gold) for one in found] == [("1 + 1 =", "2"), ("say 3", "3")]
    assert {(one.benchmark, one.grader) for one in found} == {("sums", "math")}
    assert load_problems(["./sums.jsonl"], chat=True)[1].prompt == "say 3"
    write_rows(
        "sums.jsonl", [{"prompt": [*chat, {"role": "assistant", "content": "4"}], "gold": 3}]
    )
    assert load_problems(["sums.jsonl"])[0].prompt == "say 3\n\n4"
    with pytest.raises(UserError, match="sums, row 0: the prompt has 2 messages"):
        load_problems(["sums.jsonl"], chat=True)


def test_worked_examples_come_from_another_file_or_split(mirror):
    shots = {"shots": 1, "shots_split": "shots.jsonl"}
    write_definition(**shots, solution_template="{worked}")
    (first, *_) = load_problems(["mine.yaml"])
    assert first.prompt == "Question: two\nAnswer: 1 + 1 = 2\n\nQuestion: w0 w1\nAnswer:"
    assert first.meta["shots_source"] == "shots.jsonl, first rows"
    assert load_problems(["mine.yaml"], shots=0)[0].prompt == "Question: w0 w1\nAnswer:"
    write_definition(**shots, prompt_template="{question} = ")
    assert load_problems(["mine.yaml"])[0].prompt == "two = 2\n\nw0 w1 = "
    write_definition(**shots, solution_template="{work}")
    with pytest.raises(UserError, match=r"'shots.jsonl': solution_template=.* names \['work'\]"):
        load_problems(["mine.yaml"])
    write_definition(**shots)
    with pytest.raises(UserError, match="shots=2, but mine has 1 worked examples"):
        load_problems(["mine.yaml"], shots=2)
    hub = {"dataset_name": "openai/gsm8k", "dataset_config": "main", "gold_template": "{answer}"}
    write_definition(**hub, shots=1, shots_split="train", grader="math")
    (first, *_) = load_problems(["mine.yaml"], hub_mirror=mirror)
    assert first.prompt == "Question: w0 w1\nAnswer: w0\n#### 0\n\nQuestion: w0 w1\nAnswer:"
    assert first.meta["shots_source"] == "openai/gsm8k, config main, split train, first rows"


def test_files_and_names_go_together(mirror):
    config = SampleConfig(
        model="m", benchmarks=f"gsm8k,./{write_definition()}", hub_mirror=str(mirror)
    )
    found = load_problems(config.benchmark_names, hub_mirror=mirror, shots=1)
    assert list(dict.fromkeys(problem.benchmark for problem in found)) == ["gsm8k", "mine"]
    assert found[0].meta["shots"] == 1
    assert "shots" not in found[-1].meta


def test_a_file_may_ask_in_chats():
    chat, text, either = (write_definition(f"{name}.yaml", chat=value) for name, value in
                          (("chat", True), ("text", False), ("either", None)))  # fmt: skip
    assert SampleConfig(model="m", benchmarks=chat).chat_template
    assert not SampleConfig(model="m", benchmarks=f"{text},{either}").chat_template
    assert SampleConfig(
        model="m", benchmarks=f"{chat},{either},gsm8k", chat_template=True
    ).chat_template
    for names, told in [([chat, either], False), ([text], True), ([chat, "gsm8k"], False)]:
        with pytest.raises(UserError, match=f"says chat: .* chat_template={told}"):
            chat_of(names, told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promt_template": "a"}, "has an unknown field 'promt_template'; the keys are"),
        ({"dataset_name": None}, "it has no dataset_name; the keys are dataset_name, dataset_c"),
        ({"dataset_name": ""}, "dataset_name is empty"),
        ({"dataset_name": "gone.jsonl"}, "rows 'gone.jsonl' cannot be read: No such file"),
        ({"dataset_name": "rows.csv"}, "'rows.csv': a file of rows must be a .jsonl file"),
        ({"dataset_name": "empty.jsonl"}, "rows 'empty.jsonl': the file has no rows"),
        ({"dataset_name": "broken.jsonl"}, "rows 'broken.jsonl', line 2: not a JSON object"),
        ({"dataset_name": "bare.jsonl"}, r"'bare.jsonl': prompt_template=.* names \['question'\]"),
        ({"prompt_template": "{question"}, "prompt_template='{question' is malformed"),
        ({"prompt_template": "{qestion}"}, r"names \['qestion'\], but the data has the columns"),
        ({"prompt_template": None}, r"\['prompt'\]: build them with prompt_template"),
        ({"gold_template": "{answer[values]}"}, r"row 0: gold_template=.* \(KeyError\('values'\)"),
        ({"gold_template": 3}, "gold_template=3 must be a text, or null"),
        ({"grader": "maths"}, "grader='maths' does not exist"),
        ({"stop": "Question"}, "stop='Question' must be a list of texts"),
        ({"stop": [""]}, "stop holds an empty text"),
        ({"shots": -1}, "shots=-1 must be a whole number"),
        ({"shots": 1}, "shots=1 needs shots_split"),
        ({"shots": 1, "shots_split": "train"}, "'rows.jsonl' has no splits: name another"),
        ({"shots_split": "rows.jsonl"}, "shots_split='rows.jsonl' is what is evaluated"),
        ({"shots": 1, "shots_split": "shots.jsonl", "chat": True}, "does not go with chat=True"),
        ({"chat": "yes please"}, "chat='yes please' must be true or false, or null"),
        ({"split": "test"}, "split='test' does not go with the file 'rows.jsonl'"),
    ],
    ids=str,
)
def test_a_mistake_in_a_file_is_one_line(changes, message, capfd):
    Path("empty.jsonl").touch()
    Path("broken.jsonl").write_text('{"question": "a", "answer": {"value": 1}}\n[1]\n')
    Path("bare.jsonl").write_text('{"prompt": "a", "gold": 1}\n')
    file = write_definition(**changes)
    with pytest.raises(UserError, match=message) as error:
        load_problems([f"./{file}"])
    assert "\n" not in str(error.value)
    assert cli.main(["sample", "--model", "nowhere", "--benchmarks", file, "--out", "run"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not Path("run").exists()


def test_a_mistaken_file_is_one_line(mirror):
    for name, text, message in [
        ("a.yaml", "a: [", "benchmark='a.yaml' is not YAML"),
        ("b.yaml", "- a", "benchmark='b.yaml' must be a mapping"),
        ("c.yaml", "grader: math\ngrader: text", "'grader' is given twice"),
        ("gsm8k.yaml", "dataset_name: a", "has the name of the shipped benchmark 'gsm8k'"),
        ("my own.yaml", "dataset_name: a", "rename the file"),
        ("plain.jsonl", '{"question": "a", "gold": 1}', r"not \['prompt'\]: .* prompt_template"),
        ("none.jsonl", '{"prompt": "a", "gold": null}', "row 0 has no gold answer"),
        ("odd.jsonl", '{"prompt": [{"role": "user"}], "gold": 1}', "neither a text nor a list"),
    ]:
        Path(name).write_text(text)
        with pytest.raises(UserError, match=message) as error:
            load_problems([name])
        assert "\n" not in str(error.value)
    Path("twice").mkdir()
    with pytest.raises(UserError, match="'mine' is named more than once"):
        load_problems([write_definition(), write_definition("twice/mine.yaml")])
    with pytest.raises(UserError, match=r"benchmark='gone\.yaml': there is no such file"):
        SampleConfig(model="m", benchmarks="gone.yaml")


def sampled(model_folder: Path, out: str = "run", **options) -> list[str]:
    given = {"model": model_folder, "benchmarks": "./mine.yaml", "out": out, "n": 4}
    given |= {"max_new_tokens": 3, "temperature": 1.0, **options}
    return ["sample", *(part for key, value in given.items() for part in (f"--{key}", str(value)))]


def test_a_run_is_sampled_continued_graded_and_reported_without_the_file(model_folder, capsys):
    assert cli.main(sampled(model_folder, "other")) == 2  # there is no such file
    write_definition()
    assert cli.main(sampled(model_folder)) == 0
    assert read_record("run")["benchmarks"] == ["mine"]
    rows = Path("run/samples.jsonl").read_text()
    Path("mine.yaml").unlink()
    Path("rows.jsonl").unlink()
    Path("run/samples.jsonl").write_text(rows[: len(rows) // 2])
    assert cli.main(sampled(model_folder)) == 0
    assert Path("run/samples.jsonl").read_text() == rows
    assert cli.main(sampled(model_folder, seed=1)) == 2
    assert cli.main(["grade", "run"]) == 0
    golds = {
        problem.problem_id: problem.gold for problem in read_jsonl("run/problems.jsonl", Problem)
    }
    completions = {
        (row["problem_id"], row["sample_index"]): row["completion"].strip()
        for row in read_jsonl("run/samples.jsonl")
    }
    verdicts = list(read_jsonl("run/verdicts.jsonl"))
    assert len(verdicts) == 12
    for row in verdicts:
        answer = completions[row["problem_id"], row["sample_index"]].rpartition("Answer: ")[2]
        assert (row["status"] == "pass") == (answer == golds[row["problem_id"]])
    assert cli.main(["report", "run"]) == 0
    assert "mine" in json.loads(Path("run/results.json").read_text())


def test_answers_from_elsewhere_are_graded(capsys):
    write_definition()
    write_rows("answers.jsonl", [{"problem_id": i, "completions": ["w0"]} for i in range(3)])
    argv = ["grade", "--answers", "answers.jsonl", "--benchmark", "./mine.yaml", "--out", "run"]
    assert cli.main(argv) == 0
    statuses = [row["status"] for row in read_jsonl("run/verdicts.jsonl")]
    assert statuses == ["pass", "fail", "fail"]
    assert read_record("run")["benchmarks"] == ["mine"]


def test_a_run_of_others_makes_no_code_load(model_folder, capfd):
    """A grader's module is named by what the user typed, never by a run's folder."""
    write_definition()
    assert cli.main(sampled(model_folder)) == 0
    Path("evil_grader.py").write_text("raise SystemExit('it ran')\n")
    problems = Path("run/problems.jsonl")
    problems.write_text(problems.read_text().replace('"exact_match"', '"evil_grader:grade"'))
    capfd.readouterr()
    for argv in (["grade", "run"], ["eval", *sampled(model_folder, seed=0)[1:]]):
        Path("mine.yaml").unlink(missing_ok=True)
        assert cli.main(argv) == 2
        said = capfd.readouterr().err.strip().splitlines()
        assert len(said) == 1
    assert "evil_grader" not in sys.modules


@pytest.mark.parametrize(
    "place", ["docs/guides/own-benchmark.md", "eval_suite/shaped_eval/benchmarks/own.py"]
)
def test_the_keys_are_documented(place):
    """The longest block of YAML in the text names all keys and no other."""
    blocks = re.findall(r"(?m)(?:^(?: {4})?[a-z_]+: .*\n)+", (ROOT / place).read_text())
    documented = yaml.safe_load(max(blocks, key=len))
    with pytest.raises(UserError, match="the keys are ") as error:
        load_problems([write_definition(unknown=1)])
    keys = str(error.value).partition("the keys are ")[2].split(", ")
    assert sorted(documented) == sorted(keys)
