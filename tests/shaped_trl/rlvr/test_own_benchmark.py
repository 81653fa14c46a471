"""`shaped-trl rlvr` on a benchmark of one's own, in a folder outside the package: what is trained
is what is evaluated."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from places import ROOT
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import tiny_model, tiny_tokenizer

from shaped_trl import cli
from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.data.prompts import Prompts, rl_prompts
from shaped_trl.hub.facts import prompt_facts
from shaped_trl.hub.private import public_recipe

# Loaders of data sets read such texts as numbers or dates, or fill in columns that rows lack.
GOLDS = ["w1", 7, "2024-05-01", "007", 2.50, ["w1", "w2"]]
DEFINITION = {
    "dataset_name": "rows.jsonl",
    "prompt_template": "Question: {question}\nAnswer:",
    "gold_template": "{answer}",
    "grader": "exact_match",
    "shots": 1,
    "shots_split": "shots.jsonl",
}


def write_rows(path: Path, golds: list) -> None:
    rows = [{"question": f"{path.stem} {i}", "answer": gold} for i, gold in enumerate(golds)]
    path.write_text("\n".join(map(json.dumps, rows)))


def write_definition(**changes) -> None:
    values = {**DEFINITION, **changes}
    values = {key: value for key, value in values.items() if value is not None}
    Path("mine.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.jsonl"), GOLDS)
    write_rows(Path("shots.jsonl"), ["w9"])
    write_rows(Path("other.jsonl"), ["w3", "w4"])
    write_definition()


def prompts(name: str = "./mine.yaml", **options) -> Prompts:
    return rl_prompts(PromptArguments(dataset_name=name, **options), seed=0)


def contents(row: dict) -> str:
    """The text of a prompt, or of its only message, which is the user's."""
    if isinstance(row["prompt"], str):
        return row["prompt"]
    (message,) = row["prompt"]
    assert message["role"] == "user"
    return message["content"]


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_golds_and_grader_are_the_evaluations(chat):
    if chat:
        write_definition(chat=True, shots=None, grader="math")
    found = prompts()
    problems = load_problems(["./mine.yaml"], chat=chat)
    assert len(problems) == len(GOLDS)
    assert [(contents(row), row["gold"]) for row in found.train] == [
        (problem.prompt, problem.gold) for problem in problems
    ]
    assert {problem.grader for problem in problems} == {found.grader}
    assert PromptArguments(dataset_name="./mine.yaml").chat is chat


def test_other_rows_are_read_in_the_same_way(caplog):
    with caplog.at_level(logging.WARNING):
        found = prompts(
            "other.jsonl", benchmark_format="./mine.yaml", dataset_test_split="rows.jsonl"
        )
    assert not caplog.records
    shot = "Question: shots 0\nAnswer: w9\n\n"
    assert found.train.to_list() == [
        {"prompt": f"{shot}Question: other 0\nAnswer:", "gold": "w3"},
        {"prompt": f"{shot}Question: other 1\nAnswer:", "gold": "w4"},
    ]
    assert (found.grader, len(found.heldout)) == ("exact_match", len(GOLDS))


def test_training_on_the_evaluated_rows_is_said_loudly(caplog):
    with caplog.at_level(logging.WARNING):
        prompts(dataset_test_split="other.jsonl")
    assert "SMOKE TEST ONLY" in caplog.text
    caplog.clear()
    prompts("rows.jsonl", benchmark_format="mine.yaml")
    assert "SMOKE TEST ONLY" in caplog.text


def test_the_train_split_of_a_data_set_on_the_hub(caplog):
    for split, golds in (("train", ["w1", "w2"]), ("test", ["w5"])):
        path = Path("mirror/me/data/default") / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, golds)
    write_definition(dataset_name="me/data", shots=None, shots_split=None)
    found = prompts(hub_mirror="mirror", dataset_test_split="test")
    assert not caplog.records
    assert (found.train["gold"][:], found.heldout["gold"][:]) == (["w1", "w2"], ["w5"])
    (problem,) = load_problems(["mine.yaml"], hub_mirror="mirror")
    assert problem.gold == "w5"
    prompts(hub_mirror="mirror", dataset_train_split="test")
    assert "SMOKE TEST ONLY" in caplog.text
    arguments = PromptArguments(dataset_name="mine.yaml", hub_mirror="mirror")
    (fact,) = prompt_facts(arguments, ask_hub=False)
    assert (fact.name, fact.on_hub, fact.split) == ("me/data", True, "train")


def test_a_model_card_names_the_file_of_rows():
    (fact,) = prompt_facts(PromptArguments(dataset_name="./mine.yaml"), ask_hub=True)
    assert (fact.name, fact.on_hub) == ("rows.jsonl", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grader": "math"}, r"grader='math' does not go with dataset_name='./mine.yaml'"),
        ({"prompt_template": "{a}"}, "prompt_template='{a}' does not go with dataset_name"),
        ({"benchmark_format": "gsm8k"}, "benchmark_format='gsm8k' does not go with dataset_name"),
        ({"name": "", "benchmark_format": "./mine.yaml"}, "needs a dataset_name"),
        ({"dataset_test_split": "test"}, "dataset_test_split='test': the local file 'rows.jsonl'"),
        ({"name": "gone.yaml"}, r"benchmark='gone.yaml': there is no such file"),
        ({"decontaminate": ["./mine.yaml"]}, r"decontaminate=\['./mine.yaml'\]"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        prompts(**options)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_from_outside_the_package():
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    write_definition(shots=None, shots_split=None)
    flags = {"model_name_or_path": "./model", "dataset_name": "./mine.yaml", "output_dir": "out"}
    flags |= {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
    flags |= {"gradient_accumulation_steps": 1, "steps_per_generation": 1, "max_steps": 1}
    flags |= {"max_sampling_rounds": 1, "logging_steps": 1, "audit_reward": "off"}
    flags |= dict.fromkeys(["bf16", "gradient_checkpointing"], "false")
    flags |= dict.fromkeys(["use_cpu", "disable_tqdm"], "true")
    argv = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert cli.main(["rlvr", *argv]) == 0
    (row,) = (row for row in read_jsonl("out/rl_log.jsonl") if "groups_sampled" in row)
    assert row["groups_sampled"] == 1
    assert "rows.jsonl" in Path("out/README.md").read_text()


def test_the_example_trains_on_what_it_evaluates():
    file = str(ROOT / "examples" / "own_benchmark.yaml")
    assert prompts(file).train["prompt"][:] == [one.prompt for one in load_problems([file])]


def test_a_published_recipe_names_the_files_without_their_folders(tmp_path):
    file = tmp_path / "mine.yaml"
    recipe = {"dataset_name": str(file), "eval_benchmarks": f"gsm8k,{file},./mine.yaml"}
    recipe |= {"prompt_template": "a, /b", "run_name": "one, two"}
    shown = yaml.safe_load(public_recipe(yaml.safe_dump(recipe)))
    expected = {"dataset_name": "mine.yaml", "eval_benchmarks": "gsm8k,mine.yaml,mine.yaml"}
    assert shown == {**recipe, **expected}
