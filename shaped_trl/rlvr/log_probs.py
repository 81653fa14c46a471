"""Log-probabilities on a CPU by `linear_log_probs`, where the vocabulary is large.

TRL's trainers call `model(..., fused_lm_head=True)`, which runs the backbone and then TRL's own
function of the head, in tiles. On a CPU `linear_log_probs` takes less time and memory for it
(`kernels/benchmarks/log_probs.csv`). Values and gradients differ by rounding alone. Smaller
vocabularies keep TRL's function, and are GRPOTrainer to the last bit. So does a GPU, on which
nothing was measured.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from shaped_kernels import linear_log_probs
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer

from shaped_trl.training.trl_names import add_fused_lm_head

LEAST_VOCABULARY = 49_152  # the smallest that was measured
_PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU)


class _LinearLogProbs:
    """Stands in for TRL's `ChunkedLogProbFunction`: the same arguments, in the same order."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        temperature: float,
        tile: int,
        softcap: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        found = linear_log_probs(
            hidden, weight, ids, temperature, bias=bias, logit_scale=logit_scale, softcap=softcap
        )
        return found.log_probs, found.entropies, None, None, None


def score_on_cpu(trainer: GRPOTrainer) -> None:
    """Let `trainer` compute log-probabilities with `linear_log_probs`, if that was measured.

    It was on a CPU and for large vocabularies. TRL's function stays under FSDP and DeepSpeed, and
    where the entropy needs a gradient or the head is cast to fp32.
    """
    accelerator = trainer.accelerator
    if accelerator.device.type != "cpu" or accelerator.distributed_type not in _PLAIN:
        return
    if trainer._entropy_bonus_enabled or trainer.args.cast_lm_head_to_fp32:
        return
    for model in (trainer.model, trainer.ref_model):
        if model is None:
            continue
        model = accelerator.unwrap_model(model)
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        if model.config.get_text_config().vocab_size >= LEAST_VOCABULARY:
            replace_head(model, trainer.temperature)


def replace_head(model: PreTrainedModel, temperature: float) -> None:
    """Patch the forward that TRL has patched: the same but for the function of the head.

    TRL's patch finds that function, and whether only labels that count are scored, among the
    globals of its module. It is run again with others in their place. (TRL scores every position
    where there is no Triton, since some devices compile for each number of positions.)
    """
    replaced: dict[str, Any] = {
        "_ChunkedLogProbFunction": _LinearLogProbs,
        "_use_triton": _only_what_counts,
    }
    patch = types.FunctionType(
        add_fused_lm_head.__code__,
        add_fused_lm_head.__globals__ | replaced,
        argdefs=add_fused_lm_head.__defaults__,
    )
    patch(model, temperature=temperature, outputs=("log_probs", "entropy"))


def _only_what_counts(device: torch.device) -> bool:
    return True
