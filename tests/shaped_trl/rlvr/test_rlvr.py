"""`RLVRTrainer` on one process: its log, settings, card, and what it leaves to GRPOTrainer."""

import inspect
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset, IterableDataset
from hub_stand_in import TOKEN, hub_stand_in, point_client_at
from rlvr_tiny import even_length, rlvr_arguments, rlvr_trainer, scripted_prompts
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import tiny_model, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel
from trl.generation.vllm_generation import VLLMGeneration

from shaped_trl.rlvr import RLVRTrainer
from shaped_trl.rlvr.rewards import OverlongPenalty, VerdictReward
from shaped_trl.rlvr.signals import NoLearningSignal

PROMPTS = scripted_prompts()


def trainer(args, reward=even_length, dataset=PROMPTS, **options):
    return rlvr_trainer(args, reward, dataset, **options)


def test_rows_of_the_log(tmp_path):
    trainer(rlvr_arguments(tmp_path, max_steps=4)).train()
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        reasons = ("informative", "all_right", "all_wrong", "truncated", "unparsed", "ungraded")
        assert sum(row[f"groups_{reason}"] for reason in reasons) == row["groups_sampled"]
        assert row["groups_informative"] - row["groups_surplus"] == 2
        assert row["frac_reward_zero_std"] == 0
        assert 0 < row["entropy"] <= math.log(63) + 1e-6
        assert row["rollout_tokens"] >= row["trained_tokens"] > 0
        assert row["rollout_tokens_per_trained"] == row["rollout_tokens"] / row["trained_tokens"]
        assert row["rollout_tokens"] == pytest.approx(
            row["completion_length"] * 4 * row["groups_sampled"]
        )
    assert (tmp_path / "rl_log.png").stat().st_size > 10_000


@pytest.mark.slow
def test_clipping_acts_when_a_batch_serves_several_steps(tmp_path, caplog):
    args = rlvr_arguments(tmp_path, steps_per_generation=4, max_steps=8, learning_rate=5e-2)
    assert not args.strictly_on_policy
    assert "strictly on-policy" not in caplog.text
    trainer(args).train()
    assert (
        max(
            row["clip_ratio"]
            for row in read_jsonl(tmp_path / "rl_log.jsonl")
            if "clip_ratio" in row
        )
        > 0
    )


def test_clip_higher_that_cannot_act_is_warned_of(tmp_path, caplog):
    assert rlvr_arguments(tmp_path).strictly_on_policy
    assert "epsilon/epsilon_high never act" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}],
    ids=lambda c: next(iter(c)),
)
def test_sampling_that_biases_the_ratio_is_warned_of(tmp_path, caplog, change):
    rlvr_arguments(tmp_path)
    assert "another distribution" not in caplog.text
    rlvr_arguments(tmp_path, temperature=0.8)  # TRL accounts for it
    assert "another distribution" not in caplog.text
    rlvr_arguments(tmp_path, **change)
    assert f"{next(iter(change))}=" in caplog.text
    assert "another distribution" in caplog.text


@pytest.mark.slow
def test_run_is_repeatable(tmp_path):
    histories = []
    for name in "ab":
        one = trainer(rlvr_arguments(tmp_path / name, max_steps=3))
        one.train()
        histories.append(
            [(row["loss"], row["raw_reward"]) for row in one.state.log_history if "loss" in row]
        )
    assert histories[0] == histories[1]


def test_evaluation_is_untouched(tmp_path):
    one = trainer(rlvr_arguments(tmp_path, per_device_eval_batch_size=8), eval_dataset=PROMPTS)
    assert 0 < one.evaluate()["eval_reward"] < 1
    assert one.sampler.stream.drawn == 0


def test_the_rollout_table_has_the_graders_status(tmp_path):
    gold = PROMPTS.add_column("gold", ["1 7 3"] * len(PROMPTS))
    args = rlvr_arguments(
        tmp_path, log_completions=True, max_sampling_rounds=1, on_no_signal="warn"
    )
    trainer(args, VerdictReward("running_sums", 1), gold).train()
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert len(table) == 8
    assert set(table["verdict"]) == {"unparsed"}


def test_the_length_reaches_vllm_the_loss_and_the_penalty(tmp_path):
    """TRL's engine reads `max_completion_length` at each generation."""
    assert "max_completion_length = self.max_completion_length" in inspect.getsource(
        VLLMGeneration.generate
    )
    args = rlvr_arguments(tmp_path, completion_length_schedule={0: 4, 2: 9}, loss_type="dr_grpo")
    penalty = OverlongPenalty(args.length_schedule(), 2)
    one = trainer(args, [even_length, penalty])
    one.use_vllm, one.vllm_generation = True, SimpleNamespace(max_completion_length=9)
    said = {"completions": [""], "completion_ids": [[1] * 4]}
    for step, length, punished in ((0, 4, -1.0), (1, 4, -1.0), (2, 9, 0.0)):
        one.state.global_step = step
        one.set_length()
        assert (one.max_completion_length, one.vllm_generation.max_completion_length) == (
            length,
            length,
        )
        assert penalty(trainer_state=one.state, **said) == [punished]


def test_the_card_has_the_ledger_and_the_curves(tmp_path):
    one = trainer(rlvr_arguments(tmp_path, completion_length_schedule={0: 4, 3: 6}, max_steps=4))
    one.train()
    one.create_model_card()
    text = (tmp_path / "README.md").read_text()
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert f"| groups sampled | {sum(row['groups_sampled'] for row in rows):,.0f} |" in text
    assert f"| tokens sampled | {sum(row['rollout_tokens'] for row in rows):,.0f} |" in text
    assert "4 tokens from step 0, 6 tokens from step 3" in text
    assert "strictly on-policy" in text
    assert "![curves](rl_log.png)" in text
    assert "None" not in text.partition("## Training procedure")[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_sampling_rounds": 0}, "max_sampling_rounds"),
        ({"max_sampling_tokens": 0}, "max_sampling_tokens"),
        ({"steps_per_generation": 4, "save_strategy": "steps", "save_steps": 2}, "save_steps"),
        ({"on_no_signal": "shrug"}, "stop, warn, ignore"),
        ({"no_signal_patience": 0}, "no_signal_patience"),
        ({"retire_all_right": -1}, "retire_all_right"),
        ({"keep_leftover_groups": True, "use_vllm": True}, "keep_leftover_groups"),
        ({"completion_length_schedule": {3: 4}}, "step 0"),
        ({"max_completion_length": None}, "max_completion_length"),
        ({"steps_per_generation": 0}, "steps_per_generation"),
        (
            {"steps_per_generation": 4, "save_strategy": "steps", "save_steps": 4, "max_steps": 6},
            "max_steps",
        ),
        (
            {
                "steps_per_generation": 4,
                "save_strategy": "steps",
                "save_steps": 0.1,
                "max_steps": 100,
            },
            "save_steps=10",
        ),
        ({"dynamic_sampling": False, "retire_all_right": 2}, "needs dynamic_sampling"),
        ({"revisit_retired_after": 2}, "retire_all_right"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        rlvr_arguments(tmp_path, **changes)


def test_groups_that_are_spread_over_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match="whole groups on every process"):
        rlvr_arguments(tmp_path, per_device_train_batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [len]}, "tools"),
        ({"dataset": IterableDataset.from_generator(lambda: iter(PROMPTS))}, "known length"),
        ({"dataset": Dataset.from_list([{"prompt": "a", "image": None}])}, "images"),
    ],
)
def test_what_dynamic_sampling_does_not_support_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(rlvr_arguments(tmp_path), **options)


def test_completions_beyond_the_context_are_refused_before_training(tmp_path):
    config = GPT2Config(
        vocab_size=63, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_id=1, bos_token_id=1
    )
    with pytest.raises(UserError, match="max_position_embeddings=16"):
        RLVRTrainer(
            GPT2LMHeadModel(config),
            even_length,
            rlvr_arguments(tmp_path, completion_length_schedule={0: 4, 5: 16}),
            train_dataset=PROMPTS,
            processing_class=tiny_tokenizer(),
        )


@pytest.mark.slow
def test_a_pushed_run_brings_its_card_ledger_and_curves(tmp_path, monkeypatch):
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        one = trainer(rlvr_arguments(tmp_path / "run", hub_model_id="me/rl", hub_token=TOKEN))
        assert one.ref_model is None  # no KL term
        one.train()
        one.save_model()
        one.push_to_hub()
        files = server.files["model", "me/rl"]
    assert b"| groups sampled |" in files["README.md"]
    assert files["rl_log.png"][:4] == b"\x89PNG"
    assert {"rl_log.jsonl", "model.safetensors", "tokenizer.json"} <= files.keys()


def test_too_few_prompts_are_refused(tmp_path):
    """TRL's sampler would drop the incomplete batch, and train no step."""
    with pytest.raises(UserError, match="1 prompts are fewer than the 2"):
        trainer(rlvr_arguments(tmp_path), dataset=PROMPTS.select([0]))


def test_what_fills_a_batch_has_no_share_in_the_kl_term(tmp_path):
    """Nothing but fillers: without a mask their KL would be summed over their tokens, not
    averaged."""
    args = rlvr_arguments(
        tmp_path, beta=0.1, max_sampling_rounds=1, max_steps=3, on_no_signal="ignore"
    )
    tiny_model().save_pretrained(tmp_path / "model")
    one = RLVRTrainer(
        str(tmp_path / "model"),
        lambda completions, **kwargs: [0.0] * len(completions),
        args,
        train_dataset=PROMPTS,
        processing_class=tiny_tokenizer(),
    )
    one.train()
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert [row["groups_filled"] for row in rows] == [2.0] * 3
    assert [(row["loss"], row["grad_norm"], row["trained_tokens"]) for row in rows] == [
        (0.0, 0.0, 0.0)
    ] * 3


def test_what_fills_a_batch_does_not_count_in_the_mean_of_bnpo(tmp_path):
    kinds = {prompt: number == 0 for number, prompt in enumerate(PROMPTS["prompt"])}

    def first_prompt_only(prompts, completions, **kwargs):
        return [float(kinds[prompt] and i % 2 == 0) for i, prompt in enumerate(prompts)]

    changes = {"max_sampling_rounds": 1, "max_steps": 1, "shuffle_dataset": False}
    args = rlvr_arguments(tmp_path, per_device_train_batch_size=16, loss_type="bnpo", **changes)
    one, seen = trainer(args, first_prompt_only), []
    original = one._generate_and_score_completions
    one._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    one.train()
    counted = seen[0]["completion_mask"].sum(dim=1) > 0
    assert counted.tolist() == [True] * 4 + [False] * 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "scaling", [{"scale_rewards": "batch"}, {"multi_objective_aggregation": "normalize_then_sum"}]
)
def test_what_fills_a_batch_does_not_scale_the_others(tmp_path, scaling):
    """One group of four is informative: its advantages are those of a batch that has nothing
    else."""
    kinds = {prompt: number == 0 for number, prompt in enumerate(PROMPTS["prompt"])}

    def first_prompt_only(prompts, completions, **kwargs):
        return [float(kinds[prompt] and i % 2 == 0) for i, prompt in enumerate(prompts)]

    args = rlvr_arguments(
        tmp_path,
        per_device_train_batch_size=16,
        max_sampling_rounds=1,
        max_steps=1,
        shuffle_dataset=False,
        **scaling,
    )
    one, seen = trainer(args, first_prompt_only), []
    original = one._generate_and_score_completions
    one._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    one.train()
    advantages = seen[0]["advantages"]
    assert (advantages[4:] == 0).all()
    alone = torch.tensor([0.5, -0.5, 0.5, -0.5])
    alone = alone / (torch.tensor([1.0, 0, 1, 0]).std() + 1e-4)
    if "scale_rewards" not in scaling:  # normalised once a group, once over the batch
        alone = alone / (alone.std() + 1e-4)
    torch.testing.assert_close(advantages[:4], alone, rtol=1e-5, atol=1e-5)


def test_a_completion_that_was_not_graded_is_not_punished_by_another_reward(tmp_path):
    def graded_but_first(completions, **kwargs):
        return [None if i % 4 == 0 else float(i % 2) for i in range(len(completions))]

    one, seen = trainer(rlvr_arguments(tmp_path, max_steps=1), [graded_but_first, even_length]), []
    original = one._generate_and_score_completions
    one._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    one.train()
    assert (seen[0]["advantages"][::4] == 0).all()
    assert (seen[0]["advantages"].view(-1, 4)[:, 1:] != 0).any()


@pytest.mark.slow
def test_a_second_reward_is_a_signal_without_dynamic_sampling(tmp_path):
    """GRPO has a gradient from it; with dynamic sampling the accuracy reward alone decides."""

    def never_right(completions, **kwargs):
        return [0.0] * len(completions)

    args = {"max_steps": 6, "no_signal_patience": 2}
    one = trainer(
        rlvr_arguments(tmp_path / "off", dynamic_sampling=False, **args), [never_right, even_length]
    )
    one.train()
    assert one.state.global_step == 6
    with pytest.raises(NoLearningSignal):
        trainer(rlvr_arguments(tmp_path / "on", **args), [never_right, even_length]).train()


def test_leftovers_make_a_run_off_policy(tmp_path, caplog):
    assert not rlvr_arguments(tmp_path, keep_leftover_groups=True).strictly_on_policy
    assert "never act" not in caplog.text


@pytest.mark.slow
def test_evaluation_leaves_the_length_of_a_batch_to_its_loss(tmp_path):
    args = rlvr_arguments(
        tmp_path,
        completion_length_schedule={0: 4, 1: 9},
        steps_per_generation=4,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
    )
    one, lengths = trainer(args, eval_dataset=PROMPTS.select(range(2))), []
    original = one._compute_loss
    one._compute_loss = lambda *given: (
        lengths.append((one.model.training, one.max_completion_length)) or original(*given)
    )
    one.train()
    assert {length for training, length in lengths if training} == {4}


@pytest.mark.slow
def test_the_log_ends_with_the_rest_of_the_ledger(tmp_path):
    one = trainer(rlvr_arguments(tmp_path, max_steps=5, logging_steps=4))
    one.train()
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert [row["step"] for row in rows] == [4, 5]
    assert sum(row["groups_sampled"] for row in rows) == one.sampler.stream.drawn
