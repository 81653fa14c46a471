"""Each cause of no learning signal, provoked in a run, is named by it."""

import pytest
import torch
from rlvr_tiny import even_length, rlvr_arguments, scripted_prompts
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from shaped_trl.rlvr import RLVRTrainer
from shaped_trl.rlvr.rewards import VerdictReward
from shaped_trl.rlvr.signals import NoLearningSignal


def stopped(
    folder, reward, *, ends=True, model=None, dataset=None, callbacks=None, **changes
) -> str:
    """What a run says that stops; with `ends` half of the vocabulary ends a completion."""
    model = model or tiny_model()
    if ends:
        model.generation_config.eos_token_id = list(range(1, 32))
    options = {
        "max_steps": 60,
        "max_sampling_rounds": 2,
        "no_signal_patience": 2,
        "max_completion_length": 12,
    }
    one = RLVRTrainer(
        model,
        reward,
        rlvr_arguments(folder, **options | changes),
        train_dataset=dataset or scripted_prompts(),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
    )
    with pytest.raises(NoLearningSignal) as error:
        one.train()
    return str(error.value)


def constant(value):
    return lambda completions, **kwargs: [value] * len(completions)


def raising(completions, **kwargs):
    raise KeyError("gold")


@pytest.mark.slow
def test_all_right(tmp_path):
    assert "all answers are right" in stopped(tmp_path, constant(1.0))


def test_a_completion_without_a_reward_is_no_signal_beside_right_ones(tmp_path):
    def right_but_last(completions, **kwargs):
        return [None if i % 4 == 3 else 1.0 for i in range(len(completions))]

    said = stopped(tmp_path, right_but_last, dynamic_sampling=False)
    assert "all answers are right" in said


def test_all_wrong(tmp_path):
    assert "all answers are wrong" in stopped(tmp_path, constant(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_truncation(tmp_path, dynamic_sampling):
    said = stopped(tmp_path, constant(0.0), ends=False, dynamic_sampling=dynamic_sampling)
    assert "cut off at max_completion_length" in said
    groups = 8 if dynamic_sampling else 4
    assert f"{groups} groups" in said
    assert f"{4 * groups} completions" in said


@pytest.mark.slow
def test_answers_not_parsed(tmp_path):
    dataset = scripted_prompts().add_column("gold", ["1 7 3"] * 24)
    said = stopped(tmp_path, VerdictReward("running_sums", 1), dataset=dataset)
    assert "the grader finds no answer" in said
    assert "without an answer" in said


@pytest.mark.slow
def test_a_reward_function_that_raises(tmp_path):
    said = stopped(tmp_path, raising)
    assert "the reward function raises (KeyError: 'gold')" in said
    assert "16 groups" not in said
    assert "for which the reward raised" in said


def test_nothing_graded(tmp_path):
    assert "gives None, or its grader failed" in stopped(tmp_path, constant(None))


class Collapse(TrainerCallback):
    """From step 12 on the policy says one thing only."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 12:
            with torch.no_grad():
                model.lm_head.weight.mul_(1e4)


@pytest.mark.slow
def test_entropy_collapse(tmp_path):
    model = tiny_model(tie_word_embeddings=False)
    said = stopped(
        tmp_path, even_length, ends=False, model=model, callbacks=[Collapse()], learning_rate=1e-6
    )
    assert "stopped at step 1" in said
    assert "entropy collapse" in said
    assert "in the first 10 steps" in said
