"""A loss that is not finite, or that jumps, stops the run or skips the update."""

import pytest
import torch
from processes import run_processes
from rlvr_tiny import even_length, rlvr_arguments, rlvr_trainer, scripted_prompts
from safetensors.torch import load_file
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.watch import BadLoss

BAD_STEP, ACCUMULATION = 4, 2


class Poisoned(ShapedTrainer):
    """Multiplies the loss of one micro-batch in one process by `factor`."""

    factor, rank, micro_batches, step_of_factor = float("nan"), 0, 0, BAD_STEP

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.micro_batches += 1
        here = self.accelerator.process_index == self.rank
        return (
            loss * self.factor
            if here and self.micro_batches == ACCUMULATION * self.step_of_factor
            else loss
        )


def trained(folder, factor=float("nan"), rank=0, step_of_factor=BAD_STEP, **changes):
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": ACCUMULATION,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
    }
    args = ShapedConfig(str(folder), **settings | changes)
    one = Poisoned(
        tiny_model(), args, train_dataset=text_rows(400), processing_class=tiny_tokenizer()
    )
    one.factor, one.rank, one.step_of_factor = factor, rank, step_of_factor
    message = ""
    try:
        one.train()
    except BadLoss as error:
        message = str(error)
    return one, message


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.slow
def test_it_stops_before_the_update_and_keeps_the_batch(tmp_path):
    one, message = trained(tmp_path)
    assert "step 4: the loss is not finite on process 0, micro-batch 2 of 2" in message
    assert one.state.global_step == 3
    clean, _ = trained(tmp_path / "clean", factor=1.0, max_steps=3, lr_scheduler_type="constant")
    repeated, _ = trained(tmp_path / "again", lr_scheduler_type="constant")
    assert all(torch.equal(a, b) for a, b in zip(weights(clean), weights(repeated), strict=True))
    batch = load_file(tmp_path / "_bad_batches" / "step-4-process-0.safetensors")
    assert batch["input_ids"].shape == batch["labels"].shape
    assert batch["input_ids"].shape[0] == 2


@pytest.mark.slow
def test_a_skipped_update_changes_nothing(tmp_path, caplog):
    one, message = trained(tmp_path, on_bad_loss="skip", lr_scheduler_type="constant", max_steps=4)
    before, _ = trained(tmp_path / "before", factor=1.0, max_steps=3, lr_scheduler_type="constant")
    assert not message
    assert one.state.global_step == 4
    assert "skipped this update, 1 so far" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(before), strict=True))


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss of the poisoned micro-batch stays the same, but its gradient changes."""
    one, _ = trained(tmp_path, factor=1.0, max_steps=1)
    one.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(BadLoss, match="the gradient is not finite, though the loss is"):
        one.train()


def test_with_fp16_such_a_gradient_is_left_to_the_scaler(tmp_path):
    """It finds the largest scale by trying: where that overflows, it leaves the update out."""
    one, _ = trained(tmp_path, factor=1.0, max_steps=1)
    one.args.fp16 = True  # a CPU has no scaler
    one.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    one.train()
    poisoned, _ = trained(tmp_path / "loss", max_steps=3)
    poisoned.args.fp16 = True
    poisoned.micro_batches, poisoned.step_of_factor = 0, 2
    with pytest.raises(BadLoss, match="step 2: the loss is not finite"):
        poisoned.train()


@pytest.mark.slow
def test_a_jump_is_bad_where_asked_for(tmp_path):
    options = {
        "max_steps": 30,
        "step_of_factor": 25,
        "learning_rate": 1e-4,
        "gradient_accumulation_steps": ACCUMULATION,
    }
    one, message = trained(tmp_path, factor=40.0, loss_spike=10.0, **options)
    assert "step 25: the loss jumps to" in message
    assert "over the last 24 steps" in message
    assert one.state.global_step == 24
    unasked, _ = trained(tmp_path / "on", factor=40.0, **options)
    assert unasked.state.global_step == 30


def test_reinforcement_learning_is_watched_as_well(tmp_path):
    one = rlvr_trainer(rlvr_arguments(tmp_path, max_steps=3), even_length, scripted_prompts())
    original = one._compute_loss
    one._compute_loss = lambda *args: (
        original(*args) * (float("nan") if one.state.global_step == 1 else 1.0)
    )
    with pytest.raises(
        BadLoss, match="step 2: the loss is not finite on process 0, micro-batch 1 of 1"
    ):
        one.train()
    batch = load_file(tmp_path / "_bad_batches" / "step-2-process-0.safetensors")
    assert batch["completion_ids"].shape == batch["completion_mask"].shape


@pytest.mark.slow
@pytest.mark.distributed
def test_every_process_hears_of_the_one(tmp_path):
    first, second = run_processes(said_by, 2, tmp_path, str(tmp_path / "run"))
    assert first == second
    assert "step 4: the loss is not finite on process 1, micro-batch 2 of 2" in first
    assert (tmp_path / "run" / "_bad_batches" / "step-4-process-1.safetensors").is_file()


def said_by(folder: str) -> str:
    return trained(folder, rank=1)[1]


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="stop, skip, ignore"):
        ShapedConfig(str(tmp_path), use_cpu=True, on_bad_loss="shrug")
    with pytest.raises(ValueError, match="loss_spike=0"):
        ShapedConfig(str(tmp_path), use_cpu=True, loss_spike=0)
    with pytest.raises(ValueError, match="loss_spike=10 has no effect with on_bad_loss='ignore'"):
        ShapedConfig(str(tmp_path), use_cpu=True, loss_spike=10, on_bad_loss="ignore")
