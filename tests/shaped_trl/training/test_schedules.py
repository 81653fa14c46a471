"""Schedules of the reward shape."""

import json
import math

import pytest
import torch
from scheduled_tiny import arguments, log, trainer
from shaped_kernels import METRICS, RewardShape
from shaped_kernels.shape import LossOptions
from shaped_kernels.triton_rows import plan
from tiny import text_rows, tiny_model, tiny_tokenizer
from train_tiny import run
from transformers import TrainerCallback

from shaped_trl import cli
from shaped_trl.training import ShapedTrainer
from shaped_trl.training.schedules import ShapeSchedule

RAMP = {"beta": {"kind": "linear", "start": 0.0, "end": -0.25, "from_step": 2, "to_step": 7}}
RAMP_BETAS = pytest.approx([0, 0, -0.05, -0.1, -0.15, -0.2, -0.25, -0.25], abs=1e-15)


def same_parameters(a, b):
    return all(
        torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ({"kind": "constant", "value": -0.5}, {0: -0.5, 1: -0.5, 100: -0.5}),
        (RAMP["beta"], {0: 0, 2: 0, 3: -0.05, 7: -0.25, 100: -0.25}),
        ({"kind": "linear", "start": 1, "end": 3}, {0: 1, 25: 1.5, 100: 3}),
        ({"kind": "linear", "start": 1, "end": 3, "from_step": 0.5}, {50: 1, 75: 2, 100: 3}),
        # begins after the end of training
        ({"kind": "linear", "start": 1, "end": 3, "from_step": 500}, {0: 1, 100: 1}),
        (
            {"kind": "cosine", "start": 1, "end": 3, "from_step": 10, "to_step": 50},
            {10: 1, 20: 2 - math.sqrt(0.5), 30: 2, 40: 2 + math.sqrt(0.5), 50: 3, 60: 3},
        ),
        (
            {"kind": "piecewise", "points": [[10, 1], [20, 2], [21, 0], [31, -0.5]]},
            {0: 1, 10: 1, 15: 1.5, 20: 2, 21: 0, 26: -0.25, 31: -0.5, 100: -0.5},
        ),
        (
            {"kind": "piecewise", "points": [[0, 0], [0.5, 0], [1.0, 1]]},
            {0: 0, 50: 0, 75: 0.5, 100: 1},
        ),
    ],
)
@pytest.mark.parametrize("name", ["beta", "lambda_head", "lambda_tail"])
def test_values_at_steps_of_100(name, entry, values):
    base = RewardShape(top_k=7)
    schedule = ShapeSchedule.parse({name: entry}, base)
    for step, value in values.items():
        shape = schedule.at(step, max_steps=100)
        assert getattr(shape, name) == pytest.approx(value, abs=1e-12)
        others = {"beta", "lambda_head", "lambda_tail", "top_k"} - {name}
        assert all(getattr(shape, other) == getattr(base, other) for other in others)


class Kill(TrainerCallback):
    def on_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 4:  # the fifth update, after the checkpoint of step 3
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_killed_run_continues_the_schedule(tmp_path):
    settings = {
        "shape_schedule": RAMP | {"lambda_tail": {"kind": "cosine", "start": 0.1, "end": -0.1}},
        "top_k": 5,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    whole = trainer(arguments(tmp_path / "whole", **settings))
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(arguments(tmp_path / "part", **settings), [Kill()]).train()
    part = trainer(arguments(tmp_path / "part", **settings))
    part.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-3"))
    assert same_parameters(part, whole)
    names = ("step", "beta", "lambda_tail", "loss", "entropy", "learning_rate", "eval_loss")
    rows = log(tmp_path / "whole", *names)
    assert log(tmp_path / "part", *names) == rows
    assert [row[1] for row in rows if row[1] is not None] == RAMP_BETAS
    assert rows[-2][2] == -0.1
    assert log(tmp_path / "whole", "lambda_head") == [(None,)] * len(rows)
    for folder in ("whole", "part"):
        assert (tmp_path / folder / "train_log.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_micro_batch_of_a_step_has_its_shape(tmp_path):
    betas = []

    class Recorder(ShapedTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            betas.append((self.model.training, self.head.shape.beta))
            return loss

    args = arguments(
        tmp_path,
        shape_schedule=RAMP,
        gradient_accumulation_steps=3,
        eval_strategy="steps",
        eval_steps=4,
    )
    one = Recorder(
        tiny_model(),
        args,
        train_dataset=text_rows(96),
        eval_dataset=text_rows(3),
        processing_class=tiny_tokenizer(),
    )
    one.train()
    trained = [beta for training, beta in betas if training]
    assert [trained[i : i + 3] for i in range(0, 24, 3)] == [[beta] * 3 for beta in trained[::3]]
    assert trained[::3] == RAMP_BETAS
    assert [beta for training, beta in betas if not training] == pytest.approx([-0.1, -0.25])


@pytest.mark.slow
def test_accumulation_gives_the_parameters_of_one_batch():
    settings = {
        "beta": 0.0,
        "shape_schedule": {"beta": {"kind": "linear", "start": -0.5, "end": 0.5}},
    }
    whole, losses = run(8, 1, "float64", "adamw_torch", **settings)
    parts, other_losses = run(2, 4, "float64", "adamw_torch", **settings)
    assert max((parts[name] - whole[name]).abs().max().item() for name in whole) < 1e-10
    assert other_losses == pytest.approx(losses, abs=1e-6)


def test_a_schedule_compiles_one_triton_kernel():
    """All values of the fields give the kernel of `ShapedTrainer` the same constants."""
    entry = {"kind": "linear", "start": -0.5, "end": 0.5}
    schedule = ShapeSchedule.parse(dict.fromkeys(("beta", "lambda_tail"), entry), RewardShape())
    constants = set()
    for step in (0, 1, 2, 4):  # at 2 the shape is cross-entropy
        given, launch = plan(
            32_000,
            torch.bfloat16,
            LossOptions(schedule.at(step, 4), 1.0, None, METRICS, None, None),
        )
        constants.add((launch, *(value for name, value in given.items() if name.isupper())))
    assert len(constants) == 1


@pytest.mark.slow
def test_a_constant_schedule_is_the_shape_itself(tmp_path):
    runs = []
    for changes in (
        {"beta": -0.25},
        {"shape_schedule": {"beta": {"kind": "constant", "value": -0.25}}},
        {},
    ):
        runs.append(trainer(arguments(tmp_path / str(len(runs)), max_steps=3, **changes)))
        runs[-1].train()
    assert same_parameters(runs[0], runs[1])
    assert not same_parameters(runs[0], runs[2])
    assert log(tmp_path / "0", "beta") == [(None,)] * 3
    assert log(tmp_path / "1", "beta") == [(-0.25,)] * 3


def test_evaluation_after_training_has_the_last_shape(tmp_path):
    one = trainer(
        arguments(tmp_path, shape_schedule={"beta": {"kind": "linear", "start": 0.5, "end": -0.25}})
    )
    before = one.evaluate()
    one.train()
    after = one.evaluate()
    fixed = trainer(arguments(tmp_path, beta=-0.25), model=one.model).evaluate()
    assert after["eval_loss"] == pytest.approx(fixed["eval_loss"], abs=1e-6)
    assert abs(after["eval_loss"] - after["eval_nll"]) > 1e-3
    start = trainer(arguments(tmp_path, beta=0.5)).evaluate()
    assert before["eval_loss"] == pytest.approx(start["eval_loss"], abs=1e-6)


LINEAR = {"kind": "linear", "start": 0, "end": -0.25}


@pytest.mark.parametrize(
    ("schedule", "parts", "changes"),
    [
        ({"gamma": LINEAR}, ["'gamma'", "lambda_tail"], {}),
        ({"beta": -0.25}, ["beta", "kind", "piecewise"], {}),
        ({"beta": LINEAR | {"kind": "exponential"}}, ["beta", "exponential", "cosine"], {}),
        ({"beta": LINEAR | {"kind": ["linear"]}}, ["beta", "kind", "cosine"], {}),
        ({"beta": LINEAR | {"until": 5}}, ["beta", "until", "to_step"], {}),
        ({"lambda_tail": {"kind": "cosine", "end": 1}}, ["lambda_tail", "start"], {}),
        ({"beta": LINEAR | {"end": -1.5}}, ["beta", "-1.5", "-1"], {}),
        ({"beta": LINEAR | {"start": -1.01}}, ["beta", "-1.01", "-1"], {}),
        (
            {"lambda_head": {"kind": "constant", "value": math.nan}},
            ["lambda_head", "nan", "finite"],
            {},
        ),
        (
            {"lambda_head": {"kind": "constant", "value": "1e-3"}},
            ["lambda_head", "1e-3", "number"],
            {},
        ),
        ({"beta": {"kind": "piecewise", "points": [[0, 0], [9, -2], [10, 0]]}}, ["beta", "-2"], {}),
        (
            {"beta": {"kind": "piecewise", "points": [[5, 0], [5, 1]]}},
            ["beta", "[5, 5]", "ascend"],
            {},
        ),
        (
            {"beta": {"kind": "piecewise", "points": [[1.0, 0], [9, 1]]}},
            ["beta", "[1.0, 9]", "ascend"],
            {},
        ),
        ({"beta": {"kind": "piecewise", "points": []}}, ["beta", "points", "[step, value]"], {}),
        (
            {"beta": {"kind": "piecewise", "points": [[5, 0, 1]]}},
            ["beta", "points", "[step, value]"],
            {},
        ),
        (
            {"beta": LINEAR | {"from_step": 500, "to_step": 100}},
            ["beta", "[500, 100]", "ascend"],
            {},
        ),
        ({"beta": LINEAR | {"from_step": 0.5, "to_step": 100}}, ["beta", "0.5", "100", "mix"], {}),
        ({"beta": LINEAR | {"to_step": 1.5}}, ["beta", "1.5", "fraction"], {}),
        ({"beta": LINEAR | {"from_step": -1}}, ["beta", "-1", "whole"], {}),
        ({"beta": LINEAR | {"to_step": True}}, ["beta", "True", "whole"], {}),
        ({"beta": LINEAR}, ["beta=0.5", "leave one"], {"beta": 0.5}),
        ({"beta": LINEAR}, ["beta", "power"], {"positive": "power"}),
        ([LINEAR], ["shape_schedule", "beta"], {}),
        ("linear", ["shape_schedule='linear'", "JSON"], {}),
    ],
)
def test_a_wrong_schedule_is_one_clear_line(tmp_path, schedule, parts, changes):
    with pytest.raises(ValueError, match=r"^\S.*\S$") as error:  # `.` is not a newline
        arguments(tmp_path, shape_schedule=schedule, **changes)
    assert all(part in str(error.value) for part in parts), error.value


RECIPE = """\
from_scratch: {model_type: qwen3, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
  num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8}
dataset_name: my.jsonl
tokenizer_vocab_size: 300
max_steps: 4
max_length: 64
logging_steps: 1
gradient_checkpointing: false
use_cpu: true
disable_tqdm: true
shape_schedule:
  lambda_tail: {kind: piecewise, points: [[2, 0.0], [1.0, -0.1]]}
"""


@pytest.mark.slow
def test_schedules_from_a_recipe_and_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text_rows(40).to_json("my.jsonl")
    (tmp_path / "train.yaml").write_text(RECIPE)
    train = ["train", "--config", "train.yaml", "--output_dir"]
    assert cli.main([*train, "recipe"]) == 0
    assert log(tmp_path / "recipe", "lambda_tail", "beta") == [
        (0, None),
        (0, None),
        (-0.05, None),
        (-0.1, None),
    ]
    schedule = {"beta": {"kind": "linear", "start": 0, "end": -0.25, "to_step": 0.5}}
    assert cli.main([*train, "flag", "--shape_schedule", json.dumps(schedule)]) == 0
    assert log(tmp_path / "flag", "lambda_tail", "beta") == [
        (None, beta) for beta in (-0.125, -0.25, -0.25, -0.25)
    ]
    assert (tmp_path / "flag" / "train_log.png").is_file()
    capsys.readouterr()
    assert cli.main([*train, "bad", "--shape_schedule", "{beta: linear}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "shape_schedule='{beta: linear}' is not JSON" in line
    assert not (tmp_path / "bad").exists()
