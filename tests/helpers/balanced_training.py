"""A tiny mixture whose router collapses, with loss-free balancing in one or more processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import Dataset
from tiny import WORDS, text_rows, tiny_tokenizer
from torch.distributed.fsdp import FSDPModule
from transformers import MiniMaxM2ForCausalLM, PreTrainedModel

from shaped_trl.modeling.architectures import (
    load_saved_weights,
    paper_config,
    saves_other_names,
    scaled_down,
)
from shaped_trl.modeling.balancing import LossFreeBalancing
from shaped_trl.training import ShapedConfig, ShapedTrainer

ROWS = 8  # rows of a global batch
EXPERTS = 8
# under FSDP2 torch cannot load an optimizer without a state, such as SGD
ADAMW = {"optim": "adamw_torch"}


def collapsed_model(
    spread: float = 0.1, dtype: torch.dtype = torch.float32, **changes
) -> MiniMaxM2ForCausalLM:
    """Send every token to experts 0 and 1, whose scores are about `spread` above the others.

    The embedding of every token, and so its hidden state, has a large first component, and so have
    two rows of the router's weight.
    """
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(WORDS) + 3,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "num_local_experts": EXPERTS,
    }
    settings |= {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 64,
    }
    config = scaled_down(paper_config("5b-a0.3b"), **settings | changes)
    config._experts_implementation = "eager"  # grouped_mm has no float64
    model = MiniMaxM2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.1
        for layer in model.model.layers:
            layer.mlp.gate.weight[:2, 0] += spread
    return model.to(dtype)


class Trainer(ShapedTrainer):
    """Resumes from `save_pretrained`'s files, whatever names they have."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled or not saves_other_names(self.model):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        return load_saved_weights(self.model, resume_from_checkpoint)


def trained(
    model: PreTrainedModel,
    folder: str | Path,
    balancing: LossFreeBalancing | None,
    per_device: int = ROWS,
    accumulation: int = 1,
    steps: int = 4,
    resume: str | None = None,
    eval_dataset: Dataset | None = None,
    **settings: Any,
) -> Trainer:
    """The trainer after `steps` optimizer steps."""
    args = ShapedConfig(
        str(folder),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        use_cpu=True,
        disable_tqdm=True,
        **{
            "optim": "sgd",
            "logging_steps": 1,
            "gradient_checkpointing": False,
            "save_strategy": "no",
        }
        | settings,
    )
    if args.fsdp:
        # otherwise there is no FSDP on CPUs
        args.distributed_state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = Trainer(
        model,
        args,
        train_dataset=text_rows(32),
        eval_dataset=eval_dataset,
        processing_class=tiny_tokenizer(),
        callbacks=[balancing] if balancing else [],
    )
    trainer.train(resume_from_checkpoint=resume)
    assert isinstance(trainer.model_wrapped, FSDPModule) == bool(args.fsdp)
    return trainer


def balanced_run(
    folder: str | Path,
    *sizes: int,
    rate: float = 0.01,
    model: PreTrainedModel | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Biases [L, E], weights and log after `trained`, and the counts [L, E] of each step."""
    model = collapsed_model(dtype=torch.float64) if model is None else model
    balancing = Counting(model, rate)
    trainer = trained(model, folder, balancing, *sizes, **settings)
    return {
        "biases": torch.stack([bias.detach().clone() for bias in balancing.biases()]),
        "weights": {} if trainer.is_fsdp_enabled else model.state_dict(),
        "counts": balancing.seen,
        "log": [row for row in trainer.state.log_history if "loss" in row],
    }


class Counting(LossFreeBalancing):
    """Remembers the counts of each step."""

    def __init__(self, model, rate):
        super().__init__(model, rate)
        self.seen: list[torch.Tensor] = []

    def on_optimizer_step(self, args, state, control, **kwargs):
        super().on_optimizer_step(args, state, control, **kwargs)
        self.seen.append(self.counts_LE.clone())


def ranks(folder: str) -> dict[str, dict[str, Any]]:
    """The runs of each process: DDP, with accumulation, and FSDP2 with a resume in the middle."""
    results = {
        "ddp": balanced_run(folder, ROWS // 2),
        "ddp accumulating": balanced_run(folder, 1, ROWS // 2),
    }
    for name, resume in (("fsdp", None), ("fsdp resumed", f"{folder}/fsdp/checkpoint-2")):
        # accelerate remembers the engine of the previous run
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        settings = {
            "fsdp": True,
            "fsdp_config": {"version": 2},
            "save_strategy": "steps",
            "save_steps": 2,
        } | ADAMW
        results[name] = balanced_run(f"{folder}/fsdp", ROWS // 2, resume=resume, **settings)
    return results
