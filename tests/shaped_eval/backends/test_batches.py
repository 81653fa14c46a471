"""Batches of the transformers backend: padding, memory, and samples that do not depend on them."""

from __future__ import annotations

import json

import pytest
import torch
from causal_models import model_classes, tiny_causal_lm
from padded_models import together_and_alone
from shaped_eval.backends import Request, TransformersBackend, capacity, load_backend
from shaped_eval.backends.base import BatchLimits
from shaped_eval.backends.capacity import batch_limits, takes_padding
from shaped_eval.backends.rows import _chosen
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from transformers import (
    AutoConfig,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

# rotary, learned and relative positions, and a sliding window that the rows outgrow
PADDED = ("LlamaForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM", "Gemma3ForCausalLM")
EQUAL_LENGTHS = ("MambaForCausalLM", "RwkvForCausalLM", "BartForCausalLM", "XLMWithLMHeadModel")
# classes that cannot be made small here, or not without a package
NOT_MADE = (
    "Gemma3nForConditionalGeneration",
    "Gemma4AssistantForCausalLM",
    "Gemma4UnifiedAssistantForCausalLM",
)
PROMPTS = ("w1", "Question: w1 w2 Answer:", "w3 w4", "w9 w8 w7 w6 w5 w4 w3 w2 w1 w0")


def rows(folder) -> dict[tuple[str, int], Sample]:
    found = read_jsonl(folder / "samples.jsonl", Sample)
    return {(row.problem_id, row.sample_index): row for row in found}


def check_padding(name: str) -> bool:
    """Whether the class is padded; if so, a padded batch gives what its rows give alone."""
    model = tiny_causal_lm(model_classes()[name]).eval()
    if not takes_padding(model):
        return False
    together, alone = together_and_alone(model)
    assert together == alone, name
    if name in PADDED:
        assert len({tuple(tokens[:4]) for tokens in together}) > 3, "the test needs different rows"
    return True


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_row_gives_what_it_gives_alone(name):
    assert check_padding(name)


@pytest.mark.parametrize("name", EQUAL_LENGTHS)
def test_models_that_padding_would_change_are_not_padded(name):
    assert not check_padding(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_class_of_transformers_is_padded_rightly_or_not_at_all():
    padded = [name for name in model_classes() if name not in NOT_MADE and check_padding(name)]
    assert len(padded) > 60
    assert set(PADDED) <= set(padded)


def test_samples_do_not_depend_on_the_batch(make_config):
    """In float32: one sample at a time, three, all together, in any order, and other n."""
    config = {"n": 4, "max_new_tokens": 24, "dtype": "float32"}
    alone = rows(sample(make_config("alone", batch_size=1, **config)))
    assert len({row.completion for row in alone.values()}) > 10
    for name, changes in {
        "three": {"batch_size": 3},
        "auto": {"batch_size": "auto"},
        "fewer": {"batch_size": 5, "n": 2},
    }.items():
        assert rows(sample(make_config(name, **{**config, **changes}))).items() <= alone.items()
    lengths = {len(row.completion.split()) for row in alone.values()}
    assert len(lengths) > 3, "the test needs rows that leave the batch early"


def test_prompts_of_different_lengths_share_a_batch_and_each_is_processed_once(make_config):
    backend = load_backend(make_config(max_new_tokens=10))
    forward, shapes = backend.model.forward, []

    def spy(input_ids, *args, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids, *args, **kwargs)

    backend.model.forward = spy
    request = Request(PROMPTS, 6, 0, problem_seeds=tuple(range(len(PROMPTS))))
    together = backend.generate(request)
    backend.model.forward = forward
    assert len(together) == 24
    assert shapes[0] == (len(PROMPTS), 10), "four prompts, not twenty-four"
    counts = [rows for rows, _ in shapes[1:]]
    assert counts[0] <= 24
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0], "rows that have ended have left"
    for place, prompt in enumerate(PROMPTS):
        alone = backend.generate(Request((prompt,), 6, 0, problem_seeds=(place,)))
        assert together[6 * place : 6 * place + 6] == alone


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_rows_that_go_on_keep_their_cache(name):
    """transformers 5.24 gave the argument the second name."""
    cache = DynamicCache()
    keys = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 4)
    cache.update(keys, -keys, 0)
    state = _chosen({name: cache, "attention_mask": torch.eye(3)}, torch.tensor([2, 0]))
    assert state[name].layers[0].keys[:, 0, 0, 0].tolist() == [2.0, 0.0]
    assert state[name].layers[0].values[:, 0, 0, 0].tolist() == [-2.0, 0.0]
    assert state["attention_mask"].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_recurrent_model_runs_in_batches_of_equal_lengths(make_config, model_folder, tmp_path):
    folder = tmp_path / "mamba"
    torch.manual_seed(1)
    config = MambaConfig(
        vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2, eos_token_id=1,
        pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    MambaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model_folder / name).read_bytes())
    settings = {"model": str(folder), "n": 3}
    config = make_config("auto", batch_size="auto", **settings)
    assert not TransformersBackend(config).batch_limits().padded
    together = rows(sample(config))
    assert together == rows(sample(make_config("alone", batch_size=1, **settings)))
    assert len({row.completion for row in together.values()}) > 5


def test_the_memory_bounds_a_batch(monkeypatch):
    config = GPT2Config(vocab_size=100, n_embd=64, n_head=4, n_layer=2)
    weights = 4 * sum(each.numel() for each in GPT2LMHeadModel(config).parameters())
    per_token = 2 * 2 * 64 * 4  # keys and values of two layers, in float32

    def tokens(free, model=None, dtype="float32"):
        monkeypatch.setattr(capacity, "free_bytes", lambda device: free)
        limits = batch_limits(None, config, "cpu", dtype, model)
        assert (limits.rows, limits.padded) == (capacity.CPU_ROWS, True)
        return limits.tokens

    few, many = tokens(weights + 10**8), tokens(weights + 2 * 10**8)
    assert many - few == pytest.approx(0.25e8 / (1.5 * per_token), rel=1e-3)
    assert tokens(10**8 + weights, dtype="bfloat16") > 2 * few, "half the weights, half the cache"
    assert tokens(10**8, GPT2LMHeadModel(config)) == few, "weights in memory are not counted again"
    assert tokens(weights // 2) >= 1
    assert batch_limits(7, config, "cpu", "float32") == BatchLimits(7, padded=True)


def test_a_run_continues_with_the_batches_that_it_began_with(make_config, monkeypatch):
    config = make_config(batch_size="auto", n=3)
    folder = sample(config)
    whole, lines = rows(folder), (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["sampler"] == TransformersBackend.sampler == 2
    assert record["batches"]["rows"] == capacity.CPU_ROWS
    (folder / "samples.jsonl").write_text("".join(lines[:5]))
    monkeypatch.setattr(capacity, "free_bytes", lambda device: pytest.fail("it was looked up"))
    assert rows(sample(config)) == whole
    record["batches"]["rows"] = "many"
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"batches=.* cannot be read .*rows='many'"):
        sample(config)


def test_the_weights_of_a_folder_are_not_loaded_to_plan(make_config, model_folder):
    backend = TransformersBackend(make_config(batch_size="auto"))
    assert backend.batch_limits().padded
    assert "_model" not in vars(backend)
    assert AutoConfig.from_pretrained(model_folder).num_hidden_layers == 2
