"""How a trainer starts TRL's vLLM, with stand-ins; `test_vllm_colocated.py` starts vLLM itself."""

from __future__ import annotations

import socket

import pytest
import torch
from rlvr_tiny import even_length, rlvr_arguments, scripted_prompts
from shaped_eval.errors import UserError
from tiny import tiny_model, tiny_tokenizer
from trl.generation import vllm_client, vllm_generation

from shaped_trl.rlvr import RLVRTrainer


class Engine:
    """Seeds the process with its number, as vLLM's does where it runs in the trainer's process."""

    made: list[dict] = []

    def __init__(self, model, seed, dtype="auto", **options) -> None:
        self.made.append({"dtype": dtype, **options})
        if options["max_model_len"] == 10**6:
            raise ValueError("max_model_len (1000000) is greater than\nthe derived max_model_len")
        torch.manual_seed(seed)


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    for module in (vllm_generation, vllm_client):
        monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    monkeypatch.setattr(Engine, "made", [])
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))  # TRL sets them; they are put back afterwards
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    tiny_model(dtype=getattr(request, "param", torch.float32)).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def trainer(folder, **changes) -> RLVRTrainer:
    return RLVRTrainer(
        str(folder / "model"),
        even_length,
        rlvr_arguments(folder / "out", use_vllm=True, **changes),
        train_dataset=scripted_prompts(),
        processing_class=tiny_tokenizer(),
    )


def noise(folder, seed: int) -> list[float]:
    """What the process draws next, once a trainer with `seed` is built."""
    trainer(folder, seed=seed)
    return torch.rand(4).tolist()


def test_each_seed_has_noise_of_its_own_after_the_engine_started(folder):
    first = noise(folder, 1)
    assert noise(folder, 2) != first
    assert noise(folder, 1) == first
    torch.manual_seed(0)
    assert torch.rand(4).tolist() != first, "the engine's own seed"


@pytest.mark.parametrize("folder", [torch.float32, torch.bfloat16], indirect=True)
def test_the_engine_has_the_dtype_of_the_checkpoint(folder):
    expected = str(tiny_dtype(folder)).removeprefix("torch.")
    trainer(folder)
    assert [made["dtype"] for made in Engine.made] == [expected]
    assert vllm_generation.LLM is Engine


def tiny_dtype(folder) -> torch.dtype:
    from safetensors.torch import load_file

    [dtype] = {one.dtype for one in load_file(folder / "model" / "model.safetensors").values()}
    return dtype


def test_an_engine_that_does_not_start_is_one_line_with_the_option(folder):
    with pytest.raises(UserError, match=r"use a smaller --vllm_max_model_length$") as caught:
        trainer(folder, vllm_max_model_length=10**6)
    assert "\n" not in str(caught.value)
    assert vllm_generation.LLM is Engine


def test_a_server_that_does_not_answer_is_one_line(folder):
    with socket.socket() as probe:  # bound, and nobody listens
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"no vLLM answers at {url} within .*=0 s: start `vllm"
        ):
            trainer(folder, vllm_mode="server", vllm_server_base_url=url, vllm_server_timeout=0.0)
