"""Checks once per model that the shaped loss, as cross-entropy, is the model's own loss.

The check takes two small forwards. The first runs the model as it is on a few tokens, to see what
its head computes. In the second, a stand-in for the head returns known numbers, so that the check
can read off exactly what the model does to its logits afterwards (a multiplier, a softcap, a padded
vocabulary) and what it makes of labels, whatever the names of these settings are. The second
forward also has another last token: if this changes the earlier hidden states, the model does not
predict the next token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from shaped_eval.errors import UserError
from shaped_kernels import ShapedLossOutput
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from shaped_trl.modeling.own_forward import OwnForward

TOKENS = 4
# The stand-in's logits at the last position: they tell a multiplier from a softcap, and show its
# bound.
_PROBES = (2.0**-10, -(2.0**-10), 1.0, -1.0, 8.0, -8.0, 64.0, 1e6)
_TARGETS = 8  # compared at each position, spread over the vocabulary
# The names under which transformers' mixtures of experts have the rate of their load-balancing
# loss.
_ROUTER_RATES = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
# Below any real logit. A model gives such a logit to a token outside its vocabulary.
_IMPOSSIBLE = -1e4


class Logits(NamedTuple):
    """What a model does to the logits of its head.

    Args:
        size: how many logits the head returns.
        tokens: how many of them, from the first on, belong to tokens; the rest is padding.
        scale: a multiplier of the logits.
        softcap: the bound c of c·tanh(z/c), applied after the multiplier, or None.
    """

    size: int
    tokens: int
    scale: float = 1.0
    softcap: float | None = None

    def of(self, head: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias ([V] or None) of `head`, without its padding.

        Raises:
            UserError: the vocabulary is padded and the head is sharded, so that only some processes
                have padding.
        """
        weight, bias = head.weight, getattr(head, "bias", None)
        if self.tokens == self.size:
            return weight, bias
        if isinstance(weight, DTensor):
            raise UserError(
                f"a head with {self.size - self.tokens} rows of padding is not supported under "
                "tensor "
                "parallelism: shard the model with FSDP"
            )
        return weight[: self.tokens], None if bias is None else bias[: self.tokens]


def can_check_now(model: PreTrainedModel) -> bool:
    """Whether this process can run the model alone: all its weights are here and undivided.

    With several processes the check waits for the first forward, which all of them reach together.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_world_size() > 1:
            return False
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return False
    on_cpu = any(p.device.type == "cpu" for p in model.parameters())
    if on_cpu and not {"eager", "sdpa"} >= {model.config.get_text_config()._attn_implementation}:
        return False
    return all(
        p.device.type != "meta" and not isinstance(p, DTensor) and not hasattr(p, "ds_id")
        for p in model.parameters()
    )


@torch.compiler.disable
def check_head(own: OwnForward, loss: Callable[..., ShapedLossOutput]) -> Logits:
    """Measure what the model does to its logits, and check that its own loss is cross-entropy.

    The model runs in evaluation mode without gradients. Afterwards its mode, its buffers and the
    random state are restored.

    Args:
        own: the model and its forward.
        loss: the loss that would be trained, `loss(model, logits=Logits, hidden=[B, T, D],
            targets=[B, T])`, with the metric "nll".

    Raises:
        UserError: the model's loss is another one, or the model needs more than text.
    """
    model = own.model
    if model.config.is_encoder_decoder:
        raise _refusal(
            model, "is an encoder-decoder, whose labels are not the next tokens of its input"
        )
    if model.get_output_embeddings() is model.get_input_embeddings():
        raise _refusal(model, "uses its input embedding as its head")
    with _undisturbed(model):
        try:
            first = _run(own, _plain_tokens(model))
            logits = _measure(own, first)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise _refusal(
                model, f"fails on {TOKENS} tokens of text ({type(error).__name__}: {error})"
            ) from error
        _compare(model, loss, logits, first)
    return logits


class _Forward(NamedTuple):
    """One forward of the model.

    Args:
        ids: token ids [1, T].
        hidden: hidden states before the head [1, T, D].
        logits: the model's logits [1, T, V].
        size: how many logits the head returns.
        eps: the spacing of numbers at 1 in the dtype of the computation.
    """

    ids: Tensor
    hidden: Tensor
    logits: Tensor
    size: int
    eps: float


def _run(own: OwnForward, ids: Tensor) -> _Forward:
    """Run the model as it is."""
    head, answers = own.model.get_output_embeddings(), []

    def answer(hidden: Tensor) -> Tensor:
        answers.append(head(hidden))
        return answers[0]

    outputs, hidden = own.to_head(answer, input_ids=ids, attention_mask=torch.ones_like(ids))
    if hidden.shape[:-1] != ids.shape:
        raise _refusal(own.model, "has more or fewer predictions than tokens")
    # Under autocast and FSDP, neither the hidden states nor the final logits need to have the dtype
    # of the computation.
    eps = max(torch.finfo(t.dtype).eps for t in (hidden, *answers))
    if hidden.is_cuda:
        eps = max(eps, 2.0**-11)  # matmuls on a GPU may round float32 to TF32
    return _Forward(ids, hidden, _whole(outputs.logits), answers[0].shape[-1], eps)


def router_rate(model: PreTrainedModel) -> float:
    """The factor of a mixture's load-balancing loss in the model's own loss.

    Raises:
        UserError: the model does not have it under any name that transformers uses.
    """
    places = (
        (place, name) for place in (model, model.config.get_text_config()) for name in _ROUTER_RATES
    )
    for place, name in places:
        if (rate := getattr(place, name, None)) is not None:
            return rate
    raise _refusal(model, "has a router loss whose rate is not among " + ", ".join(_ROUTER_RATES))


def _measure(own: OwnForward, first: _Forward) -> Logits:
    """Measure what the model does to known logits, and to labels."""
    model, hidden = own.model, first.hidden
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    # The same seed everywhere: under tensor parallelism all processes must return the same logits.
    generator = torch.Generator(hidden.device).manual_seed(0)
    z = torch.randn(1, TOKENS, first.size, generator=generator, dtype=dtype, device=hidden.device)
    z[0, -1] = z.new_tensor(_PROBES).repeat(-(-first.size // len(_PROBES)))[: first.size]
    ids, labels = first.ids.clone(), first.ids.clone()
    ids[0, -1] = ids[0, 0]
    labels[0, 2] = -100
    outputs, other_hidden = own.to_head(
        lambda _: z, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels
    )
    change = (other_hidden - hidden)[:, :-1].abs().max()
    if change > max(1e-4, 6 * first.eps) * hidden.abs().max():
        raise _refusal(
            model,
            "looks at the tokens that come after the one it predicts from (is_decoder=False?)",
        )
    out = _whole(outputs.logits).to(z.dtype)
    logits = _transform(model, z, out)
    labels, own_loss = labels[0].to(out.device), outputs.loss.to(out)
    expected, unshifted = (
        F.cross_entropy(*pair) for pair in ((out[0, :-1], labels[1:]), (out[0], labels))
    )
    if outputs.get("aux_loss") is not None:
        expected = expected + router_rate(model) * outputs.aux_loss.to(out)
    if torch.allclose(own_loss, unshifted, rtol=1e-5):
        raise _refusal(
            model,
            "takes labels for the tokens at their own positions: it is not trained on the "
            "next token",
        )
    if not torch.allclose(own_loss, expected, rtol=1e-5, atol=1e-5):
        raise _refusal(
            model, "has a loss of its own that is not the mean cross-entropy of the next tokens"
        )
    return logits


def _transform(model: PreTrainedModel, z: Tensor, out: Tensor) -> Logits:
    """The multiplier, softcap and vocabulary that turn `z` into `out`, both [1, T, V]."""
    size, tokens = z.shape[-1], out.shape[-1]
    impossible = (out < _IMPOSSIBLE).all(1)[0].nonzero()
    if impossible.numel():
        tokens = int(impossible[0])
    z, padding, out = z[..., :tokens], out[..., tokens:], out[..., :tokens]
    scale = (out[0, -1, 0] / z[0, -1, 0]).item()
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    expected, softcap = z * scale, None
    if not torch.allclose(out, expected, rtol=1e-5, atol=1e-6):
        softcap = out.max().item()
        expected = softcap * torch.tanh(expected / softcap)
    if (
        not torch.allclose(out, expected, rtol=1e-4, atol=1e-5)
        or not scale > 0
        or not (padding < _IMPOSSIBLE).all()
    ):
        raise _refusal(
            model, "does something to its logits that is neither a multiplier nor a softcap"
        )
    return Logits(size, tokens, scale, softcap)


def _compare(
    model: PreTrainedModel, loss: Callable[..., ShapedLossOutput], logits: Logits, first: _Forward
) -> None:
    """Compare the nll of several targets by the model's own logits and by the loss.

    Raises:
        UserError: they differ by more than rounding.
    """
    own = first.logits[0, :, : logits.tokens].double()
    targets = torch.linspace(0, logits.tokens - 1, _TARGETS, device=own.device).long()
    repeated = targets[:, None].expand(-1, TOKENS).to(first.hidden.device)
    nll = loss(
        model, logits=logits, hidden=first.hidden.expand(_TARGETS, -1, -1), targets=repeated
    ).nll
    assert nll is not None
    error = (nll.to(own.device) + own.log_softmax(-1).t()[targets]).abs().max()
    if not error <= 1e-4 + 8 * first.eps * own.abs().max():
        raise _refusal(
            model,
            f"does not compute its logits as hidden states times the weight of its head "
            f"(off by {error:.3g})",
        )


def _refusal(model: PreTrainedModel, what: str) -> UserError:
    return UserError(
        f"model={type(model).__name__} {what}, so that the shaped loss would train something else: "
        "take a model of shaped_trl/modeling/README.md, or call shaped_kernels.shaped_linear_loss "
        "on its hidden states"
    )


def _plain_tokens(model: PreTrainedModel) -> Tensor:
    """Token ids [1, TOKENS] without special tokens."""
    config, special = model.config.get_text_config(), set()
    for settings in (model.config, config):
        for name, value in settings.to_dict().items():
            if name.endswith(("_token_id", "_token_ids", "_token_index")):
                special |= {*value} if isinstance(value, list) else {value}
    plain = [i for i in range(config.vocab_size) if i not in special]
    return torch.tensor(
        [plain[len(plain) // 2 :][:TOKENS]], device=model.get_input_embeddings().weight.device
    )


def _whole(logits: Tensor) -> Tensor:
    return logits.full_tensor() if isinstance(logits, DTensor) else logits


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; restores mode, buffers and random state at the end."""
    training = {module: module.training for module in model.modules()}
    buffers = {module: {**module._buffers} for module in model.modules()}
    values = [(b, b.clone()) for b in model.buffers() if b.device.type != "meta"]
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    device_type = next(iter(devices)).type if devices else "cuda"
    try:
        with torch.no_grad(), torch.random.fork_rng([*devices], device_type=device_type):
            for module in training:
                module.training = False
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
            module._buffers.clear()
            module._buffers.update(buffers[module])
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
