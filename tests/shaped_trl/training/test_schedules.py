"""Schedules of the reward shape and of the learning rate, and the picture of the log."""

import json
import math

import pytest
import torch
from shaped_eval.records import read_jsonl
from shaped_kernels import METRICS, RewardShape
from shaped_kernels.shape import LossOptions
from shaped_kernels.triton_rows import plan
from tiny import text_rows, tiny_model, tiny_tokenizer
from train_tiny import run
from transformers import TrainerCallback

from shaped_trl import cli
from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.plots import log_panels, plot_log
from shaped_trl.training.schedules import ShapeSchedule

RAMP = {"beta": {"kind": "linear", "start": 0.0, "end": -0.25, "from_step": 2, "to_step": 7}}
RAMP_BETAS = pytest.approx([0, 0, -0.05, -0.1, -0.15, -0.2, -0.25, -0.25], abs=1e-15)


def arguments(folder, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    return ShapedConfig(str(folder), **settings | changes)


def trainer(args, callbacks=None, model=None):
    return ShapedTrainer(
        model or tiny_model(),
        args,
        train_dataset=text_rows(64),
        eval_dataset=text_rows(6, seed=1),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
    )


def log(folder, *names):
    return [
        tuple(row.get(name) for name in names) for row in read_jsonl(folder / "train_log.jsonl")
    ]


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
        # begins after the training
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
    """Zero and other values of every field give the kernel of `ShapedTrainer` the same compile-time
    constants."""
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
    with pytest.raises(ValueError, match=r"^\S.*\S$") as error:  # `.` is no line break
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


PAPER = {
    "learning_rate": 3e-4,
    "lr_scheduler_type": "warmup_stable_decay",
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}
PRETRAIN = PAPER | {
    "max_steps": 31_250,
    "warmup_steps": 2000,
    "lr_scheduler_kwargs": {"num_decay_steps": 0},
}
MIDTRAIN = PAPER | {
    "max_steps": 6250,
    "lr_scheduler_kwargs": {"num_decay_steps": 6250, "min_lr_ratio": 0.1},
}


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (PRETRAIN, {0: 0, 1000: 1.5e-4, 2000: 3e-4, 20_000: 3e-4, 31_249: 3e-4}),
        (MIDTRAIN, {0: 3e-4, 3125: 1.65e-4, 6250: 3e-5}),
        (
            MIDTRAIN | {"lr_scheduler_kwargs": '{"num_decay_steps": 6250, "min_lr_ratio": 0.1}'},
            {6250: 3e-5},
        ),
    ],
    ids=["pretrain", "midtrain", "command line"],
)
def test_learning_rate_of_the_paper(tmp_path, settings, rates):
    """The rate after a number of updates, and the decay of AdamW on the matrices alone."""
    one = trainer(arguments(tmp_path, **settings))
    optimizer = one.create_optimizer()
    (factor, _) = one.create_scheduler(settings["max_steps"]).lr_lambdas
    for step, rate in rates.items():
        assert 3e-4 * factor(step) == pytest.approx(rate, rel=1e-12)
    assert one.args.max_grad_norm == 1.0
    decayed, plain = ({p.ndim for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert (decayed, plain) == ({2}, {1})


@pytest.mark.slow
def test_a_longer_run_moves_the_decay(tmp_path):
    """Resumed with more steps, the stable phase goes on and the decay comes at the new end."""
    settings = {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 4, "decay_type": "linear", "min_lr_ratio": 0.2},
        "learning_rate": 1.0,
        "warmup_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    trainer(arguments(tmp_path, max_steps=8, **settings)).train()
    short = log(tmp_path, "learning_rate")
    trainer(arguments(tmp_path, max_steps=10, **settings)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    assert [rate for (rate,) in short] == pytest.approx([0.2, 0.6, 1, 1, 1, 0.8, 0.6, 0.4])
    rates = [rate for (rate,) in log(tmp_path, "learning_rate")]
    assert rates == pytest.approx([0.2, 0.6, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4])


def test_the_plot_has_what_was_logged():
    rows = [
        {"step": 1, "loss": 4.0, "nll": 4.1, "learning_rate": 0.1, "beta": 0.0},
        {"step": 2, "loss": None, "nll": 3.9, "learning_rate": 0.2, "beta": -0.25, "eval_nll": 4.5},
    ]
    panels = {panel.title: panel.curves for panel in log_panels(rows)}
    assert set(panels) == {"Loss", "Learning rate", "Reward shape"}
    assert panels["Loss"] == {
        "loss": [([1], [4.0])],
        "nll": [([1, 2], [4.1, 3.9])],
        "eval_nll": [([2], [4.5])],
    }
    assert panels["Reward shape"] == {"beta": [([1, 2], [0.0, -0.25])]}


def test_no_plot_without_a_log_and_no_run_ended_by_one(tmp_path, monkeypatch, caplog):
    plot_log(tmp_path / "train_log.jsonl")
    (tmp_path / "train_log.jsonl").touch()
    plot_log(tmp_path / "train_log.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["train_log.jsonl"]

    def full_disk(path):
        raise OSError("No space left on device")

    monkeypatch.setattr("shaped_trl.training.plots.plot_log", full_disk)
    one = trainer(arguments(tmp_path, max_steps=1))
    one.train()
    assert one.state.global_step == 1
    assert "No space left on device" in caplog.text
