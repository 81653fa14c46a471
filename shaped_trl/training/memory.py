"""Memory of a training step on one device, estimated from the configuration alone.

This estimates the tensors, not what an allocator reserves: add at least a tenth. Notation:
sequences of T tokens, L layers, width D, attention width A = heads × head size, K = key-value heads
× head size, feed-forward width F, vocabulary V.

- Weights, gradients and AdamW's two moments: 4 numbers per parameter in the model's dtype. With
  adapters, only the weights of the frozen model are counted.
- DDP's buckets: a second copy of the gradients.
- A copy of the weights in half precision under autocast. If the model is sharded (FSDP2, ZeRO-3),
  only two layers, the embedding and the head are gathered at a time.
- What the forward keeps for the backward: in each layer 6D + 4A + 8K + 4F numbers per token, and
  four times the head size for the rotation (tests count them on the model itself). In a mixture,
  each chosen expert takes 2D + 4F instead of 4F, and the router D. Under autocast with float32
  weights, the residual stream, the norms and the rotation stay in float32: 26D + 11A + 10K + 8F
  bytes. With gradient checkpointing, D numbers per token and layer, and one layer in full.
- A mask of T × T bytes per sequence, unless flash attention takes the lengths of the documents.
- The loss: the gradient of the head in float32, that of the hidden states, and one chunk of logits.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from shaped_trl.modeling.architectures import is_mixture, parameter_counts

LOGITS_CHUNK = 640 * 2**20  # bytes of one chunk of logits on a GPU


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device."""

    states: float
    copies: float
    activations: float
    mask: float
    loss: float

    @property
    def total(self) -> float:
        return self.states + self.copies + self.activations + self.mask + self.loss


def layer_numbers(config: PreTrainedConfig) -> int:
    """How many numbers per token the forward of one layer keeps for its backward."""
    D, F = config.hidden_size, config.intermediate_size
    head_size = getattr(config, "head_dim", None) or D // config.num_attention_heads
    kept = (
        6 * D
        + 4 * config.num_attention_heads * head_size
        + 8 * config.num_key_value_heads * head_size
    )
    kept += 4 * head_size
    return kept + (
        D + config.num_experts_per_tok * (2 * D + 4 * F) if is_mixture(config) else 4 * F
    )


def layer_bytes(config: PreTrainedConfig, compute_bytes: int, mixed: bool) -> int:
    """Bytes per token that the forward of one layer keeps for its backward.

    `mixed` means half precision under autocast with float32 weights.
    """
    if not mixed:
        return compute_bytes * layer_numbers(config)
    D, F = config.hidden_size, config.intermediate_size
    head_size = getattr(config, "head_dim", None) or D // config.num_attention_heads
    kept = (
        26 * D
        + 11 * config.num_attention_heads * head_size
        + 10 * config.num_key_value_heads * head_size
    )
    return kept + (
        2 * (D + config.num_experts_per_tok * (2 * D + 4 * F)) if is_mixture(config) else 8 * F
    )


def step_memory(
    config: PreTrainedConfig,
    *,
    sequences: int,
    length: int,
    devices: int = 1,
    sharded: bool = False,
    weight_bytes: int = 4,
    autocast: bool = True,
    checkpointing: bool = True,
    adapters: bool = False,
    flash: bool = False,
) -> StepMemory:
    """Estimate the memory of a decoder with attention and feed-forward layers, AdamW, our loss.

    Args:
        sequences: number of sequences in a micro-batch on this device.
        length: tokens per sequence.
        devices: number of devices; a `sharded` model is divided among them.
        sharded: the model is divided (FSDP2, ZeRO-3), not replicated (DDP).
        weight_bytes: size of a weight, a gradient and a moment.
        autocast: the model computes in half precision with such weights.
        checkpointing: gradient checkpointing is on.
        adapters: only adapters are trained, and the model itself is frozen.
        flash: attention takes the lengths of the documents instead of a mask.
    """
    counts = parameter_counts(config)
    D, L, V = config.hidden_size, config.num_hidden_layers, config.vocab_size
    tokens = sequences * length
    compute_bytes = 2 if autocast else weight_bytes
    embeddings = V * D * (1 if config.tie_word_embeddings else 2)
    gathered = counts.total if not sharded else embeddings + 2 * (counts.total - embeddings) // L
    copied = autocast and weight_bytes > 2
    mixed = copied and not sharded  # a sharded model is cast as a whole
    layer = layer_bytes(config, compute_bytes, mixed)
    kept = layer + (4 if mixed else compute_bytes) * D * L if checkpointing else layer * L
    buckets = weight_bytes * counts.total if devices > 1 and not sharded and not adapters else 0
    return StepMemory(
        states=(1 if adapters else 4) * weight_bytes * counts.total / (devices if sharded else 1),
        copies=(compute_bytes * gathered if copied or sharded else 0) + buckets,
        activations=tokens * kept,
        mask=0 if flash else sequences * length**2,
        loss=(0 if adapters else 4 * V * D)
        + compute_bytes * (tokens * D)
        + min(LOGITS_CHUNK, compute_bytes * tokens * V),
    )
