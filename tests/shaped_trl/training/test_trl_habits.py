"""Our trainers can be used as TRL's trainers are."""

import dataclasses
import logging

import pytest
import torch
from peft import PromptTuningConfig
from rlvr_tiny import even_length, rlvr_arguments, scripted_prompts
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from shaped_trl.rlvr import RLVRConfig, RLVRTrainer
from shaped_trl.rlvr.signals import NoLearningSignal
from shaped_trl.training import ShapedConfig, ShapedTrainer

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
GROUPS = {"num_generations": 4, "max_completion_length": 4, "bf16": False}


def shaped(args=None, trainer_class=ShapedTrainer, model=None, **kwargs):
    given = {
        "train_dataset": text_rows(16),
        "eval_dataset": text_rows(6, 1),
        "processing_class": tiny_tokenizer(),
    }
    return trainer_class(model or tiny_model(), args=args, **given | kwargs)


def rlvr(args=None, trainer_class=RLVRTrainer, reward=even_length, model=None, **kwargs):
    given = {"train_dataset": scripted_prompts(), "processing_class": tiny_tokenizer()}
    return trainer_class(model or tiny_model(), reward_funcs=reward, args=args, **given | kwargs)


@pytest.mark.parametrize("config", [TrainingArguments, SFTConfig])
def test_arguments_of_a_base_class_are_taken_as_cross_entropy(config, tmp_path):
    given = config(str(tmp_path), bf16=False, hub_token="hf_secret", **SETTINGS)
    if config is SFTConfig:
        given.eos_token = "<unk>"
    one = shaped(given)
    assert isinstance(one.args, ShapedConfig)
    assert (one.args.hub_token, one.args.max_steps, one.args.beta) == ("hf_secret", 3, 0.0)
    assert one.processing_class.eos_token == ("<unk>" if config is SFTConfig else "<eos>")
    one.train()
    theirs = shaped(config(str(tmp_path), bf16=False, **SETTINGS), SFTTrainer)
    if config is TrainingArguments:
        theirs.train()
        losses = [
            [row["loss"] for row in each.state.log_history if "loss" in row]
            for each in (one, theirs)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("config", [TrainingArguments, GRPOConfig])
def test_grpo_takes_arguments_of_a_base_class(config, tmp_path):
    more = {} if config is TrainingArguments else GROUPS | {"steps_per_generation": 2}
    one = rlvr(
        config(
            str(tmp_path), **SETTINGS | {"per_device_train_batch_size": 8} | {"bf16": False} | more
        )
    )
    assert isinstance(one.args, RLVRConfig)
    assert one.args.steps_per_generation == (1 if config is TrainingArguments else 2)
    assert one.args.num_generations == (8 if config is TrainingArguments else 4)


def test_arguments_of_another_trainer_are_refused(tmp_path):
    with pytest.raises(
        TypeError,
        match=r"args=GRPOConfig has .*num_generations.*, which ShapedConfig does not have",
    ):
        shaped(GRPOConfig(str(tmp_path), use_cpu=True, bf16=False))


def test_arguments_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("some-model")
    assert shaped(model="some-model").args.output_dir == "some-model-SFT"
    assert rlvr(model="some-model").args.output_dir == "some-model-GRPO"


def test_predict_gives_logits_and_leaves_the_evaluation_as_it_was(tmp_path):
    args = ShapedConfig(str(tmp_path), beta=0.5, **SETTINGS)
    one = shaped(args)
    before = one.evaluate()
    found = one.predict(one.eval_dataset)
    assert found.predictions.shape[0] == len(one.eval_dataset)
    row = one.eval_dataset[0]["input_ids"]
    expected = tiny_model().eval()(torch.tensor([row])).logits[0].detach().numpy()
    assert found.predictions[0, : len(row)] == pytest.approx(expected, abs=1e-5)
    assert found.metrics["test_loss"] == pytest.approx(before["eval_loss"], rel=1e-5)
    after = one.evaluate()
    assert {
        key: after[key] for key in after if "per_second" not in key and "runtime" not in key
    } == {key: before[key] for key in before if "per_second" not in key and "runtime" not in key}


def test_compute_metrics_gets_the_logits_of_the_evaluation(tmp_path):
    shapes = []

    def metrics(prediction):
        shapes.append(prediction.predictions.shape)
        chosen, labels = prediction.predictions[:, :-1].argmax(-1), prediction.label_ids[:, 1:]
        return {"mine": float((chosen == labels)[labels != -100].mean())}

    one = shaped(ShapedConfig(str(tmp_path), **SETTINGS), compute_metrics=metrics)
    found = one.evaluate()
    assert shapes[0][::2] == (6, tiny_model().config.vocab_size)
    assert found["eval_mine"] == pytest.approx(found["eval_mean_token_accuracy"])


@pytest.mark.slow
def test_the_best_model_is_chosen_by_a_metric_of_trl(tmp_path):
    changes = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    changes |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_mean_token_accuracy"}
    one = shaped(ShapedConfig(str(tmp_path), **SETTINGS | changes))
    one.train()
    rows = [row for row in one.state.log_history if "eval_mean_token_accuracy" in row]
    assert one.state.best_metric == max(row["eval_mean_token_accuracy"] for row in rows)


def test_the_log_has_the_names_and_counts_of_trl(tmp_path):
    histories = []
    for config, trainer_class in ((SFTConfig, SFTTrainer), (ShapedConfig, ShapedTrainer)):
        one = shaped(config(str(tmp_path / config.__name__), bf16=False, **SETTINGS), trainer_class)
        one.train()
        one.evaluate()
        histories.append(one.state.log_history)
    theirs, ours = histories
    for their_row, our_row in zip(theirs, ours, strict=True):
        assert their_row.keys() <= our_row.keys()
        for name in (
            "num_tokens",
            "eval_num_tokens",
            "mean_token_accuracy",
            "eval_mean_token_accuracy",
        ):
            if name in their_row and name in our_row:
                assert our_row[name] == pytest.approx(their_row[name], rel=1e-5), name


def test_tokens_of_packed_batches_are_all_counted(tmp_path):
    """Also the ends of texts, where the padding token is the same one."""
    counts = []
    for config, trainer_class in ((SFTConfig, SFTTrainer), (ShapedConfig, ShapedTrainer)):
        args = config(
            str(tmp_path / config.__name__), bf16=False, packing=True, max_length=32, **SETTINGS
        )
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        one = shaped(args, trainer_class, processing_class=tokenizer)
        one.train()
        counts.append([row["num_tokens"] for row in one.state.log_history if "loss" in row])
    theirs, ours = counts
    assert len(ours) == SETTINGS["max_steps"]
    assert ours == theirs


def test_an_evaluation_with_virtual_tokens_is_of_the_texts_tokens(tmp_path):
    """Prompt learning puts tokens before those of each row."""
    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    one = shaped(ShapedConfig(str(tmp_path), bf16=False, **SETTINGS), peft_config=adapter)
    found = one.evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_nll"])
    assert found["eval_nll_position_0_255"] == pytest.approx(found["eval_nll"])
    assert "eval_rare_nll" in found


@pytest.mark.parametrize(
    ("iterations", "accumulation", "expected"), [(3, 1, 501), (7, 2, 504), (1, 1, 500)]
)
def test_save_steps_that_nobody_set_are_no_mistake(iterations, accumulation, expected, tmp_path):
    changes = {
        "num_iterations": iterations,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
    }
    args = rlvr_arguments(
        tmp_path, steps_per_generation=1 if accumulation == 2 else None, max_steps=-1, **changes
    )
    assert args.save_steps == expected
    assert expected % max(args.generation_period_steps, 1) == 0
    if iterations == 3:
        with pytest.raises(ValueError, match="save_steps=10 falls inside"):
            rlvr_arguments(tmp_path, max_steps=-1, save_steps=10, **changes)


def test_an_end_inside_a_generation_batch_is_a_warning_where_no_checkpoints_were_asked_for(
    tmp_path, caplog
):
    with caplog.at_level(logging.WARNING):
        rlvr_arguments(tmp_path, num_iterations=2, max_steps=3, save_strategy="steps")
    assert "max_steps=3 falls inside a generation batch" in caplog.text


@pytest.mark.parametrize(
    "reward",
    [0.3, *(pytest.param(reward, marks=pytest.mark.slow) for reward in (-0.5, 2.0))],
)
def test_rewards_that_are_not_right_or_wrong_are_not_called_so(reward, tmp_path):
    def the_same(completions, **kwargs):
        return [reward] * len(completions)

    args = rlvr_arguments(tmp_path, no_signal_patience=1, max_sampling_rounds=1)
    with pytest.raises(
        NoLearningSignal, match="the completions of each prompt all get the same reward"
    ) as raised:
        rlvr(args, reward=the_same).train()
    assert f"mean reward {reward:g}" in str(raised.value)
    assert "right" not in str(raised.value)
    assert "wrong" not in str(raised.value)


def test_what_is_missing_is_named_as_in_trl(tmp_path):
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        rlvr(rlvr_arguments(tmp_path), train_dataset=None)


@pytest.mark.slow
def test_the_summary_at_the_end_has_the_metrics_of_the_last_row(tmp_path):
    changes = {"num_train_epochs": 1, "max_steps": -1, "entropy_coef": 0.01, "logging_steps": 10}
    histories = []
    for config, trainer_class in ((GRPOConfig, GRPOTrainer), (RLVRConfig, RLVRTrainer)):
        dynamic = {} if config is GRPOConfig else {"dynamic_sampling": False}
        given = {**SETTINGS, **GROUPS, "per_device_train_batch_size": 8, **changes, **dynamic}
        one = rlvr(config(str(tmp_path / config.__name__), **given), trainer_class)
        one.train()
        histories.append(one.state.log_history)
    theirs, ours = histories
    assert {"policy_loss", "rewards/even_length/mean"} <= theirs[-1].keys() <= ours[-1].keys()
    assert ours[-1]["rewards/even_length/mean"] is not None


@pytest.mark.parametrize(
    ("ours", "theirs", "changed", "added"),
    [
        (
            RLVRConfig,
            GRPOConfig,
            {"epsilon_high"},
            ("dynamic_sampling", "on_no_signal", "on_bad_loss", "bf16"),
        ),
        (ShapedConfig, SFTConfig, set(), ("on_bad_loss", "bf16", "dft")),
    ],
)
def test_what_differs_from_trl_by_default_is_what_the_docstring_names(ours, theirs, changed, added):
    known = {field.name: field for field in dataclasses.fields(theirs)}
    found = {
        field.name
        for field in dataclasses.fields(ours)
        if field.name in known and field.default != known[field.name].default
    }
    assert found == changed
    assert all(name in ours.__doc__ for name in (*changed, *added))
