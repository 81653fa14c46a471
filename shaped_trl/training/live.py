"""The model in training as a backend of the evaluation suite, without side effects."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from shaped_eval.backends import TransformersBackend
from shaped_eval.backends.prompts import PromptEncoder
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# TRL's asynchronous trainer attends in this way, which takes packed rows alone
PACKED_ONLY = ("tree_fa3",)
_VALUES = 1024  # hashed at each end and in the middle of a parameter


class LiveBackend(TransformersBackend):
    """Samples from a model in memory, with the settings, seeds and stop strings of a saved one.

    Use it within `undisturbed(model)`, since it replaces the model's generation settings.
    """

    def __init__(
        self, config: SampleConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._config = config
        self._prompts = _LivePrompts(config, model, tokenizer)
        self._tokenizer = tokenizer
        self.__dict__["_model"] = model  # the parent would load it here from disk
        self.identity = weights_fingerprint(model)
        self.device = model.device.type
        self.dtype = str(model.dtype).removeprefix("torch.")
        if config.chat_template and not tokenizer.chat_template:
            raise UserError(
                "eval_benchmark_chat_template=True, but the tokenizer has no chat template: "
                "leave it out"
            )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which scoring by likelihood copies."""
        return self._tokenizer


class _LivePrompts(PromptEncoder):
    def __init__(
        self, config: SampleConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.model_config, self.tokenizer, self.chat_template = (
            model.config,
            tokenizer,
            config.chat_template,
        )


def base_model(model: nn.Module) -> PreTrainedModel:
    """The model that generates: for PEFT the base model, which contains the adapters.

    Raises:
        UserError: the adapter is of prompt learning, which exists only in PEFT's wrapper.
    """
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise UserError(
            "eval_benchmarks is not supported with prompt learning: leave it out, "
            "or train with LoRA"
        )
    return model.get_base_model()


def weights_fingerprint(model: nn.Module) -> str:
    """Hash names, shapes, dtypes and some values of every parameter, which any training changes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}\0{tuple(parameter.shape)}\0{parameter.dtype}\0".encode())
        flat = parameter.detach().reshape(-1)
        for start in sorted({0, len(flat) // 2, max(0, len(flat) - _VALUES)}):
            values = flat[start : start + _VALUES].cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return f"live-{digest.hexdigest()}"


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into evaluation mode with its cache on; restore everything afterwards.

    Restored are each module's mode, the settings of generation and cache, every buffer (some rotary
    embeddings adapt theirs to the length that they see), and the random states of Python, NumPy,
    torch and the model's device.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    settings = model.generation_config
    attention = model.config._attn_implementation
    use_cache = _config(model).use_cache
    states = random.getstate(), np.random.get_state()
    accelerator = None if model.device.type == "cpu" else model.device
    try:
        with torch.random.fork_rng(
            devices=[] if accelerator is None else [accelerator],
            device_type="cuda" if accelerator is None else accelerator.type,
        ):
            model.eval()
            _config(model).use_cache = True
            if attention in PACKED_ONLY:
                model.set_attn_implementation("sdpa")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        model.generation_config = settings
        if attention in PACKED_ONLY:
            model.set_attn_implementation(attention)
        _config(model).use_cache = use_cache
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in modes:
            module.training = training


def _config(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()
