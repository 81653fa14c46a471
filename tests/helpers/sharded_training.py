"""The runs of `test_sharded_training.py` in each of two processes: each engine, same rows."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from contextlib import nullcontext
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel, get_peft_model
from shaped_kernels import METRICS, RewardShape
from tiny import text_rows, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, Qwen3ForCausalLM
from transformers.distributed import DistributedConfig

from shaped_trl.modeling import shape_lm_head
from shaped_trl.modeling.lm_head import ShapedCausalLMOutput
from shaped_trl.training import ShapedConfig, ShapedTrainer

PROCESSES = 2
ROWS = 4  # rows of a micro-batch; a data-parallel process has half
# a shard has 32 of these tokens
REWARDS = {"beta": -0.25, "lambda_head": 0.1, "lambda_tail": -0.1, "top_k": 40}
SHAPE = RewardShape(**REWARDS)


def make_model(tied: bool) -> Qwen3ForCausalLM:
    """A float64 model with 63 tokens, in shards of 32 and 31."""
    return tiny_model(dtype=torch.float64, tie_word_embeddings=tied, num_key_value_heads=2)


def micro_batches(rank: int = 0, processes: int = 1) -> list[dict[str, Tensor]]:
    """Two micro-batches, or one process's part of them.

    In the second one, the last rows have no target.
    """
    generator = torch.Generator().manual_seed(1)
    batches = []
    for second in (False, True):
        ids = torch.randint(2, 63, (ROWS, 9), generator=generator)
        labels = ids.clone()
        labels[0, :5] = -100
        if second:
            labels[ROWS // 2 :] = -100
        part = slice(rank * ROWS // processes, (rank + 1) * ROWS // processes)
        weights = torch.randn(ROWS, 9, generator=generator)
        batch = {"input_ids": ids, "labels": labels, "loss_weights": weights}
        batches.append({name: value[part] for name, value in batch.items()})
    return batches


def items() -> int:
    """The targets of both micro-batches in all processes."""
    return sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches())


def train(
    model: nn.Module, batches: list[dict[str, Tensor]], scale: float = 1.0
) -> dict[str, Tensor]:
    """Loss, metrics per token and gathered gradients of accumulated micro-batches."""
    return summary(accumulate(model, batches, scale)) | gradients(model)


def accumulate(
    model: nn.Module, batches: list[dict[str, Tensor]], scale: float = 1.0
) -> list[ShapedCausalLMOutput]:
    """Forward and backward of each micro-batch.

    `scale` compensates for an average over processes with different rows.
    """
    outputs = []
    for batch in batches:
        last = batch is batches[-1]
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        waits = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if waits else nullcontext():
            outputs.append(model(**batch, num_items_in_batch=items()))
            (outputs[-1].loss * scale).backward()
    return outputs


def gradients(model: nn.Module) -> dict[str, Tensor]:
    trained = {
        name.removeprefix("module."): p.grad
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert None not in trained.values()
    return {f"gradient of {name}": gathered(gradient) for name, gradient in trained.items()}


def gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def summary(outputs: list[ShapedCausalLMOutput]) -> dict[str, Tensor]:
    """Loss, and metrics per token, of all micro-batches."""
    metrics = {name: torch.cat([output[name] for output in outputs]) for name in METRICS}
    return {"loss": torch.stack([output.loss.detach() for output in outputs]).sum()} | metrics


def by_data_parallel(model: nn.Module) -> dict[str, Tensor]:
    return whole(train(model, micro_batches(dist.get_rank(), PROCESSES), scale=PROCESSES))


def whole(result: dict[str, Tensor]) -> dict[str, Tensor]:
    """The result of all rows, from the results of the processes' halves."""
    for name in METRICS:
        parts = [torch.empty_like(result[name]) for _ in range(PROCESSES)]
        dist.all_gather(parts, result[name])
        halves = [part.chunk(2) for part in parts]  # of the micro-batches
        result[name] = torch.cat([half[i] for i in range(2) for half in halves])
    dist.all_reduce(result["loss"])
    return result


def shaped(model: PreTrainedModel, impl: str = "auto") -> PreTrainedModel:
    shape_lm_head(model, SHAPE, metrics=METRICS, impl=impl)
    return model


def ddp(tied: bool, folder: str) -> dict[str, Tensor]:
    return by_data_parallel(DistributedDataParallel(shaped(make_model(tied))))


def fsdp_head_in_root(tied: bool, folder: str) -> dict[str, Tensor]:
    model = shaped(make_model(tied))
    for layer in model.model.layers:
        fully_shard(layer)
    return by_data_parallel(fully_shard(model))


def fsdp_head_alone(tied: bool, folder: str) -> dict[str, Tensor]:
    model = shaped(make_model(tied))
    fully_shard([model.model.embed_tokens, model.lm_head] if tied else model.lm_head)
    return by_data_parallel(fully_shard(model))


def fsdp_of_transformers(tied: bool, folder: str) -> dict[str, Tensor]:
    return by_data_parallel(shaped(load(folder, tied, fsdp_size=2)))


def fsdp_modules_to_save(tied: bool, folder: str) -> dict[str, Tensor]:
    """The head is trained in full beside adapters; PEFT's policy shards the copy in its wrapper."""
    model = with_adapters(shaped(make_model(tied)))
    fully_shard(model.get_output_embeddings().modules_to_save["default"])
    return by_data_parallel(fully_shard(model))


def tp(tied: bool, folder: str) -> dict[str, Tensor]:
    model = shaped(load(folder, tied, tp_size=2))
    with patch.object(DTensor, "full_tensor", side_effect=AssertionError("the head was gathered")):
        outputs = accumulate(model, micro_batches())
    return summary(outputs) | gradients(model)


def tp_gathered(tied: bool, folder: str) -> dict[str, Tensor]:
    plan = {"lm_head": "rowwise_split_input", "model.embed_tokens": "embedding_colwise"}
    return train(shaped(load(folder, tied, tp_size=2, tp_plan=plan)), micro_batches())


def tp_reference(tied: bool, folder: str) -> dict[str, Tensor]:
    return train(shaped(load(folder, tied, tp_size=2), impl="reference"), micro_batches())


def tp_of_torch(tied: bool, folder: str) -> dict[str, Tensor]:
    model = shaped(make_model(tied))
    mesh = init_device_mesh("cpu", (PROCESSES,))
    parallelize_module(model, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})
    return train(model, micro_batches())


def zero3(tied: bool, folder: str) -> dict[str, Tensor]:
    """In float32: DeepSpeed has no float64."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    # DeepSpeed compiles this module, which is only for inference. (`deepspeed.comm.torch` as an
    # attribute is torch itself.)
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    model = shaped(make_model(tied).float())
    config = {
        "train_micro_batch_size_per_gpu": ROWS // PROCESSES,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    outputs = []
    for batch in micro_batches(dist.get_rank(), PROCESSES):
        assert all(parameter.numel() == 0 for parameter in model.parameters())
        outputs.append(engine(**batch, num_items_in_batch=items()))
        # DeepSpeed divides by the micro-batches and averages over processes.
        engine.backward(outputs[-1].loss * 2 * PROCESSES)
        reduced = {
            f"gradient of {name}": safe_get_full_grad(p) for name, p in model.named_parameters()
        }
        engine.step()
    return whole(summary(outputs) | reduced)


def trainer_fsdp(tied: bool, folder: str) -> dict[str, Tensor | float]:
    """`ShapedTrainer` on accelerate's FSDP2."""
    return by_trainer(make_model(tied), ROWS // PROCESSES, fsdp=True, fsdp_config={"version": 2})


def trainer_tp(tied: bool, folder: str) -> dict[str, Tensor | float]:
    return by_trainer(load(folder, tied, tp_size=2), ROWS, gradient_accumulation_steps=1)


def by_trainer(model: PreTrainedModel, per_device: int, **settings) -> dict[str, Tensor | float]:
    """Parameters after 3 steps, what was logged, and the metrics of an evaluation.

    A step has two micro-batches by default.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = ShapedConfig(
            folder,
            per_device_train_batch_size=per_device,
            per_device_eval_batch_size=per_device,
            max_steps=3,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            gradient_checkpointing=False,
            use_cpu=True,
            disable_tqdm=True,
            **{"gradient_accumulation_steps": 2} | REWARDS | settings,
        )
        if args.fsdp or is_tensor_parallel(model):
            # On CPUs accelerate silently leaves out FSDP, and refuses tensor parallelism.
            args.distributed_state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        rows = {"train_dataset": text_rows(24), "eval_dataset": text_rows(8, seed=1)}
        trainer = ShapedTrainer(model, args, processing_class=tiny_tokenizer(), **rows)
        trainer.train()
        assert isinstance(trainer.model_wrapped, FSDPModule) == bool(args.fsdp)
        evaluation = trainer.evaluate()
    names = (
        "loss",
        "grad_norm",
        "nll",
        "entropy",
        "target_prob",
        "head_mass",
        "tail_mass",
        "mean_token_accuracy",
    )
    steps = [row for row in trainer.state.log_history if "loss" in row]
    result = {f"{name} of step {row['step']}": row[name] for row in steps for name in names}
    result |= {f"eval_{name}": evaluation[f"eval_{name}"] for name in names if name != "grad_norm"}
    trained = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    return result | {name: gathered(parameter.detach()) for name, parameter in trained}


def is_tensor_parallel(model: PreTrainedModel) -> bool:
    return (model.tp_size or 1) > 1


def with_adapters(model: PreTrainedModel) -> PeftModel:
    torch.manual_seed(2)
    adapters = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False
    )
    return get_peft_model(model, adapters).double()


def load(folder: str, tied: bool, **settings) -> PreTrainedModel:
    path = f"{folder}/{'tied' if tied else 'untied'}"
    return Qwen3ForCausalLM.from_pretrained(path, distributed_config=DistributedConfig(**settings))


ENGINES = [
    ddp,
    fsdp_head_in_root,
    fsdp_head_alone,
    fsdp_of_transformers,
    fsdp_modules_to_save,
    tp,
    tp_gathered,
    tp_reference,
    tp_of_torch,
    zero3,
    trainer_fsdp,
    trainer_tp,
]
# Only the head, since torch's styles leave tied weights to the user. A copy is not tied.
UNTIED_ONLY = [tp_of_torch, fsdp_modules_to_save]
RUNS = [
    (engine.__name__, tied)
    for engine in ENGINES
    for tied in (False, True)
    if not (tied and engine in UNTIED_ONLY)
]


def main(folder: str) -> dict[tuple[str, bool], dict[str, Tensor | float]]:
    """All runs whose engines are installed."""
    results = {}
    for name, tied in RUNS:
        if name == "zero3" and importlib.util.find_spec("deepspeed") is None:
            continue
        # accelerate remembers the engine of the previous run
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        results[name, tied] = globals()[name](tied, folder)
    return results
