"""Memory of a training step on one device, estimated from the configuration alone.

An estimate of tensors, not of what an allocator reserves: add a tenth or more. Sequences of T
tokens, L layers, width D, attention width A = heads × head size, K = key-value heads × head size,
feed-forward F, vocabulary V.

- weights, gradients and AdamW's two moments: 4 numbers a parameter in the model's dtype; of
  adapters nothing;
- DDP's buckets, a second copy of the gradients;
- a copy of the weights in half precision under autocast; where the model is sharded (FSDP2, ZeRO-3)
  of two layers, the embedding and the head only, gathered while they compute;
- what the forward keeps for the backward, in a layer 6D + 4A + 8K + 4F numbers a token and four of
  head size for the rotation (tests count them on the model itself); each chosen expert of a mixture
  2D + 4F in the place of 4F, and D for the router. Under autocast with float32 weights the residual
  stream, the norms and the rotation stay float32: 26D + 11A + 10K + 8F bytes. With gradient
  checkpointing D a token and layer, and one layer in full;
- a mask of T × T bytes a sequence, unless flash attention takes the documents' lengths;
- the loss: the head's gradient in float32, that of the hidden states, and one chunk of logits.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from shaped_trl.modeling.architectures import is_mixture, parameter_counts

LOGITS_CHUNK = 640 * 2**20  # of the loss on a GPU


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device, replicated (one process, DDP) or sharded (FSDP2, ZeRO-3)."""

    states: float
    copies: float
    activations: float
    mask: float
    loss: float

    @property
    def total(self) -> float:
        return self.states + self.copies + self.activations + self.mask + self.loss


def layer_numbers(config: PreTrainedConfig) -> int:
    """Numbers that the forward of one layer keeps for its backward, a token."""
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
    """Bytes that the forward of one layer keeps, a token; `mixed`: half precision beside float32
    weights."""
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
    """Estimate for a decoder of attention and feed-forward layers, AdamW and the fused loss.

    Args:
        sequences, length: of a micro-batch on this device.
        devices: among which a `sharded` model is divided.
        weight_bytes: of a weight, gradient and moment.
        autocast: computes in half precision beside such weights.
        adapters: the model itself is frozen.
        flash: attention takes the documents' lengths and no mask.
    """
    counts = parameter_counts(config)
    D, L, V = config.hidden_size, config.num_hidden_layers, config.vocab_size
    tokens = sequences * length
    compute_bytes = 2 if autocast else weight_bytes
    embeddings = V * D * (1 if config.tie_word_embeddings else 2)
    at_hand = counts.total if not sharded else embeddings + 2 * (counts.total - embeddings) // L
    copied = autocast and weight_bytes > 2
    mixed = copied and not sharded  # a sharded model is cast as a whole
    layer = layer_bytes(config, compute_bytes, mixed)
    kept = layer + (4 if mixed else compute_bytes) * D * L if checkpointing else layer * L
    buckets = weight_bytes * counts.total if devices > 1 and not sharded and not adapters else 0
    return StepMemory(
        states=(1 if adapters else 4) * weight_bytes * counts.total / (devices if sharded else 1),
        copies=(compute_bytes * at_hand if copied or sharded else 0) + buckets,
        activations=tokens * kept,
        mask=0 if flash else sequences * length**2,
        loss=(0 if adapters else 4 * V * D)
        + compute_bytes * (tokens * D)
        + min(LOGITS_CHUNK, compute_bytes * tokens * V),
    )
