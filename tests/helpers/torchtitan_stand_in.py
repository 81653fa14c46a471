"""A stand-in for torchtitan 0.3 and spmd_types, and for how its trainer uses a loss."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import MutableMapping
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


class BaseLoss:
    @dataclass(kw_only=True, slots=True)
    class Config:
        def build(self, **runtime):
            return self._owner(config=replace(self), **runtime)

    def __init_subclass__(cls):
        if "Config" in cls.__dict__:
            cls.Config._owner = cls


class ChunkedLossWrapper(BaseLoss):
    def set_lm_head(self, lm_head):
        raise AssertionError("the loss takes the head itself")


def modules(backend: str = "spmd_types") -> dict[str, types.ModuleType]:
    """Modules by name for `sys.modules`, without tensor parallelism."""
    contents = {
        "torchtitan": {},
        "torchtitan.components": {},
        "torchtitan.components.loss": {
            "IGNORE_INDEX": -100,
            "BaseLoss": BaseLoss,
            "ChunkedLossWrapper": ChunkedLossWrapper,
        },
        "torchtitan.distributed": {},
        "torchtitan.distributed.utils": {"get_spmd_backend": lambda: backend},
        "torchtitan.distributed.spmd_types": {
            "current_spmd_mesh": lambda: None,
            "spmd_mesh_size": lambda axis: 1,
        },
        "spmd_types": {"no_typecheck": contextlib.nullcontext, "is_type_checking": lambda: False},
    }
    made = {name: types.ModuleType(name) for name in contents}
    for name, module in made.items():
        vars(module).update(contents[name])
    return made


def import_adapter(table: MutableMapping) -> types.ModuleType:
    """`shaped_kernels.torchtitan`, newly imported with the torchtitan in `sys.modules`."""
    table.pop("shaped_kernels.torchtitan", None)
    return importlib.import_module("shaped_kernels.torchtitan")


class Decoder(nn.Module):
    """Embedding, norm and head, with the attribute that leaves the head to the loss."""

    _skip_lm_head = False

    def __init__(self, vocabulary: int = 31, width: int = 8, bias: bool = False):
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocabulary, width)
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=bias)

    def forward(self, tokens):
        hidden = self.norm(self.tok_embeddings(tokens))
        return hidden if self._skip_lm_head else self.lm_head(hidden)


def give_head(model, loss_fn, wrapper: type) -> None:
    """Prepare the model as torchtitan's trainer does after parallelising it."""
    assert isinstance(loss_fn, wrapper)
    loss_fn.set_lm_head(model.lm_head)
    model._skip_lm_head = True


def batch(rows: int = 4):
    torch.manual_seed(1)
    inputs, labels = torch.randint(0, 31, (2, rows, 6))
    labels[0, :4] = -100
    return inputs, labels


def fsdp_step(config: dict) -> dict:
    """One step of `Decoder` under FSDP2 as in torchtitan: whole gradients and summed losses."""
    sys.modules.update(modules())
    adapter = import_adapter(sys.modules)
    torch.manual_seed(0)
    model = Decoder().double()
    fully_shard(model.tok_embeddings)
    fully_shard(
        [model.norm, model.lm_head], reshard_after_forward=config.pop("reshard_after_forward")
    )
    fully_shard(model)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    loss_fn = adapter.ShapedLoss.Config(**config).build(compile_config=None)
    give_head(model, loss_fn, ChunkedLossWrapper)
    inputs, labels = batch()
    valid = (labels != -100).sum()
    inputs, labels = (x.chunk(dist.get_world_size())[dist.get_rank()] for x in (inputs, labels))
    with torch.no_grad():
        validation, _ = loss_fn(model(inputs), labels)
    assert isinstance(model.lm_head.weight, DTensor), (
        "the head stays gathered after a validation step"
    )
    training, _ = loss_fn(model(inputs), labels, valid)
    training.backward()
    losses = torch.stack((training.detach(), validation / valid))
    dist.all_reduce(losses)
    return {"losses": losses} | {name: p.grad.full_tensor() for name, p in model.named_parameters()}
