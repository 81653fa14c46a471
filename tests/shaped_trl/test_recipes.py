"""Recipes: every shipped one is parsed, overrides win, mistakes are one line."""

import os

import pytest
import torch
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from trl import ModelConfig

from shaped_trl import recipes
from shaped_trl.cli import main
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.options import eval_options, rlvr_options, train_options
from shaped_trl.rlvr import RLVRConfig
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import check_options, plan
from shaped_trl.training import ShapedConfig

TRAIN = [CorpusArguments, ShapedConfig, ModelConfig]


def option_classes(name: str) -> list[type]:
    return eval_options() if name.startswith("eval/") or name.endswith("/eval") else train_options()


# see test_rlvr_recipes
@pytest.mark.parametrize("name", [name for name in recipes.names() if "/rlvr" not in name])
def test_every_recipe_is_parsed(name, tmp_path):
    assert not recipes.contract(name).endswith(":")
    if name.startswith("studies/"):
        check_options(plan(load_study(name, tmp_path)))
        return
    given = ["--output_dir", str(tmp_path)]
    if SampleConfig in option_classes(name):
        given = ["--out", str(tmp_path), "--model", "some/model", "--benchmarks", "gsm8k"]
    elif recipes.load(recipes.find(name)).get("bf16") and not torch.accelerator.is_available():
        given += ["--bf16", "false"]  # transformers refuses it there
    _, settings = recipes.Parser("x", option_classes(name)).resolve(name, given)
    assert set(settings) >= set(recipes.load(recipes.find(name))) - {"shape"}


def resolve(tmp_path, text: str, *argv: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return recipes.Parser("train", TRAIN).resolve(str(path), argv)


def test_overrides_win_and_numbers_are_numbers(tmp_path):
    (corpus, args, _), settings = resolve(
        tmp_path,
        "output_dir: x\nlearning_rate: 3e-3\nmax_steps: 5\nbeta: 0.5",
        "--max_steps",
        "7",
        "--packing",
    )
    assert (args.learning_rate, args.max_steps, args.beta, args.packing) == (3e-3, 7, 0.5, True)
    assert settings["max_steps"] == 7
    assert corpus.dataset_train_split == "train"
    assert args.dataloader_drop_last == ShapedConfig("x").dataloader_drop_last


@pytest.mark.parametrize(
    ("recipe", "argv", "expected"),
    [
        ("dataset_test_split: test", ["--num_heldout", "5"], (None, 5)),
        ("num_heldout: 5", ["--dataset_test_split", "test"], ("test", None)),
        ("num_heldout: 5", ["--dataset_test_split", "test", "--num_heldout", "6"], ("test", 6)),
    ],
)
def test_what_is_held_out_by_the_command_line_is_not_the_recipes(tmp_path, recipe, argv, expected):
    (corpus, _, _), _ = resolve(tmp_path, f"output_dir: x\n{recipe}", *argv)
    assert (corpus.dataset_test_split, corpus.num_heldout) == expected


def test_a_plain_no_is_the_word_where_that_is_an_option(tmp_path):
    """YAML reads it as false."""
    (_, args, *_), settings = resolve(tmp_path, "save_strategy: no\neval_strategy: no\nbeta: 1")
    assert (args.save_strategy, args.eval_strategy, args.beta) == ("no", "no", 1)
    assert settings["save_strategy"] == "no"


def test_every_default_survives_parsing(tmp_path):
    """What nobody sets has the default of its class, flags that are on among them."""
    for option_class in (ShapedConfig, RLVRConfig, PromptArguments):
        (parsed,), _ = recipes.Parser("x", [option_class]).resolve(None, [])
        fresh = option_class()
        for name in vars(fresh):
            if not name.startswith("_") and name not in ("logging_dir", "run_name"):
                assert str(getattr(parsed, name)) == str(getattr(fresh, name)), name


@pytest.mark.parametrize(
    ("text", "argv", "beta", "lambda_tail"),
    [
        ("shape: precision", [], -0.25, 0.0),
        ("beta: 0.5\nlambda_tail: -0.3", ["--shape", "precision"], -0.25, 0.0),
        ("shape: precision\nlambda_tail: -0.3", [], -0.25, -0.3),
        ("shape: precision", ["--beta", "-0.5"], -0.5, 0.0),
        ("beta: 0.5", ["--shape", "tail_penalty", "--beta", "0.1"], 0.1, -0.1),
    ],
)
def test_shape_presets(tmp_path, text, argv, beta, lambda_tail):
    (_, args, _), _ = resolve(tmp_path, text, *argv)
    assert (args.beta, args.lambda_tail) == (beta, lambda_tail)


@pytest.mark.parametrize(
    ("text", "argv", "parts"),
    [
        ("lamda_tail: 1", [], ["lamda_tail", "lambda_tail"]),
        ("beta: 0", ["--lamda_tail", "1"], ["--lamda_tail", "--lambda_tail"]),
        ("beta: 0", ["--max_steps", "many"], ["max_steps", "many"]),
        ("beta: 0", ["--shape", "precise"], ["precise", "precision"]),
        ("beta: -2", [], ["beta", "-2"]),
        ("- a list", [], ["mapping"]),
        ("a: [1", [], ["YAML"]),
        ("beta: 0\nbeta: 1", [], ["beta", "twice"]),
        ("no: 5", [], ["False", "in quotes"]),
        ("2024-01-01: 5", [], ["2024", "in quotes"]),
        ("shape: [precision]", [], ["shape=", "name of a preset"]),
        ("dataset_config: no", [], ["dataset_config=False", "not a text", "in quotes"]),
        ("learning_rate: true", [], ["learning_rate=True", "not a number"]),
        ("max_steps: 10.5", [], ["max_steps=10.5", "not a whole number"]),
        ("max_steps: 2024-01-01", [], ["max_steps=", "not a whole number"]),
        ("model_name_or_path: [a, b]", [], ["model_name_or_path=['a', 'b'] is not a text"]),
        ("bf16: 2", [], ["bf16=2", "not true or false"]),
        ("env: PATH", [], ["env='PATH'", "mapping"]),
        ("env: {PYTHONPATH: /tmp}", [], ["'PYTHONPATH'", "in the shell"]),
        ("env: {SHAPED_TRL_ALLOW_WEAK_SANDBOX: 1}", [], ["cannot set", "WEAK_SANDBOX"]),
        ("env: {VLLM_ALLOW_LONG_MAX_MODEL_LEN: 1, HF_ENDPOINT: x}", [], ["'HF_ENDPOINT'"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, argv, parts):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, text, *argv)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_recipe_sets_the_variables_that_it_may_set_or_none(tmp_path, monkeypatch):
    (name,) = recipes.ENVIRONMENT
    monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match="HF_ENDPOINT"):
        resolve(tmp_path, f"env: {{{name}: 1, HF_ENDPOINT: x}}")
    assert os.environ[name] == "0"
    resolve(tmp_path, f"env: {{{name}: 1}}")
    assert os.environ[name] == "1"


def test_every_recipe_sets_only_variables_that_recipes_may_set():
    given = [recipes.load(recipes.find(name)).get("env", {}) for name in recipes.names()]
    assert {name for each in given for name in each} == set(recipes.ENVIRONMENT)


def test_a_preset_is_an_option_only_of_a_command_that_shapes(tmp_path):
    """GRPO has a `beta` too, the coefficient of its KL term, which no preset must set."""
    for options in (rlvr_options(), eval_options()):
        with pytest.raises(UserError, match="unknown flag: --shape"):
            recipes.Parser("x", options).settings(None, ["--shape", "precision"])


def test_copy_gives_an_editable_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "gsm8k/train"]) == 0
    assert recipes.load(tmp_path / "train.yaml")["dataset_name"] == "openai/gsm8k"
    assert main(["recipes", "copy", "gsm8k/train"]) == 2
    assert "exists" in capsys.readouterr().err


def test_list_names_each_contract(capsys):
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes.names())
    assert any(line.startswith("gsm8k/train ") and "GSM8K" in line for line in lines)
