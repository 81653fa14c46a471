"""The paper's four models: sizes, loading, the README's table, scaling down, weights as saved."""

import pytest
import torch
from places import ROOT
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from shaped_trl.modeling.architectures import (
    ARCHITECTURES,
    is_mixture,
    load_saved_weights,
    paper_config,
    parameter_counts,
    saves_other_names,
    scaled_down,
)

README = ROOT / "recipes" / "paper" / "README.md"
MIXTURES = ["5b-a0.3b", "10b-a0.5b"]
# layers, width, feed-forward, heads, KV heads, experts, active: as the paper gives them
PAPER = {
    "1b": (28, 1536, 4608, 16, 4, 1, 1),
    "4b": (36, 2560, 9728, 32, 8, 1, 1),
    "5b-a0.3b": (12, 1024, 320, 32, 4, 384, 12),
    "10b-a0.5b": (16, 1536, 320, 32, 4, 384, 12),
}
BIAS = "model.layers.0.mlp.e_score_correction_bias"


def by_hand(name: str, experts: int) -> int:
    """Parameters without embedding and head, with this number of experts per layer."""
    layers, width, feed_forward, heads, kv, of, _ = PAPER[name]
    attention = 128 * width * (2 * heads + 2 * kv)
    norms = 2 * width + (128 * (heads + kv) if of > 1 else 2 * 128)
    router = of * width if of > 1 else 0
    return layers * (attention + norms + router + experts * 3 * width * feed_forward) + width


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_of_the_name(name):
    config = paper_config(name)
    _, width, _, _, _, experts, active = PAPER[name]
    embedding = config.vocab_size * width
    counts = parameter_counts(config)
    assert counts.active == by_hand(name, active)
    assert counts.total == by_hand(name, experts) + embedding * (
        1 if config.tie_word_embeddings else 2
    )
    assert counts.head == embedding
    total, _, chosen = name.partition("-a")
    assert f"{counts.total / 1e9:.0f}b" == total
    assert not chosen or f"{counts.active / 1e9:.1f}b" == chosen


@pytest.mark.parametrize("name", MIXTURES)
def test_a_smaller_head_does_not_give_the_name(name):
    active = parameter_counts(paper_config(name, head_dim=64)).active
    assert f"{active / 1e9:.1f}b" != name.partition("-a")[2]


def test_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture='2b' is unknown: choose from 1b, 4b"):
        paper_config("2b")


def architecture_table() -> str:
    """The table of `recipes/paper/README.md`, in Markdown; parameters in billions."""
    rows = [
        "| model | architecture | layers | width | feed-forward | experts, active | heads, KV | "
        "head size | vocabulary | embedding tied | total | active | active with head |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for name in ARCHITECTURES:
        config = paper_config(name)
        counts = parameter_counts(config)
        experts = (
            f"{config.num_local_experts}, {config.num_experts_per_tok}"
            if is_mixture(config)
            else "–"
        )
        cells = [
            name,
            f"`{config.model_type}`",
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            experts,
            f"{config.num_attention_heads}, {config.num_key_value_heads}",
            config.head_dim,
            f"{config.vocab_size:,}",
            "yes" if config.tie_word_embeddings else "no",
            *(f"{n / 1e9:.3f}" for n in (counts.total, counts.active, counts.active + counts.head)),
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def test_the_readme_has_the_table():
    assert architecture_table() in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_configuration_is_loaded_as_it_is(name, tmp_path):
    paper_config(name).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() | {"_name_or_path": ""} == paper_config(name).to_dict()
    assert not hasattr(loaded, "auto_map")  # where remote code would be named


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scaled_down_is_the_same_architecture_and_runs(name):
    config = paper_config(name)
    small = scaled_down(config, vocab_size=100)
    assert type(small) is type(config)
    assert small.rope_parameters == config.rope_parameters
    assert small.tie_word_embeddings == config.tie_word_embeddings
    same = config.num_attention_heads // config.num_key_value_heads
    assert small.num_attention_heads // small.num_key_value_heads == same
    assert (
        0
        <= small.intermediate_size
        - small.hidden_size * config.intermediate_size / config.hidden_size
        < 8
    )
    assert small.intermediate_size % 8 == 0
    assert parameter_counts(small).total < 250_000
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small)
    logits = model(torch.arange(20).view(2, 10)).logits
    assert logits.shape == (2, 10, 100)
    assert logits.std() > 0.01


def small_mixture(seed: int, **changes):
    torch.manual_seed(seed)
    config = scaled_down(paper_config("5b-a0.3b"), vocab_size=100, num_local_experts=4, **changes)
    return AutoModelForCausalLM.from_config(config, dtype="bfloat16")


def test_saved_weights_come_back_bit_by_bit(tmp_path):
    """The router bias of a bfloat16 model stays in float32, which from_pretrained would round."""
    saved, model = small_mixture(0), small_mixture(1)
    for one in (saved, model):
        bias = one.get_buffer(BIAS)
        bias.data = bias.float()
    saved.get_buffer(BIAS).copy_(torch.tensor([0.301, -0.299, 0.3, 0.0]))
    saved.save_pretrained(tmp_path)
    assert saves_other_names(model)
    load_saved_weights(model, tmp_path)
    assert model.get_buffer(BIAS).dtype == torch.float32
    for (name, ours), theirs in zip(
        model.state_dict().items(), saved.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert not saves_other_names(tiny_model())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_model(vocab_size=100), "is not a checkpoint of this MiniMaxM2ForCausalLM"),
        (lambda: small_mixture(0, intermediate_size=32), "experts"),
        (lambda: small_mixture(0, num_hidden_layers=3), "layers.2"),
    ],
    ids=["dense", "wider experts", "more layers"],
)
@pytest.mark.filterwarnings("ignore:You are using a model of type:UserWarning")
def test_another_models_checkpoint_is_refused(other, message, tmp_path):
    other().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_saved_weights(small_mixture(1), tmp_path)
