"""Tiny models of every causal class of transformers, compared with their own loss.

python tests/helpers/causal_models.py > shaped_trl/modeling/README.md
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from shaped_eval.errors import UserError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.utils import logging

from shaped_trl.modeling import shape_lm_head

TOLERANCE = 1e-5
VOCABULARY = 64
# The sizes in a configuration are reduced to these numbers, by the first pattern that matches the
# whole name.
SMALLER = {
    r"\w*vocab_size\w*": VOCABULARY,
    r"(num_)?(hidden_|decoder_|encoder_)?layers?|n_layers?|num_blocks|depth": 2,
    r"hidden_size\w*|n_embd|d_model|dim_model|embedding_size|emb_dim|hidden_dim|\w*_hidden_size|embedding_dim": 32,
    r"\w*intermediate_size|\w*ffn_dim|d_inner|ffn_hidden_size|dim_ff|dff|d_ff|feed_forward_size|n_inner": 48,
    r"n_heads?|\w*attention_heads|num_heads|linear_num_\w*heads": 4,
    r"num_kv_heads|n_kv_heads|\w*num_key_value_heads": 2,
    r"\w*head_dim|dim_head|d_kv|d_head|kv_channels": 8,
    r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts": 4,
    r"num_experts_per_tok(en)?|top_k_experts|moe_topk|moe_k|moe_top_k": 2,
    r"num_expert_group|n_group|topk_group|first_k_dense_replace": 1,
    r"max_position_embeddings|n_positions|n_ctx|max_(target|source)_positions|max_seq_len|context_length": 64,
    r"\w*lora_rank|\w*lora_dim|\w*_rank": 8,
    r"sliding_window|attention_window_size|attention_chunk_size": 16,
    r"image_size": 16,
    r"patch_size": 8,
    r"encoder_hash_byte_group_vocab": 100,
    r"hidden_size_global": 32,
}
# Settings that act on the logits, which many configurations leave neutral.
TELLING = {
    r"logits_scaling|logit_scale|output_multiplier|lm_head_multiplier|logits_mup_width_multiplier": 3.0,
    r"\w*logits?_soft_?cap\w*": 2.0,
    r"unpadded_vocab_size": VOCABULARY - 5,
}
MLA = {
    "num_key_value_heads": 4,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
}
DECODER = {"is_decoder": True}
HEADS = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
GEMMA_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
DECODERS = (
    "bert bert-generation camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm "
    "roc_bert roformer xlm-roberta xlm-roberta-xl"
)
LATENT = "axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu"
# What a configuration needs in addition, by `model_type`.
CHANGES = {
    **dict.fromkeys(DECODERS.split(), DECODER),
    **dict.fromkeys(LATENT.split(), MLA),
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **dict.fromkeys(("bamba", "granitemoehybrid"), HEADS),
    **{name: {"rotary_dim": 4} for name in ("codegen", "gptj")},
    "bailing_hybrid": {
        "num_attention_heads": 4,
        "linear_num_heads": 4,
        "layer_group_size": 2,
        **MLA,
    },
    "big_bird": {"attention_type": "original_full", **DECODER},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, **MLA},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe"]},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": GEMMA_LAYERS,
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2, "expert_ffn_hidden_size": 16, **MLA, "qk_head_dim": 16},
    "mamba2": {"num_heads": 8, "state_size": 8},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 3,
        **DECODER,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX", **DECODER},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "mamba_headdim": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
}
# Left out, so that the configuration makes them for its number of layers.
DERIVED = re.compile(
    r"\w*layer_types|block_types|layers_block_type|hybrid_layer_ids|rope_parameters|mlp_only_layers"
)


def model_classes() -> dict[str, type[PreTrainedModel]]:
    """The classes of `AutoModelForCausalLM` by name."""
    groups = MODEL_FOR_CAUSAL_LM_MAPPING.values()
    classes = [
        c for group in groups for c in (group if isinstance(group, (list, tuple)) else [group])
    ]
    return {model_class.__name__: model_class for model_class in classes}


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The default configuration with small sizes, no dropout, and settings that act on logits."""
    default, given = config_class(), {}
    for name, value in default.to_dict().items():
        real = config_class.attribute_map.get(name, name)
        if isinstance(value, dict) and isinstance(getattr(default, name, None), PreTrainedConfig):
            given[name] = tiny_config(type(getattr(default, name)))
        elif (
            DERIVED.fullmatch(name)
            or isinstance(value, bool)
            or not isinstance(value, int | float | None)
        ):
            continue
        elif any(re.fullmatch(pattern, name) for pattern in TELLING):
            given[name] = next(
                new for pattern, new in TELLING.items() if re.fullmatch(pattern, name)
            )
        elif name.endswith(("_token_id", "_token_index")) and value is not None:
            given[name] = value if value < VOCABULARY - 4 else VOCABULARY - 4 + value % 4
        elif isinstance(value, float) and re.search("drop|jitter", name):
            given[name] = 0.0
        elif isinstance(value, int):
            small = next(
                (
                    new
                    for p, new in SMALLER.items()
                    if re.fullmatch(p, name) or re.fullmatch(p, real)
                ),
                value,
            )
            given[name] = min(small, value)
    return config_class(**given | CHANGES.get(config_class.model_type, {}))


def tiny_causal_lm(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A model in training mode whose logits are not all alike."""
    torch.manual_seed(0)
    model = model_class._from_config(tiny_config(model_class.config_class)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def batch(model: PreTrainedModel, router_logits: bool) -> dict[str, torch.Tensor | bool]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY - 10, (2, 9), generator=generator)
    labels = ids.clone()
    labels[0, :3] = -100
    asked = {"output_router_logits": True} if router_logits else {}
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "use_cache": False,
    } | asked


@dataclass
class Result:
    """For a class: "yes", "no" (refused) or "untested"; a remark; the largest errors."""

    served: str
    remark: str = ""
    loss_error: float = 0.0
    gradient_error: float = 0.0


def loss_and_gradients(
    model: PreTrainedModel, **inputs
) -> tuple[torch.Tensor, dict[str, torch.Tensor], bool]:
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), gradients, output.get("aux_loss") is not None


def compare(model_class: type[PreTrainedModel]) -> Result:
    """The errors of loss and gradients against the model's own, including router losses."""
    try:
        model = tiny_causal_lm(model_class)
        router_logits = hasattr(model.config.get_text_config(), "output_router_logits")
        inputs = batch(model, router_logits)
        own_loss, own_gradients, _ = loss_and_gradients(model, **inputs)
    except Exception as error:  # any error: the models have unusual sizes
        return Result("untested", type(error).__name__)
    try:
        logits = shape_lm_head(model).logits
    except UserError as error:
        return Result("no", re.sub(r"^model=\w+ |, so that .*|: take .*", "", str(error)))
    loss, gradients, has_aux_loss = loss_and_gradients(model, **inputs)
    assert own_gradients.keys() <= gradients.keys()
    error = max((gradients[name] - own).abs().max().item() for name, own in own_gradients.items())
    scale = max(1.0, *(own.abs().max().item() for own in own_gradients.values()))
    features = {
        "multiplier": logits.scale != 1,
        "softcap": logits.softcap is not None,
        "padded vocabulary": logits.tokens < logits.size,
        "router loss": has_aux_loss,
    }
    remark = ", ".join(name for name, has in features.items() if has)
    return Result("yes", remark, (loss - own_loss).abs().item(), error / scale)


def compare_all() -> dict[str, Result]:
    return {name: compare(model_class) for name, model_class in sorted(model_classes().items())}


def support_page(results: dict[str, Result]) -> str:
    """The text of `shaped_trl/modeling/README.md`."""
    rows = [f"| `{name}` | {result.served} | {result.remark} |" for name, result in results.items()]
    count = Counter(result.served for result in results.values())
    return f"""# Models that `shape_lm_head` serves

A test builds each of the {len(results)} classes of `AutoModelForCausalLM` (transformers {transformers_version}) tiny
from its configuration, with its softcap, multiplier and padded vocabulary switched on. Served means: with
`RewardShape()` the loss and all gradients are those of the model's own loss to {TOLERANCE:g}. {count["yes"]} are
served, {count["no"]} refused with the reason, and {count["untested"]} cannot be built so, or not run with text alone.

Another class works as well where the check passes that `shape_lm_head` makes of every model on a few tokens; where it
does not, the error says what differs. A padded vocabulary is not served under tensor parallelism.

This page is written by `python tests/helpers/causal_models.py`.

| class | served | |
|---|---|---|
""" + "\n".join([*rows, ""])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    print(support_page(compare_all()), end="")
