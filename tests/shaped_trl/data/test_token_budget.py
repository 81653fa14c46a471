"""Token budgets: parsing, steps, refusals; tokens per second, MFU and time left in the log."""

from types import SimpleNamespace

import pytest
import torch
from shaped_eval.errors import UserError
from tiny import tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import MiniMaxM2Config, MiniMaxM2ForCausalLM

from shaped_trl.data.budget import budget_steps, parse_tokens
from shaped_trl.training import throughput
from shaped_trl.training.throughput import ThroughputCallback, flops_per_token


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("500B", 500 * 10**9),
        ("1.5b", 1_500_000_000),
        ("0.1T", 10**11),
        ("300K", 300_000),
        ("20M", 20_000_000),
        ("4096", 4096),
        (4096, 4096),
        ("1.0000000019B", 1_000_000_001),
    ],
)
def test_numbers(text, tokens):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "B", "-5M", "5G", "1e9", "5 M B", "1.B"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(UserError, match="train_tokens="):
        parse_tokens(text)


def test_steps_are_rounded_down():
    assert budget_steps("500B", 4096, 4096) == 29_802
    assert budget_steps("128", 2, 64) == 1
    assert budget_steps("255", 2, 64) == 1
    with pytest.raises(
        UserError,
        match=r"train_tokens=127 is less than one step of 128 tokens \(2 sequences of 64\)",
    ):
        budget_steps("127", 2, 64)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_that_torch_counts(tied):
    """Of forward and backward of a dense model: matrix products and attention, nothing else."""
    length = 48
    model = tiny_model(
        hidden_size=64,
        intermediate_size=192,
        head_dim=32,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 63, (2, length))).logits.sum().backward()
    assert flops_per_token(model, length) * 2 * length == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_only_active_experts_count():
    config = MiniMaxM2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_local_experts=8,
        num_experts_per_tok=2,
    )
    some = flops_per_token(MiniMaxM2ForCausalLM(config), 1)
    config.num_experts_per_tok = 8
    every = flops_per_token(MiniMaxM2ForCausalLM(config), 1)
    assert every - some == 6 * 2 * 6 * (3 * 32 * 16)  # layers × idle experts × their three matrices


def test_what_is_logged(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(throughput, "peak_flops", lambda: 1e6)
    model = tiny_model()
    args = SimpleNamespace(max_length=32, world_size=2)
    state = SimpleNamespace(num_input_tokens_seen=100, global_step=5, max_steps=20)
    callback = ThroughputCallback()
    callback.on_train_begin(args, state, None, model=model)  # 0 s
    callback.on_step_begin(args, state, None)
    state.global_step = 6
    callback.on_step_end(args, state, None)  # 1 s
    callback.on_log(args, state, None, logs={"eval_loss": 1.0})
    callback.on_evaluate(args, state, None)
    callback.on_step_begin(args, state, None)  # 2 s: the second of the evaluation does not count
    state.global_step, state.num_input_tokens_seen = 7, 280
    callback.on_step_end(args, state, None)  # 10 s
    logs = {"loss": 1.0}
    callback.on_log(args, state, None, logs=logs)  # 11 s
    assert logs["tokens_per_second"] == 180 / 10
    assert logs["remaining_runtime"] == 10 / 2 * 13
    assert logs["mfu"] == pytest.approx(flops_per_token(model, 32) * 18 / 2e6)
