"""A step of torchtitan's Llama with `ShapedLoss`, parallelised by torchtitan on CPUs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
import torch.distributed as dist
from shaped_kernels import RewardShape, shaped_linear_loss
from shaped_kernels.torchtitan import ShapedLoss
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims, parallel_dims
from torchtitan.distributed.utils import get_spmd_context, set_spmd_backend
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3 import model_registry, parallelize_llama

SHAPE = RewardShape(beta=-0.25, lambda_head=0.05, lambda_tail=-0.1, top_k=20)
# (what is sharded, torchtitan's backend, tied weights)
CASES = [
    ("fsdp", "partial_dtensor", False),
    ("fsdp", "partial_dtensor", True),
    ("tp", "partial_dtensor", False),
    ("tp", "spmd_types", False),
]


def relative_errors() -> dict[str, dict[str, float]]:
    """For each case, the relative errors of losses and gradients against a single process."""
    torch.autograd.set_multithreading_enabled(False)  # as torchtitan does
    parallel_dims.device_type = "cpu"
    return {" ".join(map(str, case)): sharded_step(*case) for case in CASES}


def sharded_step(sharded: str, backend: str, tied: bool) -> dict[str, float]:
    set_spmd_backend(backend)
    size, rank = dist.get_world_size(), dist.get_rank()
    degrees = {"fsdp": "data_parallel_shard_degree", "tp": "tensor_parallel_degree"}
    parallelism = ParallelismConfig(
        **{name: size if key == sharded else 1 for key, name in degrees.items()},
        spmd_backend=backend,
    )
    model = build(parallelism, tied)
    torch.manual_seed(1)
    inputs, labels = torch.randint(0, 2048, (2, 4, 16))
    labels[0, :9] = -100
    valid = (labels != -100).sum()
    loss, gradients = whole_step(copy.deepcopy(model), inputs, labels)
    dims = ParallelDims.from_config(parallelism, size)
    dims.build_mesh()
    parallelize(model, dims, parallelism)
    loss_fn = ShapedLoss.Config(shape=SHAPE, impl="chunked").build(compile_config=CompileConfig())
    loss_fn.set_lm_head(model.lm_head)
    if sharded == "fsdp":
        inputs, labels = (x.chunk(size)[rank] for x in (inputs, labels))
    with get_spmd_context(parallel_dims=dims)():
        with torch.no_grad():  # a validation step has the sum
            validation, _ = loss_fn(model(inputs), labels)
        training, _ = loss_fn(model(inputs), labels, valid)
        training.backward()
    losses = torch.stack((training.detach(), validation / valid))
    if sharded == "fsdp":
        dist.all_reduce(losses)
    errors = {name: relative_error(p.grad, gradients[name]) for name, p in model.named_parameters()}
    assert errors.keys() == gradients.keys()
    return errors | {"loss": relative_error(losses, loss.expand(2).clone())}


def build(parallelism: ParallelismConfig, tied: bool):
    """A Llama of one layer with seeded weights and torchtitan's plan to shard it."""
    config = model_registry("debugmodel").model
    config.layers = config.layers[:1]
    # flex attention needs a compiler
    config.layers[0].attention.inner_attention = ScaledDotProductAttention.Config()
    config.enable_weight_tying = tied
    config.update_from_config(config=SimpleNamespace(parallelism=parallelism))
    torch.manual_seed(0)
    model = config.build()
    model.init_weights()
    model._skip_lm_head = True  # as the trainer does for this loss
    return model


def whole_step(model, inputs, labels):
    loss = shaped_linear_loss(
        model(inputs), model.lm_head.weight, labels, SHAPE, impl="reference"
    ).loss
    loss = loss / (labels != -100).sum()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def parallelize(model, dims: ParallelDims, parallelism: ParallelismConfig) -> None:
    if parallelism.spmd_backend == "spmd_types":
        model.parallelize(dims)  # without FSDP: that of torch 2.13 does not know this backend
        return
    training = TrainingConfig(mixed_precision_param="float32", mixed_precision_reduce="float32")
    parallelize_llama(
        model,
        parallel_dims=dims,
        training=training,
        parallelism=parallelism,
        compile_config=CompileConfig(),
        ac_config=None,
        dump_folder="",
    )
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def relative_error(value, expected) -> float:
    """The error of a whole tensor, or with "spmd_types" of a gradient's rows, columns or share."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    elif value.shape != expected.shape:
        dim = next(i for i, n in enumerate(value.shape) if n != expected.shape[i])
        expected = expected.chunk(dist.get_world_size(), dim)[dist.get_rank()]
    elif value.dim() == 1 and value.numel() > 2:
        dist.all_reduce(value)  # of a norm, which FSDP reduces
    return ((value - expected).norm() / expected.norm()).item()
