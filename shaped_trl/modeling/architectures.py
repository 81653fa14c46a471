"""The four models of arXiv 2512.22955 as plain transformers configurations.

Dense models are Qwen3. Mixtures of experts are MiniMax-M2: grouped-query attention, a sigmoid
router whose bias selects the experts without weighting them, no shared expert, no dense layer. The
paper gives neither head size nor vocabulary; `recipes/paper/README.md` says what was chosen and
why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

COMMON: dict[str, Any] = {
    "vocab_size": 151_936,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "bos_token_id": None,
    "eos_token_id": 151_643,  # <|endoftext|> of the Qwen3 tokenizer
}
DENSE = COMMON | {"model_type": "qwen3", "tie_word_embeddings": True}
MOE = COMMON | {
    "model_type": "minimax_m2",
    "tie_word_embeddings": False,
    "intermediate_size": 320,
    "num_local_experts": 384,
    "num_experts_per_tok": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "router_aux_loss_coef": 0.0,  # the router bias balances the load instead
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "1b": DENSE
    | {
        "num_hidden_layers": 28,
        "hidden_size": 1536,
        "intermediate_size": 4608,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "4b": DENSE
    | {
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "5b-a0.3b": MOE | {"num_hidden_layers": 12, "hidden_size": 1024},
    "10b-a0.5b": MOE | {"num_hidden_layers": 16, "hidden_size": 1536},
}


def paper_config(name: str, **changes) -> PreTrainedConfig:
    """The configuration of one of the paper's models: "1b", "4b", "5b-a0.3b" or "10b-a0.5b".

    Args:
        changes: fields of the configuration to replace, e.g. the vocabulary and special tokens.

    Raises:
        ValueError: there is no such model.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"architecture={name!r} is unknown: choose from {', '.join(ARCHITECTURES)}"
        )
    return AutoConfig.for_model(**ARCHITECTURES[name] | changes)


def scaled_down(config: PreTrainedConfig, **changes) -> PreTrainedConfig:
    """The same architecture, small enough for a test or a dry run on a laptop.

    It has 2 layers, width 64, heads of size 16, and one key-value head with as many queries as
    before. The feed-forward (of one expert in a mixture) keeps its ratio to the width, rounded up
    to a multiple of 8. A mixture has 16 experts, 2 of them active. Everything else, including the
    vocabulary, stays the same, except for `changes`.
    """
    settings = config.to_dict()
    settings.pop("layer_types", None)  # has one entry per layer; the configuration makes a new one
    width = 64
    ratio = config.intermediate_size / config.hidden_size
    settings |= {
        "num_hidden_layers": 2,
        "hidden_size": width,
        "head_dim": 16,
        "num_attention_heads": config.num_attention_heads // config.num_key_value_heads,
        "num_key_value_heads": 1,
        "intermediate_size": -int(-ratio * width // 8) * 8,
    }
    if is_mixture(config):
        settings |= {"num_local_experts": 16, "num_experts_per_tok": 2}
    return AutoConfig.for_model(**settings | changes)


def is_mixture(config: PreTrainedConfig) -> bool:
    return getattr(config, "num_local_experts", None) is not None


class ParameterCounts(NamedTuple):
    """Numbers of trained parameters. A router bias is a buffer and does not count.

    Args:
        total: all parameters; a tied head counts once.
        active: those that compute for one token, without embedding and head; of the experts, the
            chosen share.
        head: those of the output head, tied or not, which also computes for each token.
    """

    total: int
    active: int
    head: int


def parameter_counts(config: PreTrainedConfig) -> ParameterCounts:
    """Count the parameters of the model that transformers builds, without allocating memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    embeddings = {
        id(module.weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    total = active = 0
    for name, parameter in model.named_parameters():  # lists a tied parameter once
        total += parameter.numel()
        if id(parameter) in embeddings:
            continue
        active += parameter.numel()
        if ".experts." in name:
            active -= (
                parameter.numel()
                * (config.num_local_experts - config.num_experts_per_tok)
                // config.num_local_experts
            )
    return ParameterCounts(total, active, model.get_output_embeddings().weight.numel())


def saves_other_names(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` writes weights under other names than the model's own.

    It does so for fused experts, for example.

    The Trainer of transformers 5.23 then resumes with random weights and only a warning
    (transformers#48805). Use `load_saved_weights` instead.
    """
    return bool(get_model_conversion_mapping(model, add_legacy=False))


def load_saved_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Load what `save_pretrained` wrote to `folder` into `model`, bit by bit, with its buffers.

    Raises:
        ValueError: the checkpoint is of another architecture or size.
    """
    # With the model's own dtype `from_pretrained` would round a float32 router bias.
    dtype = torch.promote_types(model.dtype, torch.float32)
    saved, info = type(model).from_pretrained(
        folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in saved.state_dict().items()}
    if wrong or expected != found:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} is not a checkpoint of this "
            f"{type(model).__name__}: {wrong or ', '.join(differing[:3])}"
        )
    model.load_state_dict(saved.state_dict())
