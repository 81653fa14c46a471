"""The interface between a causal language model and the shaped loss.

`shape_lm_head` replaces `model.forward` on the instance. With labels, the new forward runs the
model's own forward with a stand-in for the output embedding. The stand-in records the hidden
states and returns logits for no position. `shaped_linear_loss` then takes these hidden states and
the head's weight, so that full logits are never built. Everything else that the model does, such as
transforms before the head, router losses and requested hidden states, stays its own. What the model
does to the logits after the head is measured once, by `head_check.py`. Without labels, the old
forward runs, so that generation does not change. The head is looked up at each call, since PEFT and
FSDP replace it after patching.

For the length of one call, the loss replaces the forward of the head, and the head is called like
any module. The hooks of FSDP and ZeRO therefore work as usual: they gather the weight before the
call, release it afterwards, and reduce its gradient over the ranks, which have different data. A
head that is sharded by tensor parallelism stays sharded: each rank computes with its part of the
vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from shaped_eval.errors import UserError
from shaped_kernels import METRICS, RewardShape, ShapedLossOutput, shaped_linear_loss
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from shaped_trl.modeling.head_check import Logits, can_check_now, check_head, router_rate
from shaped_trl.modeling.own_forward import OwnForward


@dataclass
class ShapedCausalLMOutput(ModelOutput):
    """What a shaped model returns when it is called with labels.

    Args:
        loss: scalar, what a Trainer minimises: the shaped loss over the valid targets divided by
            `num_items_in_batch` (by their number if it is not passed), plus the weighted
            load-balancing loss of a mixture of experts.
        shaped_loss: scalar, the shaped loss *summed* over the valid targets, and nothing else.
        nll, entropy, target_prob, head_mass, tail_mass, is_top1, target_rank, logsumexp: per
            token, in the shape of the targets, 0 where a target is ignored, detached, and not
            weighted; None unless named in `shape_lm_head(metrics=...)`.
        label_mask: bool, in the shape of the targets: the positions with a loss.
        aux_loss: the load-balancing loss without its weight, if router logits are requested.
        hidden_states, attentions, cross_attentions, router_logits: the model's own, if they are
            requested.
    """

    loss: Tensor | None = None
    shaped_loss: Tensor | None = None
    nll: Tensor | None = None
    entropy: Tensor | None = None
    target_prob: Tensor | None = None
    head_mass: Tensor | None = None
    tail_mass: Tensor | None = None
    is_top1: Tensor | None = None
    target_rank: Tensor | None = None
    logsumexp: Tensor | None = None
    label_mask: Tensor | None = None
    aux_loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Exact:
    """A tensor that keeps its dtype. FSDP2 rounds tensors among a model's inputs to its own."""

    tensor: Tensor


# Under `torch.compile` the model's own forward is compiled, and what is around it is not: it
# replaces modules and their forwards for the length of a call.
_not_compiled = functools.partial(torch.compiler.disable, recursive=False)

_OF_THE_MODEL = ("aux_loss", "hidden_states", "attentions", "cross_attentions", "router_logits")


@dataclass
class ShapedHead:
    """The settings that a patched forward reads at each call; they can be changed between steps.

    `logits` is what the model does to the logits of its head, as measured; None before it was
    measured.
    """

    shape: RewardShape
    metrics: tuple[str, ...] = ("nll",)
    impl: str = "auto"
    z_loss: float = 0.0
    logits: Logits | None = None


def shape_lm_head(
    model: PreTrainedModel,
    shape: RewardShape | None = None,
    *,
    metrics: tuple[str, ...] = ("nll",),
    impl: str = "auto",
    z_loss: float = 0.0,
) -> ShapedHead:
    """Make `model(input_ids, labels=labels)` return the shaped next-token loss.

    One line is enough for a plain `transformers.Trainer` or your own loop::

        shape_lm_head(model, RewardShape(beta=-0.25))

    Call it before the model is wrapped (PEFT, DDP, FSDP). Labels are shifted inside, as in
    transformers; `shift_labels` are taken as they are. With the default shape, the loss is the
    model's own. This is checked once on four tokens: at once, or at the first call with labels if
    there are several processes or the weights are not loaded yet. `model(..., loss_weights=w)`
    weighs the loss of each token; `w` has the shape of the labels, and is shifted where they are.
    The loss is still divided by the number of tokens. `shaped_trl/modeling/README.md`
    lists the architectures of transformers that a test covers.

    Args:
        model: a causal language model with an output embedding (`get_output_embeddings`).
        shape: the reward shape; None means cross-entropy.
        metrics: the per-token metrics to compute, from "nll", "entropy", "target_prob",
            "head_mass", "tail_mass", "is_top1", "target_rank", "logsumexp".
        impl: the implementation of `shaped_linear_loss`.
        z_loss: the weight of the squared logsumexp of the logits, as in `shaped_linear_loss`.

    Returns:
        The settings that the forward reads: `head.shape = ...` changes the shape of later calls.

    Raises:
        ValueError: a metric is unknown, or there is an adapter on the head.
        UserError: the model has no output embedding, or its own loss is not the cross-entropy of
            the next token under a linear head (masked and encoder-decoder models among them); or
            accelerate has prepared it after an earlier call.
    """
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"metrics={sorted(unknown)} are unknown: choose from {', '.join(METRICS)}")
    if not isinstance(getattr(model.get_output_embeddings(), "weight", None), Tensor):
        raise UserError(
            f"model={type(model).__name__} has no single output embedding: take a causal "
            "language model"
        )
    _refuse_adapter(model.get_output_embeddings())
    head = ShapedHead(shape or RewardShape(), tuple(metrics), impl, z_loss)
    if hasattr(vars(model).get("_original_forward"), "unshaped"):
        raise UserError(
            "model: accelerate has prepared it with a shape. To change that, set `shape` of what "
            "the first call of shape_lm_head returned; for another run load the model again"
        )
    original = model.forward
    # A function instead of a bound method, since a deep copy of the model must not run the original
    # model. If the model is already patched, take the function before that patch.
    function = getattr(original, "__func__", lambda _, **kwargs: original(**kwargs))
    function = getattr(function, "unshaped", function)
    loss_here = functools.partial(head_loss, head=ShapedHead(RewardShape(), ("nll",), impl))
    if can_check_now(model):
        head.logits = check_head(OwnForward(model, function), loss_here)

    # `generate` and the Trainer read the signature of the model's own forward.
    @functools.wraps(type(model).forward)
    @_not_compiled
    def shaped_forward(self, *args, **kwargs):
        own_forward = OwnForward(self, function)
        kwargs = own_forward.by_name(args, kwargs)
        given = {
            name: kwargs.pop(name, None)
            for name in ("labels", "shift_labels", "loss_weights", "num_items_in_batch")
        }
        if (given["labels"] is None and given["shift_labels"] is None) or kwargs.get(
            "fused_lm_head"
        ):
            return own_forward(
                **kwargs, **{name: value for name, value in given.items() if value is not None}
            )
        if isinstance(given["loss_weights"], Exact):
            given["loss_weights"] = given["loss_weights"].tensor
        if head.logits is None:
            head.logits = check_head(own_forward, loss_here)
        return _forward_with_loss(own_forward, head, head.logits, kwargs, **given)

    shaped_forward.unshaped = function  # type: ignore[attr-defined]
    shaped_forward.__signature__ = _with_weights(type(model).forward)  # type: ignore[attr-defined]
    model.forward = types.MethodType(shaped_forward, model)
    return head


def _with_weights(forward: Callable) -> inspect.Signature:
    """The signature with `loss_weights`, without which a Trainer would drop that column."""
    signature = inspect.signature(forward)
    weights = inspect.Parameter("loss_weights", inspect.Parameter.KEYWORD_ONLY, default=None)
    each = list(signature.parameters.values())
    end = len(each) - bool(each and each[-1].kind is inspect.Parameter.VAR_KEYWORD)
    return signature.replace(parameters=[*each[:end], weights, *each[end:]])


def unshape(model: PreTrainedModel) -> None:
    """Undo `shape_lm_head`, since TRL's trainers wrap the forward that they find.

    In a run with mixed precision, accelerate has put another forward around the patch, which goes
    too. The next run's accelerator adds one again, once the model does not count as prepared.
    """
    before = vars(model).get("_original_forward")
    if hasattr(before, "unshaped"):
        model.forward = vars(model).pop("_original_forward")
        vars(model).pop("_is_accelerate_prepared", None)
    function = getattr(model.forward, "unshaped", None)
    if function is not None:
        model.forward = types.MethodType(function, model)


@_not_compiled
def _forward_with_loss(
    own, head, logits, kwargs, labels, shift_labels, loss_weights, num_items_in_batch
):
    return_dict = kwargs.pop("return_dict", None)
    if return_dict is None:
        return_dict = own.model.config.return_dict
    outputs, hidden = own.to_head(
        lambda hidden: hidden.new_zeros(*hidden.shape[:-2], 0, logits.size), **kwargs
    )
    given = labels if shift_labels is None else shift_labels
    if loss_weights is not None and loss_weights.shape != given.shape:
        raise UserError(
            f"loss_weights of shape {tuple(loss_weights.shape)} do not fit the labels of shape "
            f"{tuple(given.shape)}; give a weight for each label"
        )
    targets = shift_labels
    if targets is None:
        hidden, targets = hidden[:, :-1], labels[:, 1:]
        loss_weights = None if loss_weights is None else loss_weights[:, 1:]
    if hidden.shape[:-1] != targets.shape:
        raise UserError(
            f"labels of shape {tuple(targets.shape)} do not fit the positions "
            f"{tuple(hidden.shape[:-1])} at which {type(own.model).__name__} predicts; give a "
            "label "
            "for each position, and leave logits_to_keep out"
        )
    targets = targets.to(hidden.device)  # the head's device, if the model is spread over several
    result = head_loss(own.model, head, logits, hidden, targets, loss_weights)
    mask = targets != -100
    items = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    loss = result.loss / (items.to(result.loss.device) if isinstance(items, Tensor) else items)
    of_the_model = {name: outputs.get(name) for name in _OF_THE_MODEL}
    if of_the_model["aux_loss"] is not None:
        loss = loss + router_rate(own.model) * of_the_model["aux_loss"].to(loss.device)
    per_token = {name: getattr(result, name) for name in head.metrics}
    output = ShapedCausalLMOutput(
        loss=loss, shaped_loss=result.loss, label_mask=mask, **per_token, **of_the_model
    )
    return output if return_dict else output.to_tuple()


@_not_compiled
def head_loss(
    model: PreTrainedModel,
    head: ShapedHead,
    logits: Logits,
    hidden: Tensor,
    targets: Tensor,
    loss_weights: Tensor | None = None,
) -> ShapedLossOutput:
    """The loss of `hidden` [B, T, D], the input of the output embedding, and `targets` [B, T].

    `loss_weights` [B, T] weigh the loss of each token.
    """
    lm_head = model.get_output_embeddings()
    _refuse_adapter(lm_head)
    # In PEFT's `modules_to_save` wrapper this is the copy that is trained, which FSDP may shard as
    # a group of its own.
    owner = next(
        (m for m in lm_head.modules() if m._parameters.get("weight") is lm_head.weight), lm_head
    )

    # The weights are not an argument, since FSDP may cast those to half precision.
    @torch.compiler.disable
    def compute(hidden, targets) -> dict[str, Tensor]:
        weight, bias = logits.of(owner)
        output = shaped_linear_loss(
            hidden.to(weight.device),
            weight,
            targets.to(weight.device),
            head.shape,
            bias=bias,
            logit_scale=logits.scale,
            softcap=logits.softcap,
            token_weights=loss_weights,
            z_loss=head.z_loss,
            metrics=head.metrics,
            impl=head.impl,
        )
        return {name: value for name, value in output._asdict().items() if value is not None}

    if isinstance(owner.weight, DTensor) and not any(
        isinstance(m, FSDPModule) for m in lm_head.modules()
    ):
        # Under tensor parallelism nothing has to be gathered, and torch's own hooks would treat the
        # result as logits.
        return ShapedLossOutput(**compute(hidden, targets))
    with _forward_replaced(owner, compute):
        return ShapedLossOutput(**lm_head(hidden, targets))


def _refuse_adapter(lm_head: nn.Module) -> None:
    if isinstance(lm_head, BaseTunerLayer | TrainableTokensWrapper):
        raise ValueError(
            "an adapter on the language-model head is not supported: the loss reads the head's "
            "weight directly and would never train the adapter; name the head in `modules_to_save` "
            "instead of `target_modules` or `trainable_token_indices`"
        )


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Let `module` run `forward`, then restore the forward of the class or of the instance.

    Tensor parallelism may have set a forward on the instance.
    """
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
