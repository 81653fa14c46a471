"""The first row after a resume covers its whole interval, as in an uninterrupted run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rlvr_tiny import even_length, rlvr_arguments, rlvr_trainer, scripted_prompts
from shaped_eval.records import read_jsonl
from tiny import WORDS, text_rows, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, TrainerCallback

from shaped_trl.modeling.architectures import paper_config, scaled_down
from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.resuming import continue_training

# rows of the log at 3 and 6, checkpoints at 2, 4 and 6
STEPS = {"max_steps": 6, "logging_steps": 3, "save_strategy": "steps", "save_steps": 2}


def shaped(folder: Path, **changes) -> ShapedTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    args = ShapedConfig(str(folder), gradient_checkpointing=False, **STEPS | settings | changes)
    model = tiny_model()
    if args.router_bias_rate:
        config = paper_config("5b-a0.3b")
        config = scaled_down(
            config, vocab_size=len(tiny_tokenizer()), pad_token_id=0, eos_token_id=1
        )
        model = AutoModelForCausalLM.from_config(config, dtype="float32")
    return ShapedTrainer(
        model, args, train_dataset=text_rows(24), processing_class=tiny_tokenizer()
    )


def rlvr(folder: Path, **changes):
    args = rlvr_arguments(folder, **STEPS | changes)
    return rlvr_trainer(args, even_length, scripted_prompts())


def rows(folder: Path) -> list[dict]:
    (path,) = folder.glob("*_log.jsonl")
    return [
        {name: value for name, value in row.items() if "time" not in name}
        for row in read_jsonl(path)
    ]


def forget(folder: Path, step: int) -> None:
    """Leave a run's folder as it was after the checkpoint of `step`."""
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    for path in folder.glob("*.safetensors"):
        path.unlink()


class Losses(TrainerCallback):
    """The sum of the losses up to each step."""

    def __init__(self, trainer):
        self.trainer, self.sums = trainer, {0: 0.0}

    def on_step_end(self, args, state, control, **kwargs):
        self.sums[state.global_step] = (
            self.trainer._total_loss_scalar + self.trainer._tr_loss.item()
        )


@pytest.mark.parametrize(
    ("make", "changes", "step"),
    [
        (shaped, {"gradient_accumulation_steps": 2, "beta": -0.25}, 2),
        pytest.param(shaped, {}, 4, marks=pytest.mark.slow),
        pytest.param(shaped, {"router_bias_rate": 0.01}, 4, marks=pytest.mark.slow),
        pytest.param(rlvr, {}, 2, marks=pytest.mark.slow),
    ],
    ids=["shaped", "later", "experts", "rlvr"],
)
def test_the_row_after_a_resume_has_the_whole_interval(make, changes, step, tmp_path):
    one = make(tmp_path, **changes)
    losses = Losses(one)
    one.add_callback(losses)
    one.train()
    expected = rows(tmp_path)
    forget(tmp_path, step)
    resumed = make(tmp_path, **changes)
    continue_training(resumed)
    assert rows(tmp_path) == expected
    assert [row["step"] for row in expected] == [3, 6]
    # the summary covers only the steps of this call
    mean = (losses.sums[6] - losses.sums[step]) / (6 - step)
    assert resumed.state.log_history[-1]["train_loss"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_row_after_a_resume_has_the_whole_interval_of_all_processes(tmp_path):
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    lines = [{"text": " ".join(WORDS[i : i + 3 + i % 9])} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    recipe = {
        "model_name_or_path": str(model),
        "dataset_name": str(tmp_path / "a.jsonl"),
        "use_cpu": True,
        "bf16": False,
    }
    recipe |= {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "num_processes": 2,
        **STEPS,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = [
        sys.executable,
        "-m",
        "shaped_trl.cli",
        "train",
        "--config",
        str(tmp_path / "recipe.yaml"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    expected = rows(tmp_path / "out")
    forget(tmp_path / "out", 4)
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    found = rows(tmp_path / "out")
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "nll", "entropy", "target_prob", "tokens"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
