"""Engine settings that would silently spoil a run."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from tiny import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from shaped_trl.training import ShapedConfig
from shaped_trl.training.engines import check_accumulation, keep_outputs_exact


def test_fsdp_rounds_parameters_but_not_the_loss():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy="bf16")
    # otherwise the test would check nothing
    assert plugin.mixed_precision_policy.output_dtype == torch.bfloat16
    keep_outputs_exact(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    assert plugin.mixed_precision_policy.output_dtype is None
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16


def test_without_fsdp_there_is_nothing_to_set():
    keep_outputs_exact(SimpleNamespace(state=SimpleNamespace()))
    keep_outputs_exact(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=None)))


def test_accumulation_is_refused_only_where_it_goes_wrong():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps=2 .*q_norm"):
        check_accumulation(model, 2, 2)
    check_accumulation(model, 1, 2)
    check_accumulation(model, 2, 1)
    check_accumulation(
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9)), 2, 2
    )


def test_an_implementation_that_cannot_run_is_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ValueError, match=r"loss_impl='fast' is unknown: choose from auto, .*triton"
    ):
        ShapedConfig(str(tmp_path), loss_impl="fast", use_cpu=True)
    with pytest.raises(ValueError, match="loss_impl='triton' needs a CUDA device, not 'cpu'"):
        ShapedConfig(str(tmp_path), loss_impl="triton", use_cpu=True)
