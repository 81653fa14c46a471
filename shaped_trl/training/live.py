"""The model in training as a backend of the evaluation suite, and left as if nobody had looked."""

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

_VALUES = 1024  # of each end and of the middle of a parameter, hashed


class LiveBackend(TransformersBackend):
    """Samples from a model in memory, with the settings, seeds and stop strings of a saved one.

    To be used within `undisturbed(model)`: it replaces the model's generation settings.
    """

    def __init__(
        self, config: SampleConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._config = config
        self._prompts = _LivePrompts(config, model, tokenizer)
        self._tokenizer = tokenizer
        self.__dict__["_model"] = model  # in place of what the parent would load
        self.identity = weights_fingerprint(model)
        self.device = model.device.type
        if config.chat_template and not tokenizer.chat_template:
            raise UserError(
                "eval_benchmark_chat_template=True, but the tokenizer has no chat template: leave it out"
            )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What scoring by likelihood takes a copy of."""
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
    """What generates: below PEFT's wrapper, the model with the adapters in it.

    Raises:
        UserError: a prompt-learning adapter, which lives in the wrapper.
    """
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise UserError(
            "eval_benchmarks is not supported with prompt learning: leave it out, or train with LoRA"
        )
    return model.get_base_model()


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of names, shapes, dtypes and a few values of every parameter: training changes all of
    them."""
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
    """Within, the model is in evaluation mode with its cache on; after, training goes on as if
    nothing had been.

    Put back: each module's mode, the settings of generation and cache, every buffer (some rotary
    embeddings move theirs with the length they see), and the random states of Python, NumPy, torch
    and the model's device.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    settings, use_cache = model.generation_config, _config(model).use_cache
    states = random.getstate(), np.random.get_state()
    accelerator = None if model.device.type == "cpu" else model.device
    try:
        with torch.random.fork_rng(
            devices=[] if accelerator is None else [accelerator],
            device_type="cuda" if accelerator is None else accelerator.type,
        ):
            model.eval()
            _config(model).use_cache = True
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        model.generation_config, _config(model).use_cache = settings, use_cache
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in modes:
            module.training = training


def _config(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()
