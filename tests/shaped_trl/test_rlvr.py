"""`RLVRTrainer`: dynamic sampling, clip-higher, its log."""

import math

import pytest
import torch
from datasets import Dataset
from tiny import WORDS, tiny_model, tiny_tokenizer
from trl import GRPOTrainer

from eval_suite.records import read_jsonl
from shaped_trl.rlvr import RLVRConfig, RLVRTrainer

PROMPTS = Dataset.from_list([{"prompt": f"{a} {b}", "gold": a} for a in WORDS[:6] for b in WORDS[:4]])


def even_length(completions, **kwargs):
    """Right when the number of words is even: about half of what a random model says."""
    return [float(len(completion.split()) % 2 == 0) for completion in completions]


def arguments(folder, **changes):
    settings = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    return RLVRConfig(str(folder), **settings | changes)


def trainer(args, reward, trainer_class=RLVRTrainer):
    return trainer_class(tiny_model(), reward, args, train_dataset=PROMPTS, processing_class=tiny_tokenizer())


def test_batch_holds_informative_groups_only(tmp_path):
    one = trainer(arguments(tmp_path, logging_steps=1, max_steps=4), even_length)
    batches = []
    original = one._generate_and_score_completions

    def spy(inputs):
        batches.append(original(inputs))
        return batches[-1]

    one._generate_and_score_completions = spy
    one.train()
    tokenizer = tiny_tokenizer()
    for batch in batches:
        texts = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        rewards = torch.tensor(even_length(texts)).view(-1, 4)
        prompts = batch["prompt_ids"].view(2, 4, -1)
        assert (rewards.amax(1) - rewards.amin(1) == 1).all()
        assert (prompts == prompts[:, :1]).all()  # a group has one prompt
        expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        torch.testing.assert_close(batch["advantages"].view(-1, 4), expected, rtol=1e-4, atol=1e-4)
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        reasons = ("informative", "all_right", "all_wrong", "truncated", "unparsed", "ungraded")
        assert sum(row[f"groups_{reason}"] for reason in reasons) == row["groups_sampled"]
        assert row["groups_informative"] - row["groups_surplus"] == 2
        assert row["frac_reward_zero_std"] == 0
        assert 0 < row["entropy"] <= math.log(63) + 1e-6
        assert row["rollout_tokens_per_trained"] >= 1


def test_rounds_are_bounded_when_nothing_is_informative(tmp_path):
    one = trainer(
        arguments(tmp_path, max_sampling_rounds=3, max_steps=1), lambda completions, **_: [0.0] * len(completions)
    )
    one.train()
    row = next(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert (row["rounds"], row["groups_truncated"], row["groups_informative"]) == (3, 6, 0)
    assert row["frac_reward_zero_std"] == 1


def test_without_dynamic_sampling_it_is_grpo(tmp_path):
    """The same seed gives GRPOTrainer's losses."""
    losses = []
    for trainer_class in (GRPOTrainer, RLVRTrainer):
        one = trainer(arguments(tmp_path, dynamic_sampling=False, max_steps=3), even_length, trainer_class)
        one.train()
        losses.append([row["loss"] for row in one.state.log_history if "loss" in row])
    assert losses[0] == losses[1]
    assert any(losses[0])


def test_clipping_acts_when_a_batch_serves_several_steps(tmp_path):
    args = arguments(tmp_path, steps_per_generation=4, max_steps=8, learning_rate=5e-2)
    assert not args.strictly_on_policy
    one = trainer(args, even_length)
    one.train()
    assert max(row["clip_ratio"] for row in read_jsonl(tmp_path / "rl_log.jsonl") if "clip_ratio" in row) > 0
    assert arguments(tmp_path).strictly_on_policy


def test_run_is_repeatable(tmp_path):
    histories = []
    for name in "ab":
        one = trainer(arguments(tmp_path / name, max_steps=3), even_length)
        one.train()
        histories.append([(row["loss"], row["raw_reward"]) for row in one.state.log_history if "loss" in row])
    assert histories[0] == histories[1]


def test_evaluation_is_untouched(tmp_path):
    args = arguments(tmp_path, per_device_eval_batch_size=8)
    one = RLVRTrainer(
        tiny_model(), even_length, args, train_dataset=PROMPTS, eval_dataset=PROMPTS, processing_class=tiny_tokenizer()
    )
    assert 0 < one.evaluate()["eval_reward"] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_sampling_rounds": 0}, "max_sampling_rounds"),
        ({"steps_per_generation": 4, "save_strategy": "steps", "save_steps": 2}, "save_steps"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)
