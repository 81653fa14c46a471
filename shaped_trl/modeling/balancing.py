"""Loss-free balancing of a mixture of experts (Wang et al., 2024, arXiv 2408.15664).

The router has a bias that only selects the experts: it is added to the scores for the top-k, but
the weights of the selected experts come from the scores without it. After each optimizer step the
bias of every expert moves by a fixed rate, up if it got fewer tokens than the mean and down if it
got more. No loss is added.

Counts cover the global batch: all accumulated micro-batches of all processes. A forward counts if
the model is training, that is in training mode with gradients enabled when it enters the backbone.
Evaluation, generation and log-probabilities without gradients therefore do not count. Neither does
the second forward of gradient checkpointing, which runs during the backward, outside the backbone's
call. Padding (attention mask 0) does not count, so that the counts do not depend on how rows are
combined into micro-batches.

Dimensions: L layers with a router, E experts per layer, N tokens, K experts chosen for a token.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from shaped_eval.errors import UserError
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

# The attribute's name in transformers, on the router itself or on the block that has it as `gate`.
BIAS = "e_score_correction_bias"
LOGGED = ("max_violation", "max_violation_worst", "dead_experts", "dead_experts_worst")


class LossFreeBalancing(TrainerCallback):
    """Counts tokens per expert in training, and moves the router biases after each step.

    Give it to the trainer: `callbacks=[LossFreeBalancing(model)]`. The bias is a buffer of the
    model, saved with its weights, and the only state. Set `router_aux_loss_coef` to 0, so that no
    loss balances as well.

    It logs, with the training loss and as means over the steps since the last log, `max_violation`:
    the load of the most loaded expert divided by the mean load, minus 1, so that 0 is perfect
    balance; and `dead_experts`, the number of experts without a token in the whole batch. Both come
    as means over the layers and, with the suffix `_worst`, for the worst layer.

    Args:
        model: a causal language model of transformers, before an engine wraps it. Its routers must
            have the bias and return (logits, weights, indices of the chosen experts), as those of
            MiniMax-M2 and GLM-4-MoE do. Biases in half precision become float32, since they would
            round steps of `rate` away.
        rate: u, by which a bias moves in a step. The paper's 0.001 is for sigmoid scores in 0–1.

    Raises:
        ValueError: the model has adapters (a checkpoint of adapters contains no biases), or the
            rate is not positive.
        UserError: the model has no such router.
        RuntimeError: training begins, and an engine has put the biases into half precision.
    """

    def __init__(self, model: PreTrainedModel, rate: float = 0.001):
        if rate <= 0:
            raise ValueError(f"rate={rate} is not positive: the paper uses 0.001")
        if not isinstance(model, PreTrainedModel):
            raise ValueError(
                f"model={type(model).__name__} cannot be balanced: a transformers model without "
                "adapters is needed, since a checkpoint of adapters would not contain the router "
                "bias"
            )
        self.blocks = [
            module
            for module in model.modules()
            if isinstance(getattr(module, BIAS, None), torch.Tensor)
        ]
        if not self.blocks:
            raise UserError(
                f"router_bias_rate={rate}: {type(model).__name__} has no router bias ({BIAS}), so "
                "there is nothing to balance: leave it out"
            )
        self.rate = rate
        for bias in self.biases():
            bias.data = bias.data.to(torch.promote_types(bias.dtype, torch.float32))
        self.counts_LE = self._zeros()
        self._counting = False
        self._kept_N: torch.Tensor | None = None
        self._sums: torch.Tensor | None = None  # of LOGGED
        self._steps = 0
        model.base_model.register_forward_pre_hook(self._enter, with_kwargs=True)
        model.base_model.register_forward_hook(self._leave, always_call=True)
        for layer, block in enumerate(self.blocks):
            router: nn.Module = getattr(block, "gate", block)
            router.register_forward_hook(partial(self._count, layer))

    def biases(self) -> list[torch.Tensor]:
        """The bias of each layer, shape [E].

        They are looked up at each call, since FSDP replaces them.
        """
        return [getattr(block, BIAS) for block in self.blocks]

    def _zeros(self) -> torch.Tensor:
        biases = self.biases()
        return torch.zeros(
            len(biases), biases[0].numel(), dtype=torch.int64, device=biases[0].device
        )

    def _enter(self, backbone: nn.Module, args: tuple, kwargs: dict) -> None:
        self._counting = backbone.training and torch.is_grad_enabled()
        mask = kwargs.get("attention_mask")
        self._kept_N = None if mask is None else mask.reshape(-1)

    def _leave(self, *_) -> None:
        self._counting, self._kept_N = False, None

    def _count(self, layer: int, router: nn.Module, args: tuple, output: tuple) -> None:
        if not self._counting:
            return
        chosen_NK = output[2]
        kept_N = (
            torch.ones_like(chosen_NK[:, 0])
            if self._kept_N is None
            else self._kept_N.to(torch.int64)
        )
        self.counts_LE[layer].scatter_add_(
            0, chosen_NK.reshape(-1), kept_N.repeat_interleave(chosen_NK.shape[1])
        )

    def on_train_begin(self, args, state, control, **kwargs):
        low = {
            bias.dtype for bias in self.biases() if bias.dtype in (torch.bfloat16, torch.float16)
        }
        if low:
            raise RuntimeError(
                f"the router biases are in {low.pop()}, which rounds steps of {self.rate} away: "
                "train "
                "a float32 model with bf16=True (mixed precision) instead"
            )

    def on_step_begin(self, args, state, control, **kwargs):
        self.counts_LE = self._zeros()

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, **kwargs):
        counts_LE = self.counts_LE
        if args.world_size > 1:
            dist.all_reduce(counts_LE)
        total_L1 = counts_LE.sum(1, keepdim=True)
        # The load relative to the mean, multiplied by the total so that it stays an integer.
        relative_LE = counts_LE * counts_LE.shape[1]
        for bias, up_E in zip(self.biases(), torch.sign(total_L1 - relative_LE), strict=True):
            bias.add_(up_E.to(bias.dtype), alpha=self.rate)
        violation_L = (relative_LE.double() / total_L1).amax(1) - 1
        dead_L = (counts_LE == 0).sum(1).double()
        values = torch.stack([violation_L.mean(), violation_L.max(), dead_L.mean(), dead_L.max()])
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1

    def drain(self) -> dict[str, float]:
        """The means to log over the steps since the last call; empty if there were no steps."""
        if self._sums is None:
            return {}
        values = (self._sums / self._steps).tolist()
        self._sums, self._steps = None, 0
        return dict(zip(LOGGED, values, strict=True))

    def interval_state(self) -> list[float]:
        """The number of steps since the last `drain` and the sums over them, for a checkpoint."""
        return [] if self._sums is None else [self._steps, *self._sums.tolist()]

    def restore_interval(self, saved: list[float]) -> None:
        """Restore what `interval_state` returned."""
        if saved:
            self._steps = int(saved[0])
            self._sums = torch.tensor(
                saved[1:], dtype=torch.float64, device=self.biases()[0].device
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:  # a training log, not an evaluation
            metrics = self.drain()
            logs.update(metrics)
            state.log_history[-1].update(metrics)
