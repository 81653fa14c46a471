"""The shaped loss in torchtitan 0.3: set `ShapedLoss.Config` as the loss of a configuration.

    # my_run.py; start with: torchrun ... -m torchtitan.train --module my_run --config precision
    from shaped_kernels import RewardShape
    from shaped_kernels.torchtitan import ShapedLoss
    from torchtitan.models.llama3.config_registry import llama3_8b

    def precision():
        config = llama3_8b()
        config.loss = ShapedLoss.Config(shape=RewardShape(beta=-0.25, lambda_tail=-0.1))
        config.training.disable_cuda_graphs = True  # the host reads the number of valid targets
        return config

Every field is also a flag: `--loss.shape.beta -0.25`. Only this module needs torchtitan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import spmd_types as spmd
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss, ChunkedLossWrapper
from torchtitan.distributed.spmd_types import current_spmd_mesh, spmd_mesh_size
from torchtitan.distributed.utils import get_spmd_backend

from .function import shaped_linear_loss
from .shape import RewardShape


class ShapedLoss(ChunkedLossWrapper):
    """Reward-shaped next-token loss (arXiv 2512.22955) of the hidden states and `lm_head`.

    It is a `ChunkedLossWrapper` because torchtitan's trainer leaves `lm_head` out of the model's
    forward, and passes it to the loss, for this type only. Nothing else of that class is used:
    chunks and gradients are those of `shaped_linear_loss`. Normalisation is torchtitan's: the sum
    over this rank's targets, divided by the number of valid targets of the global batch if it is
    given. Validation reports the same loss, which does not compare runs with different shapes.

    Under FSDP2 the head is gathered for the loss; under tensor parallelism it stays sharded by
    vocabulary. Each of the two was tested alone; pipeline and context parallelism were not tested.

    Raises:
        ValueError: the head is not a plain linear layer, or the backend is "full_dtensor".
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        shape: RewardShape = field(default_factory=RewardShape)
        """The rewards; cross-entropy by default."""

        impl: str = "auto"
        """The implementation of `shaped_linear_loss`."""

    def __init__(self, config: Config, *, compile_config: Any = None):
        self.shape, self.impl = config.shape, config.impl
        self.lm_head: nn.Linear

    def set_lm_head(self, lm_head: nn.Linear) -> None:
        """Take the head from the trainer, before the first call."""
        if type(lm_head).forward is not nn.Linear.forward:
            raise ValueError(
                f"lm_head={type(lm_head).__name__} is not a plain linear layer: ShapedLoss reads "
                "its "
                "weight and would leave out what its forward adds (scaling, a softcap, "
                "quantisation); "
                "use a model with a plain head"
            )
        self.lm_head = lm_head

    def __call__(
        self,
        pred: Tensor,
        labels: Tensor,
        global_valid_tokens: Tensor | None = None,
        **loss_inputs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of hidden states `pred` [B, T, D] and shifted `labels` [B, T], and empty metrics."""
        if get_spmd_backend() == "full_dtensor":
            raise ValueError(
                "spmd_backend='full_dtensor' is not supported by ShapedLoss: use 'spmd_types'"
            )
        if isinstance(self.lm_head, FSDPModule):
            self.lm_head.unshard()  # its own forward, which would do this, is never called
        with spmd.no_typecheck():
            hidden, weight, bias = _on_one_vocabulary(pred, self.lm_head)
            loss = shaped_linear_loss(
                hidden,
                weight,
                labels,
                self.shape,
                bias=bias,
                ignore_index=IGNORE_INDEX,
                impl=self.impl,
            ).loss
            if global_valid_tokens is not None:
                loss = loss / global_valid_tokens
        if spmd.is_type_checking():
            spmd.assert_type(loss, {"dp": spmd.P, "cp": spmd.P, "tp": spmd.I})
        if isinstance(self.lm_head, FSDPModule) and not pred.requires_grad:
            self.lm_head.reshard()  # with a gradient, the backward does this
        return loss, {}


def _on_one_vocabulary(pred: Tensor, lm_head: nn.Linear) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states, weight and bias; DTensors if the head is sharded by tensor parallelism.

    Under "spmd_types" the shards are plain tensors, and the gradient of replicated hidden states is
    a partial sum over the ranks. `shaped_linear_loss` gives each rank the whole gradient, so the
    conversion lets only one rank pass it on.
    """
    weight: Tensor = lm_head.weight
    bias: Tensor | None = lm_head.bias
    if get_spmd_backend() != "spmd_types" or spmd_mesh_size("tp") == 1:
        return pred, weight, bias
    mesh = current_spmd_mesh()["tp"]
    pred = spmd.convert(pred, mesh.get_group(), src=spmd.R, dst=spmd.I, expert_mode=True)
    size = torch.Size((lm_head.out_features, lm_head.in_features))
    weight = DTensor.from_local(
        weight, mesh, [Shard(0)], run_check=False, shape=size, stride=(size[1], 1)
    )
    if bias is not None:
        bias = DTensor.from_local(
            bias, mesh, [Shard(0)], run_check=False, shape=size[:1], stride=(1,)
        )
    return pred, weight, bias
