"""Is the shaped loss, as cross-entropy, a model's own loss? Found out by two small forwards, once
for a model.

The first runs the model as it is on a few tokens, and tells what its head computes. In the second a
stand-in for the head answers with numbers that are known, so that what the model does to its logits
afterwards (a multiplier, a softcap, a padded vocabulary) and what it makes of labels can be read
off exactly, whatever their names are. The second also has another last token: a model whose earlier
hidden states change is no next-token model.
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
# What the stand-in answers at the last position: enough to tell a multiplier from a softcap, and to
# see its bound.
_PROBES = (2.0**-10, -(2.0**-10), 1.0, -1.0, 8.0, -8.0, 64.0, 1e6)
_TARGETS = 8  # of each token, spread over the vocabulary
# Where transformers' mixtures of experts have the rate of their load-balancing loss.
_ROUTER_RATES = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
# Below what any logit is: the logit of a token that was taken out of the vocabulary.
_IMPOSSIBLE = -1e4


class Logits(NamedTuple):
    """What a model does to the logits of its head.

    Args:
        size: tokens that the head has a logit for.
        tokens: the first so many of them are possible, the rest pads the weight.
        scale: multiplier.
        softcap: bound of softcap·tanh(z/softcap) after the multiplier, or None.
    """

    size: int
    tokens: int
    scale: float = 1.0
    softcap: float | None = None

    def of(self, head: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] or None of `head` for the tokens that are possible.

        Raises:
            UserError: the vocabulary is padded and the head sharded, so that the padding lies in
                some processes only.
        """
        weight, bias = head.weight, getattr(head, "bias", None)
        if self.tokens == self.size:
            return weight, bias
        if isinstance(weight, DTensor):
            raise UserError(
                f"a head with {self.size - self.tokens} rows of padding is not supported under tensor parallelism: "
                "shard the model with FSDP"
            )
        return weight[: self.tokens], None if bias is None else bias[: self.tokens]


def can_check_now(model: PreTrainedModel) -> bool:
    """Whether the model could run here, by itself: all its weights are there, and no other process
    has a part of it.

    With several processes the check waits for the first forward: all of them reach that together.
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
    """Measure what the model does to its logits, and see that with it cross-entropy is the model's
    own loss.

    The model runs in evaluation mode without gradients. Its mode, its buffers and the random state
    are afterwards what they were.

    Args:
        own: the model and its forward.
        loss: what would be trained, `loss(model, logits=Logits, hidden=[B, T, D], targets=[B, T])`,
            with "nll".

    Raises:
        UserError: it is not, or the model cannot do with text alone.
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


class _Run(NamedTuple):
    """Token ids [1, T], hidden states [1, T, D], logits [1, T, V]; how many the head has; spacing
    of numbers at 1."""

    ids: Tensor
    hidden: Tensor
    logits: Tensor
    size: int
    eps: float


def _run(own: OwnForward, ids: Tensor) -> _Run:
    """The model as it is."""
    head, answers = own.model.get_output_embeddings(), []

    def answer(hidden: Tensor) -> Tensor:
        answers.append(head(hidden))
        return answers[0]

    outputs, hidden = own.to_head(answer, input_ids=ids, attention_mask=torch.ones_like(ids))
    if hidden.shape[:-1] != ids.shape:
        raise _refusal(own.model, "has more or fewer predictions than tokens")
    # Autocast and FSDP compute in another dtype than that of the hidden states or of the logits in
    # the end.
    eps = max(torch.finfo(t.dtype).eps for t in (hidden, *answers))
    if hidden.is_cuda:
        eps = max(eps, 2.0**-11)  # its matmuls may round float32 to TF32
    return _Run(ids, hidden, _whole(outputs.logits), answers[0].shape[-1], eps)


def router_rate(model: PreTrainedModel) -> float:
    """What the load-balancing loss of a mixture of experts is multiplied by in the model's own
    loss.

    Raises:
        UserError: it is not where transformers has it.
    """
    places = (
        (place, name) for place in (model, model.config.get_text_config()) for name in _ROUTER_RATES
    )
    for place, name in places:
        if (rate := getattr(place, name, None)) is not None:
            return rate
    raise _refusal(model, "has a router loss whose rate is not among " + ", ".join(_ROUTER_RATES))


def _measure(own: OwnForward, first: _Run) -> Logits:
    """What the model does to logits that are known, and to labels."""
    model, hidden = own.model, first.hidden
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    # under tensor parallelism all processes answer alike
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
            "takes labels for the tokens at their own positions: it is not trained on the next token",
        )
    if not torch.allclose(own_loss, expected, rtol=1e-5, atol=1e-5):
        raise _refusal(
            model, "has a loss of its own that is not the mean cross-entropy of the next tokens"
        )
    return logits


def _transform(model: PreTrainedModel, z: Tensor, out: Tensor) -> Logits:
    """The multiplier, softcap and vocabulary that make `out` [1, T, V] of `z`."""
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
    model: PreTrainedModel, loss: Callable[..., ShapedLossOutput], logits: Logits, first: _Run
) -> None:
    """The model's own logits with those that the loss makes of its hidden states, as the nll of
    several targets."""
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
            f"does not compute its logits as hidden states times the weight of its head (off by {error:.3g})",
        )


def _refusal(model: PreTrainedModel, what: str) -> UserError:
    return UserError(
        f"model={type(model).__name__} {what}, so that the shaped loss would train something else: take a model of "
        "shaped_trl/modeling/README.md, or call shaped_kernels.shaped_linear_loss on its hidden states"
    )


def _plain_tokens(model: PreTrainedModel) -> Tensor:
    """[1, TOKENS] token ids that stand for nothing special."""
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
    """Evaluation mode without gradients; mode, buffers and random state come back as they were."""
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
