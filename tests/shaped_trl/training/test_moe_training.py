"""A mixture of experts in ShapedTrainer is balanced, logged, and resumed bit by bit."""

import json
from pathlib import Path

import pytest
import torch
from tiny import text_rows, tiny_tokenizer
from transformers import AutoModelForCausalLM

from shaped_trl.modeling.architectures import paper_config, scaled_down
from shaped_trl.training import ShapedConfig, ShapedTrainer


def make_trainer(folder: Path, **settings) -> ShapedTrainer:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = scaled_down(
        paper_config("5b-a0.3b"), vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1
    )
    given = {"max_steps": 4, "save_steps": 2, "router_bias_rate": 0.01, "beta": -0.25, **settings}
    args = ShapedConfig(
        str(folder),
        per_device_train_batch_size=4,
        logging_steps=1,
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        **given,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rows = text_rows(24)
    return ShapedTrainer(
        model,
        args,
        train_dataset=rows,
        eval_dataset=rows.select(range(4)),
        processing_class=tokenizer,
    )


def weights(trainer: ShapedTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights_and_router_biases(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected = weights(whole)
    biases = [name for name in expected if name.endswith("e_score_correction_bias")]
    assert len(biases) == 2
    assert all(expected[name].abs().max() > 0.01 for name in biases)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[name]), name
    rows = [
        json.loads(line)
        for line in (tmp_path / "whole" / "train_log.jsonl").read_text().splitlines()
    ]
    assert all(
        row["max_violation_worst"] >= row["max_violation"] >= 0 for row in rows if "loss" in row
    )
    assert all("dead_experts" in row for row in rows if "loss" in row)


@pytest.mark.slow
def test_the_best_model_is_what_was_saved(tmp_path):
    trainer = make_trainer(
        tmp_path,
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=1e-2,
        save_total_limit=3,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    saved = AutoModelForCausalLM.from_pretrained(best, dtype=torch.float32).state_dict()
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, saved[name]), name


def test_without_a_router_bias_there_is_nothing_to_balance(tmp_path):
    from tiny import tiny_model

    args = ShapedConfig(str(tmp_path), router_bias_rate=0.001, use_cpu=True)
    with pytest.raises(ValueError, match="no router bias"):
        ShapedTrainer(
            tiny_model(), args, train_dataset=text_rows(4), processing_class=tiny_tokenizer()
        )
