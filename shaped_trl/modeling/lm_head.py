"""The one seam between a causal language model and the shaped loss.

`shape_lm_head` replaces `model.forward` on the instance. With labels, the new forward runs the backbone, then
`shaped_linear_loss` on the hidden states and the head's weight: logits are never built. Without labels it is the
old forward, so generation is unchanged. Backbone and head are looked up at each call because PEFT and FSDP replace
them after patching.

The loss takes the place of the head's own forward for the length of one call, and the head is called as the module
that it is. So the hooks of FSDP and ZeRO see what they always see: they gather the weight before, release it after,
and reduce its gradient over the ranks, which hold different data. A head that tensor parallelism shards stays
sharded: each rank computes with its part of the vocabulary.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from shaped_kernels import METRICS, RewardShape, ShapedLossOutput, shaped_linear_loss
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


@dataclass
class ShapedCausalLMOutput(ModelOutput):
    """What a shaped model returns when it is called with labels.

    Args:
        loss: scalar, the shaped loss over the valid targets divided by `num_items_in_batch` (by their number when
            not passed), plus the weighted load-balancing loss of a mixture of experts. What a Trainer minimises.
        shaped_loss: scalar, the shaped loss *summed* over valid targets; nothing added.
        nll, entropy, target_prob, head_mass, tail_mass, is_top1, target_rank: per token, shape of the targets, 0
            where ignored, detached; None unless asked for in `shape_lm_head(metrics=...)`.
        label_mask: bool, shape of the targets: which positions carry a loss.
        aux_loss: load-balancing loss, unweighted, where router logits are requested.
    """

    loss: torch.Tensor | None = None
    shaped_loss: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    target_prob: torch.Tensor | None = None
    head_mass: torch.Tensor | None = None
    tail_mass: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    target_rank: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None


@dataclass
class ShapedHead:
    """The settings a patched forward reads at each call: assign to them between steps."""

    shape: RewardShape
    metrics: tuple[str, ...] = ("nll",)
    impl: str = "auto"


def logit_scaling(config: Any) -> tuple[float, float | None]:
    """(multiplier, softcap) that a model's own forward applies to its logits, read from its text config."""
    if getattr(config, "logits_scaling", None) is not None:
        # Granite and MiniCPM3 divide by this field, HyperCLOVA X multiplies by it
        scaling = config.logits_scaling
        multiplier = scaling if config.model_type == "hyperclovax" else 1 / scaling
    else:
        names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
        multiplier = next((v for n in names if (v := getattr(config, n, None)) is not None), 1.0)
    return multiplier, getattr(config, "final_logit_softcapping", None)


def shape_lm_head(
    model: PreTrainedModel,
    shape: RewardShape | None = None,
    *,
    metrics: tuple[str, ...] = ("nll",),
    impl: str = "auto",
) -> ShapedHead:
    """Make `model(input_ids, labels=labels)` return the shaped next-token loss instead of cross-entropy.

    One line serves a plain `transformers.Trainer` or one's own loop::

        shape_lm_head(model, RewardShape(beta=-0.25))

    Call it before the model is wrapped (PEFT, DDP, FSDP). Labels are shifted inside, as transformers does;
    `shift_labels` are taken as they are.

    Args:
        model: a causal language model with an output embedding (`get_output_embeddings`).
        shape: the reward shape; None is cross-entropy.
        metrics: per-token fields to compute, of "nll", "entropy", "target_prob", "head_mass", "tail_mass",
            "is_top1", "target_rank".
        impl: implementation of `shaped_linear_loss`.

    Returns:
        The settings object that the forward reads: `head.shape = ...` changes the shape from the next call on.

    Raises:
        ValueError: the model has no output embedding, a metric is unknown, or an adapter sits on the head.
    """
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"metrics={sorted(unknown)} are unknown: choose from {', '.join(METRICS)}")
    if model.get_output_embeddings() is None:
        raise ValueError(f"model={type(model).__name__} has no output embedding: a causal language model is needed")
    _refuse_adapter(model.get_output_embeddings())
    head = ShapedHead(shape or RewardShape(), tuple(metrics), impl)
    original_forward = model.forward

    # wraps: `generate` and the Trainer read the model's own signature
    @functools.wraps(type(model).forward)
    def shaped_forward(self, *args, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if (labels is None and shift_labels is None) or kwargs.get("fused_lm_head"):
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            kwargs.update({name: value for name, value in given.items() if value is not None})
            return original_forward(*args, **kwargs)
        return _forward_with_loss(self, head, args, kwargs, labels, shift_labels, num_items_in_batch)

    model.forward = types.MethodType(shaped_forward, model)
    return head


def _forward_with_loss(model, head, args, kwargs, labels, shift_labels, num_items_in_batch):
    config = model.config.get_text_config()
    kwargs["use_cache"] = False  # with a cache, sdpa builds no block-diagonal mask for packed sequences
    if getattr(config, "output_router_logits", False):
        kwargs.setdefault("output_router_logits", True)
    outputs = model.base_model(*args, **kwargs)
    hidden, targets = outputs.last_hidden_state, shift_labels
    if targets is None:
        hidden, targets = hidden[:, :-1], labels[:, 1:]
    result = _head_loss(model, head, config, hidden, targets)
    mask = targets != -100
    items = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    loss, aux_loss = result.loss / items, None
    if kwargs.get("output_router_logits"):
        aux_loss = _load_balancing_loss(config, outputs.router_logits, kwargs.get("attention_mask"))
        loss = loss + getattr(config, "router_aux_loss_coef", 0.0) * aux_loss
    per_token = {name: getattr(result, name) for name in head.metrics}
    return ShapedCausalLMOutput(loss=loss, shaped_loss=result.loss, label_mask=mask, aux_loss=aux_loss, **per_token)


def _head_loss(model, head: ShapedHead, config, hidden, targets) -> ShapedLossOutput:
    lm_head = model.get_output_embeddings()
    _refuse_adapter(lm_head)
    logit_scale, softcap = logit_scaling(config)
    # In PEFT's `modules_to_save` wrapper, the copy that is trained: FSDP may shard it as a group of its own.
    owner = next((m for m in lm_head.modules() if m._parameters.get("weight") is lm_head.weight), lm_head)

    def compute(hidden, targets) -> dict[str, torch.Tensor]:
        output = shaped_linear_loss(
            hidden.to(owner.weight.device),
            owner.weight,
            targets.to(owner.weight.device),
            head.shape,
            bias=getattr(owner, "bias", None),
            logit_scale=logit_scale,
            softcap=softcap,
            metrics=head.metrics,
            impl=head.impl,
        )
        return {name: value for name, value in output._asdict().items() if value is not None}

    if isinstance(owner.weight, DTensor) and not any(isinstance(m, FSDPModule) for m in lm_head.modules()):
        # Tensor parallelism: nothing is to be gathered, and torch's own hooks would take the result for logits.
        return ShapedLossOutput(**compute(hidden, targets))
    with _forward_replaced(owner, compute):
        return ShapedLossOutput(**lm_head(hidden, targets))


def _refuse_adapter(lm_head: nn.Module) -> None:
    if isinstance(lm_head, BaseTunerLayer | TrainableTokensWrapper):
        raise ValueError(
            "an adapter on the language-model head is not supported: the loss reads the head's weight directly and "
            "would never train the adapter; name the head in `modules_to_save` instead of `target_modules` or "
            "`trainable_token_indices`"
        )


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """`module` runs `forward` within; tensor parallelism may have put one on the instance, which comes back."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _load_balancing_loss(config, router_logits, attention_mask):
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    return load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, attention_mask)
