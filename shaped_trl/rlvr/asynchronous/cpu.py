"""What TRL's asynchronous trainer needs on a machine without a GPU.

`AsyncGRPOTrainer` folds the completions of a micro-batch into a tree of shared prefixes and attends
along each path by FlashAttention 3, which needs a GPU. Here is the same attention in plain PyTorch,
with a mask. N packed tokens, H heads, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from trl.experimental.async_grpo import async_grpo_trainer
from trl.experimental.async_grpo.packing import TREE_ATTENTION


def tree_mask(
    kv_index: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """Bool [N, N]: which packed positions (columns) each position (row) sees.

    Args:
        kv_index: positions on the path from the root to each segment, its own included, one segment
            after the other.
        cu_seqlens_q, cu_seqlens_k: where segments begin among the positions, and paths in
            `kv_index`.
        window: number of positions that a sliding window shows; None for all.
    """
    N = int(cu_seqlens_q[-1])
    mask = torch.zeros(N, N, dtype=torch.bool, device=kv_index.device)
    starts, paths = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for begin, end, first, last in zip(starts[:-1], starts[1:], paths[:-1], paths[1:], strict=True):
        path = kv_index[first:last]
        length = last - first
        depth = torch.arange(length - (end - begin), length, device=mask.device).unsqueeze(1)
        along = torch.arange(length, device=mask.device).unsqueeze(0)
        seen = along <= depth
        if window is not None:
            seen &= along > depth - window
        mask[begin:end, path] = seen
    return mask


def dense_tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree_kv_index: torch.Tensor,
    tree_cu_seqlens_q: torch.Tensor,
    tree_cu_seqlens_k: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, as transformers calls it.

    Args:
        query: [1, H, N, D]; keys and values may have fewer heads.
        tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k: as in `tree_mask`.

    Returns:
        [1, N, H, D], and no weights.

    Raises:
        ValueError: the model caps its attention scores.
    """
    if softcap:
        raise ValueError(f"softcap={softcap} is not supported in asynchronous training on a CPU")
    mask = tree_mask(tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k, sliding_window)
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def without_gpu() -> Iterator[None]:
    """Let an AsyncGRPOTrainer be built on this machine, and attend by `dense_tree_attention`.

    On a machine with a GPU it changes nothing.
    """
    if torch.cuda.is_available():
        yield
        return
    # TRL asks CUDA for the name of the device, to log the share of its peak that is used. It skips
    # that where the peak is not known.
    asked = async_grpo_trainer.get_peak_flops_per_device
    async_grpo_trainer.get_peak_flops_per_device = lambda *args: None
    try:
        yield
    finally:
        async_grpo_trainer.get_peak_flops_per_device = asked
    # TRL registers its own attention when a trainer is built; the name is looked up at each call
    AttentionInterface.register(TREE_ATTENTION, dense_tree_attention)
