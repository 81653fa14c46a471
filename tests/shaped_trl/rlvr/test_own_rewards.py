"""Reward functions of the user's own, from a folder outside the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import tiny_model, tiny_tokenizer
from trl import ModelConfig

from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.options import rlvr_options
from shaped_trl.recipes import Parser
from shaped_trl.rlvr import RLVRConfig
from shaped_trl.rlvr.checks import check_weights_of_rewards
from shaped_trl.rlvr.lengths import LengthSchedule
from shaped_trl.rlvr.rewards import RewardArguments, check_rewards, own_reward, reward_functions
from shaped_trl.rlvr.run import audit_only

CODE = """
def even_length(completions, **kwargs):
    return [float(len(text.split()) % 2 == 0) for text in completions]

def brevity(completions, **kwargs):
    return [-float(len(text.split())) for text in completions]

class Reward:
    pass

number = 5
"""
RECIPE = """
model_name_or_path: ./model
dataset_name: prompts.jsonl
output_dir: out
reward_funcs: [own_rewards.even_length, own_rewards.brevity]
reward_weights: [1.0, 0.1]
per_device_train_batch_size: 8
num_generations: 4
max_completion_length: 6
max_steps: 1
logging_steps: 1
save_strategy: "no"
gradient_checkpointing: false
use_cpu: true
bf16: false
disable_tqdm: true
report_to: none
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("own_rewards", None)


@pytest.mark.slow
def test_a_recipe_trains_with_them(folder):
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    rows = [{"prompt": f"w{i} w{i + 1}", "gold": str(i)} for i in range(8)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(RECIPE)
    # -P: without it, Python itself would find modules in the current folder
    command = [sys.executable, "-P", "-m", "shaped_trl.cli", "rlvr", "--config", "recipe.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "graded by" not in done.stdout  # no grader is at work
    rows = [row for row in read_jsonl(folder / "out" / "rl_log.jsonl") if "reward" in row]
    assert 0 <= rows[0]["raw_reward"] <= 1
    mean = rows[0]["rewards/even_length/mean"] + 0.1 * rows[0]["rewards/brevity/mean"]
    assert rows[0]["reward"] == pytest.approx(mean, abs=1e-5)
    assert rows[0]["rewards/brevity/mean"] < 0


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("own_rewards.odd_length", "own_rewards.py does not define 'odd_length'"),
        ("own_rewards.number", "is of type int"),
        ("own_rewards.Reward", "is a class: name a function, or an instance of it"),
        ("own_rewards.even.length", "there is no module 'own_rewards.even'"),
        ("elsewhere.even_length", "there is no module 'elsewhere'"),
        ("acuracy", "'acuracy' is unknown: use accuracy, format, overlong, or the path"),
    ],
)
def test_a_wrong_path_is_named_before_data_or_model(folder, path, reason):
    with pytest.raises(UserError, match="reward_funcs") as error:
        check_rewards(RewardArguments(reward_funcs=["accuracy", path]), LengthSchedule.constant(8))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_they_stand_beside_the_built_in_ones_in_the_order_given(folder):
    arguments = RewardArguments(
        reward_funcs=["own_rewards.brevity", "accuracy", "format"], format_pattern="a+"
    )
    check_rewards(arguments, LengthSchedule.constant(8))
    functions = reward_functions(arguments, "text", LengthSchedule.constant(8))
    assert [each.__name__ for each in functions] == ["brevity", "accuracy", "format"]
    assert functions[0] is own_reward("own_rewards:brevity")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reward_funcs": ["accuracy", "format"]}, "format needs format_pattern"),
        ({"reward_funcs": ["accuracy"], "format_pattern": "a"}, "format_pattern='a' is not used"),
        ({"reward_funcs": ["overlong"]}, "overlong needs overlong_buffer"),
        ({"reward_funcs": []}, r"reward_funcs=\[\] has no reward"),
        ({"overlong_buffer": 8}, "must be below the length limit of a completion, which is 8"),
    ],
)
def test_options_that_do_not_fit_the_rewards_are_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        check_rewards(RewardArguments(**options), LengthSchedule.constant(8))


def test_a_weight_for_each(tmp_path):
    args = RLVRConfig(str(tmp_path), use_cpu=True, reward_weights=[1.0])
    check_weights_of_rewards(args, ["a.b"])
    with pytest.raises(UserError, match=r"reward_weights=\[1.0\] .* each of a.b, accuracy"):
        check_weights_of_rewards(args, ["a.b", "accuracy"])


def test_a_single_name_in_a_recipe_and_several_on_the_command_line(folder):
    Path("one.yaml").write_text("reward_funcs: accuracy\noutput_dir: out\n")
    parser = Parser("rlvr", rlvr_options())
    assert parser.resolve("one.yaml", [])[0][3].names() == ["accuracy"]
    argv = ["--reward_funcs", "accuracy", "own_rewards.brevity"]
    assert parser.resolve("one.yaml", argv)[0][3].names() == argv[1:]


def test_the_audit_alone_needs_the_accuracy_of_a_grader(folder, tmp_path):
    args = RLVRConfig(str(tmp_path), use_cpu=True, audit_reward="only")
    rewards = RewardArguments(reward_funcs=["own_rewards.brevity"])
    prompts = PromptArguments(dataset_name="prompts.jsonl")
    with pytest.raises(UserError, match=r"reward_funcs begins with 'own_rewards\.brevity'"):
        audit_only(prompts, args, ModelConfig(), rewards)
