"""Models with another loss are refused, and the check leaves no trace in the other models."""

import copy
import random

import pytest
import torch
from causal_models import tiny_causal_lm, tiny_config
from shaped_eval.errors import UserError
from shaped_kernels import RewardShape
from tiny import tiny_model
from transformers import (
    BartForConditionalGeneration,
    BertForMaskedLM,
    BertLMHeadModel,
    GitForCausalLM,
    MusicgenForCausalLM,
    Qwen3ForCausalLM,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from shaped_trl.modeling import shape_lm_head

V = 63


class Altered(Qwen3ForCausalLM):
    """Qwen3 that changes its logits or its loss after the head."""

    def change(self, logits):
        return logits

    def penalty(self, logits):
        return 0

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        logits = self.change(super().forward(input_ids, attention_mask, **kwargs).logits)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1]) + self.penalty(
                logits
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def altered(**methods) -> Altered:
    model = tiny_model()
    model.__class__ = type(
        "Altered", (Altered,), {name: staticmethod(method) for name, method in methods.items()}
    )
    return model


class ScaledHead(torch.nn.Linear):
    """A head that multiplies with something else than its weight."""

    def forward(self, hidden):
        return super().forward(hidden) * torch.linspace(0.5, 2, self.out_features)


def with_scaled_head() -> Qwen3ForCausalLM:
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.__class__ = ScaledHead
    return model


def bidirectional(model_class):
    config = tiny_config(model_class.config_class)
    config.is_decoder = False
    return model_class(config)


NEITHER = "neither a multiplier nor a softcap"
REFUSED = {
    "a masked language model": (lambda: bidirectional(BertForMaskedLM), "come after"),
    "attention to both sides": (lambda: bidirectional(BertLMHeadModel), "come after"),
    "an encoder-decoder": (lambda: tiny_causal_lm(BartForConditionalGeneration), "encoder-decoder"),
    "another encoder-decoder": (
        lambda: tiny_causal_lm(T5ForConditionalGeneration),
        "encoder-decoder",
    ),
    "several heads": (lambda: tiny_causal_lm(MusicgenForCausalLM), "no single output embedding"),
    "images before the text": (lambda: tiny_causal_lm(GitForCausalLM), "fails on 4 tokens of text"),
    "an offset": (lambda: altered(change=lambda z: z + torch.arange(V)), NEITHER),
    "another bound": (lambda: altered(change=lambda z: 2 * torch.atan(z)), NEITHER),
    "a multiplier by token": (
        lambda: altered(change=lambda z: z * torch.linspace(0.5, 2, V)),
        NEITHER,
    ),
    "softmax": (lambda: altered(change=lambda z: z.softmax(-1)), NEITHER),
    "tokens out of order": (lambda: altered(change=lambda z: z.flip(-1)), NEITHER),
    "a negative multiplier": (lambda: altered(change=lambda z: -z), NEITHER),
    "a z-loss": (
        lambda: altered(penalty=lambda z: 1e-4 * z[:, :3].logsumexp(-1).pow(2).mean()),
        "a loss of its own",
    ),
    "a head that is not linear": (with_scaled_head, "times the weight of its head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_objective_is_refused(name):
    make, reason = REFUSED[name]
    model = make()
    with pytest.raises(UserError, match=reason) as caught:
        shape_lm_head(model)
    assert f"model={type(model).__name__}" in str(caught.value)
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("change", "scale", "softcap", "tokens"),
    [
        (lambda z: z, 1.0, None, V),
        (lambda z: z / 3, 1 / 3, None, V),
        (lambda z: 5 * torch.tanh(2 * z / 5), 2.0, 5.0, V),
        (lambda z: z[..., :50], 1.0, None, 50),
        (lambda z: z.masked_fill(torch.arange(V) >= 50, torch.finfo(z.dtype).min), 1.0, None, 50),
    ],
)
def test_what_happens_to_the_logits_is_measured_whatever_it_is_called(
    change, scale, softcap, tokens
):
    model = altered(change=change)
    ids = torch.arange(3, 12)[None]
    expected = model(ids, labels=ids).loss
    expected.backward()
    gradient, model.model.embed_tokens.weight.grad = model.model.embed_tokens.weight.grad, None
    head = shape_lm_head(model)
    assert head.logits == (V, tokens, pytest.approx(scale), softcap)
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, gradient)


class Counting(torch.nn.Module):
    """Counts its calls, keeps its last input, replaces a buffer, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, hidden):
        self.calls += 1
        self.last = hidden.detach()
        torch.rand(3)
        return hidden


def test_the_check_leaves_no_trace():
    model = tiny_model(attention_dropout=0.5)
    model.model.norm = torch.nn.Sequential(model.model.norm, Counting(), torch.nn.Dropout())
    counting = model.model.norm[1]
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    random_state, python_state = torch.get_rng_state(), random.getstate()
    head = shape_lm_head(model)
    assert head.logits is not None
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert random.getstate() == python_state
    assert counting.calls == 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == {
        n: id(b) for n, (b, _) in buffers.items()
    }
    for buffer, value in buffers.values():
        assert torch.equal(buffer, value)
    # Also if the check ends with an error.
    model = altered(change=lambda z: -z)
    model.train()
    random_state = torch.get_rng_state()
    with pytest.raises(UserError):
        shape_lm_head(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("autocast", [False, True])
def test_where_there_are_other_processes_the_first_call_with_labels_checks(monkeypatch, autocast):
    monkeypatch.setenv("WORLD_SIZE", "2")
    ids = torch.arange(3, 12)[None]
    model = altered(change=lambda z: z / 3).train()
    expected = model(ids, labels=ids).loss
    head = shape_lm_head(model)
    model(ids)
    assert head.logits is None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = model(ids, labels=ids).loss
    assert head.logits.scale == pytest.approx(1 / 3)
    torch.testing.assert_close(loss, expected, rtol=1e-2 if autocast else 1e-6, atol=0)
    assert model.training
    broken = altered(change=lambda z: -z)
    shape_lm_head(broken)
    for _ in range(2):
        with pytest.raises(UserError, match="neither a multiplier nor a softcap"):
            broken(ids, labels=ids)


def test_a_model_without_its_weights_is_checked_when_it_has_them():
    weights, ids = tiny_model().state_dict(), torch.arange(3, 12)[None]
    with torch.device("meta"):
        model = Qwen3ForCausalLM(tiny_model().config)
    head = shape_lm_head(model)
    assert head.logits is None
    model.to_empty(device="cpu")
    model.model.rotary_emb = tiny_model().model.rotary_emb
    model.load_state_dict(weights)
    torch.testing.assert_close(model(ids, labels=ids).loss, tiny_model()(ids, labels=ids).loss)
    assert head.logits is not None


def test_a_copy_computes_with_its_own_weights_and_a_second_call_takes_the_place_of_the_first():
    ids = torch.arange(3, 12)[None]
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=0.5))
    other = copy.deepcopy(model)
    expected = other(ids, labels=ids).loss.item()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    assert other(ids, labels=ids).loss.item() == expected
    shape_lm_head(other)
    torch.testing.assert_close(other(ids, labels=ids).loss, tiny_model()(ids, labels=ids).loss)
