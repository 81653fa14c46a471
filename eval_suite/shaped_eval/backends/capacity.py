"""How many samples a model can generate together here, and whether prompts are padded."""

from __future__ import annotations

from inspect import signature
from typing import Any

import psutil
import torch

from shaped_eval.backends.base import BatchLimits

# On a CPU the time of a step for each row hardly falls beyond this number of rows, and the samples
# of a batch are lost when it is killed.
CPU_ROWS = 64
ACCELERATOR_ROWS = 256
# Tokens of prompts that go through the model at once, which bounds the memory of activations.
PREFILL_TOKENS = 16_384
# Share of the free memory for a batch. A CPU's memory is shared with other programs.
CPU_SHARE = 0.25
ACCELERATOR_SHARE = 0.6
# Concatenation and attention hold copies of parts of the cache.
CACHE_COPIES = 1.5
# Model types that take positions and are not padded all the same: XLM adds a token of its own to
# what it generates, and the caches of the others do not follow the library's.
NOT_PADDED = ("xlm", "reformer", "hrm_text")
# Logits in float32, scaled and sorted.
LOGIT_BYTES = 16


def batch_limits(
    batch_size: int | None,
    model_config: Any,
    device: str,
    dtype: str | None,
    model: Any = None,
) -> BatchLimits:
    """The limits of batches of a model.

    Args:
        batch_size: a number of samples; None to find the limits from the free memory.
        model_config: the model's configuration.
        device: where it runs.
        dtype: of its weights, such as ``"bfloat16"``; None counts as float32.
        model: the model if its weights are in memory; else None.
    """
    skeleton = model if model is not None else _skeleton(model_config)
    padded = skeleton is not None and takes_padding(skeleton)
    if batch_size is not None:
        return BatchLimits(batch_size, padded=padded)
    item_bytes = getattr(torch, dtype or "float32").itemsize
    free = free_bytes(device)
    weights = 0
    if model is None and skeleton is not None:
        weights = item_bytes * sum(each.numel() for each in skeleton.parameters())
    # Quantized weights need less than is counted here, so a part of the memory is used in any case.
    left = max(free - weights, free // 10)
    rows, share = (
        (CPU_ROWS, CPU_SHARE) if device == "cpu" else (ACCELERATOR_ROWS, ACCELERATOR_SHARE)
    )
    text = model_config.get_text_config()
    for_cache = max(left * share - rows * text.vocab_size * LOGIT_BYTES, 0)
    tokens = int(for_cache / (CACHE_COPIES * cached_numbers(text) * item_bytes))
    return BatchLimits(rows, max(tokens, 1), PREFILL_TOKENS, padded)


def _skeleton(model_config: Any) -> Any:
    """The model without its weights; None if its class is code of the model's own repository."""
    from transformers import AutoModelForCausalLM

    if not _is_librarys(model_config):
        return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config)


def takes_padding(model: Any) -> bool:
    """Whether rows padded on the left give what they give alone, and can leave the batch.

    These are the models of transformers that take positions, and whose only state is a cache of
    keys and values. Models with a recurrent state, such as Mamba's and RWKV's, those that count
    positions themselves, such as BART's, and code of a model's own repository get batches of equal
    lengths.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    text_config = model.config.get_text_config()
    inputs = signature(type(model).forward).parameters.keys()
    if (
        not _is_librarys(model)
        or model.config.model_type in NOT_PADDED
        or getattr(model, "_is_stateful", False)
        or not {"attention_mask", "position_ids"} <= inputs
        or not hasattr(text_config, "num_hidden_layers")
    ):
        return False
    cache = DynamicCache(config=text_config)
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _is_librarys(part: Any) -> bool:
    return type(part).__module__.startswith("transformers.models.")


def cached_numbers(text_config: Any) -> int:
    """Number of keys and values that the cache holds for one token, or more than that."""
    heads = getattr(text_config, "num_attention_heads", 1)
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return 2 * text_config.num_hidden_layers * kv_heads * size


def free_bytes(device: str) -> int:
    """Free memory of `device` in bytes; the machine's for devices that share it."""
    kind = torch.device(device)
    if kind.type in ("cpu", "mps"):
        return int(psutil.virtual_memory().available)
    return int(torch.accelerator.get_memory_info(kind)[0])
